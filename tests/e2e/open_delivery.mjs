// Opens a delivery with npm jose: node open_delivery.mjs MODULES < {"jwe", "encryption_key", "jwks", "issuer"}
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";

const require = createRequire(process.argv[2] + "/");
const jose = await import(pathToFileURL(require.resolve("jose")));
const input = JSON.parse(readFileSync(0, "utf8"));

const key = await jose.importJWK(input.encryption_key, "ECDH-ES");
const { plaintext, protectedHeader } = await jose.compactDecrypt(input.jwe, key, {
  keyManagementAlgorithms: ["ECDH-ES"],
  contentEncryptionAlgorithms: ["A256GCM"],
});
const { payload } = await jose.jwtVerify(
  new TextDecoder().decode(plaintext),
  jose.createLocalJWKSet(input.jwks),
  { algorithms: ["ES256"], typ: "keyferry-keys+jwt", issuer: input.issuer, audience: "ios" },
);
console.log(JSON.stringify({ protectedHeader, payload }));
