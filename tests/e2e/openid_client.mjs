// An openid-client that knows nothing of Keyferry but its client key, in two sessions of one device:
// node openid_client.mjs MODULES < {"issuer", "client_key", "device_key", "algorithm", "tokens": [one, another]}
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";
import assert from "node:assert/strict";

const require = createRequire(process.argv[2] + "/");
const resolve = (name) => import(pathToFileURL(require.resolve(name)));
const client = await resolve("openid-client");
const jose = await resolve("jose");
const input = JSON.parse(readFileSync(0, "utf8"));

const steps = [];
const requests = [];
const fetchWithClientKey = async (url, options) => {
  const headers = new Headers(options.headers);
  headers.set("x-api-key", input.client_key);
  const response = await fetch(url, { ...options, headers });
  requests.push({ path: new URL(url).pathname.split("_user_request_")[1], status: response.status });
  return response;
};

const { d, ...publicJwk } = input.device_key;
const keys = {
  privateKey: await jose.importJWK({ ...publicJwk, d }, "ES256", { extractable: false }),
  publicKey: await jose.importJWK(publicJwk, "ES256", { extractable: true }),
};

const config = await client.discovery(new URL(input.issuer), "ios", undefined, client.None(), {
  algorithm: input.algorithm,
  execute: [client.allowInsecureRequests],
  [client.customFetch]: fetchWithClientKey,
});
steps.push("discovery");
const DPoP = client.getDPoPHandle(config, keys);

const refusedWith = async (token, code) => {
  await assert.rejects(client.refreshTokenGrant(config, token, undefined, { DPoP }), (error) => {
    assert.equal(error.error, code);
    return true;
  });
};

const [honest, replayed] = input.tokens;
const first = await client.refreshTokenGrant(config, honest, undefined, { DPoP });
assert.equal(first.token_type, "dpop");
assert.notEqual(first.refresh_token, honest);
steps.push("refresh");

const keysUrl = new URL(input.issuer + "/v1/keys");
const delivered = await client.fetchProtectedResource(
  config, first.access_token, keysUrl, "GET", undefined, undefined, { DPoP },
);
assert.equal(delivered.status, 200);
assert.equal(delivered.headers.get("content-type"), "application/jose");
assert.equal((await delivered.text()).split(".").length, 5);
steps.push("fetch");

const second = await client.refreshTokenGrant(config, first.refresh_token, undefined, { DPoP });
steps.push("rotated refresh");

await client.tokenRevocation(config, second.refresh_token);
await refusedWith(second.refresh_token, "invalid_grant");
steps.push("revoked");
await client.tokenRevocation(config, second.refresh_token);
steps.push("revoked again");

const moved = await client.refreshTokenGrant(config, replayed, undefined, { DPoP });
const movedOn = await client.refreshTokenGrant(config, moved.refresh_token, undefined, { DPoP });
// A nonce of the second in which the session moved on last is no newer than that.
await new Promise((resolve) => setTimeout(resolve, 1100));
await refusedWith(replayed, "invalid_grant");
await refusedWith(movedOn.refresh_token, "invalid_grant");
steps.push("reuse refused");

console.log(JSON.stringify({ steps, requests }));
