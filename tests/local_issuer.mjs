// A real OpenID Connect issuer (npm oidc-provider) on 127.0.0.1, for as long as its standard input is open:
// node local_issuer.mjs MODULES CLIENTS   prints its URL when it is ready; CLIENTS is JSON, {client id: algorithm of its ID tokens}
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { createServer } from "node:http";

const require = createRequire(process.argv[2] + "/");
const resolve = (name) => import(pathToFileURL(require.resolve(name)));
const { Provider } = await resolve("oidc-provider");
const jose = await resolve("jose");

const signingKey = async (alg) => {
  const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
  return { ...(await jose.exportJWK(privateKey)), kid: `key-for-${alg}`, use: "sig", alg };
};

const server = createServer();
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: Object.entries(JSON.parse(process.argv[3])).map(([client_id, alg]) => ({
    client_id,
    application_type: "native",
    token_endpoint_auth_method: "none",
    redirect_uris: ["com.example.app:/callback"],
    id_token_signed_response_alg: alg,
  })),
  jwks: { keys: await Promise.all(["RS256", "ES256", "EdDSA", "PS256"].map(signingKey)) },
  enabledJWA: { idTokenSigningAlgValues: ["RS256", "ES256", "EdDSA", "PS256", "HS256"] },
  cookies: { keys: ["only for a test"] },
  conformIdTokenClaims: false,
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({ sub, email: `${sub}@example.com`, email_verified: false, name: `The ${sub}` }),
  }),
});
server.on("request", provider.callback());
console.log(issuer);
process.stdin.on("end", () => process.exit()).resume();
