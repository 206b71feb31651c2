// npm oidc-provider on 127.0.0.1, for as long as its standard input is open: refresh tokens that rotate, access tokens
// as ES256 JWTs, DPoP with nonces, everything in memory.
// node oidc_provider.mjs MODULES JKT   prints one line of JSON when it is ready: its URL, and a refresh token for each
// of its two clients, the first of them bound to the device key with the thumbprint JKT.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { createServer } from "node:http";
import { randomBytes } from "node:crypto";

const require = createRequire(process.argv[2] + "/");
const resolve = (name) => import(pathToFileURL(require.resolve(name)));
const { Provider } = await resolve("oidc-provider");
const jose = await resolve("jose");

const { privateKey } = await jose.generateKeyPair("ES256", { extractable: true });
const key = { ...(await jose.exportJWK(privateKey)), kid: "1", use: "sig", alg: "ES256" };
const server = createServer({ keepAliveTimeout: 75_000 });
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
const resource = "https://api.example.com";

const client = (client_id) => ({
  client_id,
  application_type: "native",
  grant_types: ["authorization_code", "refresh_token"],
  token_endpoint_auth_method: "none",
  redirect_uris: ["com.example.app:/callback"],
  id_token_signed_response_alg: "ES256",
});
const provider = new Provider(issuer, {
  clients: [client("bound"), client("bearer")],
  jwks: { keys: [key] },
  scopes: ["offline_access", "keys"],
  cookies: { keys: ["only for a benchmark"] },
  rotateRefreshToken: true,
  features: {
    devInteractions: { enabled: false },
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({
        scope: "keys",
        audience: resource,
        accessTokenFormat: "jwt",
        accessTokenTTL: 900,
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
  ttl: { RefreshToken: 7 * 86400, Grant: 90 * 86400 },
  findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
});

const tokens = {};
for (const clientId of ["bound", "bearer"]) {
  const grant = new provider.Grant({ clientId, accountId: "ana" });
  grant.addOIDCScope("offline_access");
  grant.addResourceScope(resource, "keys");
  const token = new provider.RefreshToken({
    client: await provider.Client.find(clientId),
    accountId: "ana",
    grantId: await grant.save(),
    gty: "authorization_code",
    scope: "offline_access keys",
    resource,
  });
  if (clientId === "bound") token.jkt = process.argv[3];
  tokens[clientId] = await token.save();
}
server.on("request", provider.callback());
console.log(JSON.stringify({ url: issuer, tokens }));
process.stdin.on("end", () => process.exit()).resume();
