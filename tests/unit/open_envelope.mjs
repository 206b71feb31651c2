// Opens deliveries with npm jose and @hpke/core: node open_envelope.mjs MODULES < [{"media_type", "body", "jwk"}]
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";

const require = createRequire(process.argv[2] + "/");
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const jose = await load("jose");
const hpke = await load("@hpke/core");
const text = (bytes) => new TextDecoder().decode(bytes);
const octets = (encoded) => new Uint8Array(Buffer.from(encoded, "base64url"));

async function openJwe({ body, jwk }) {
  const opened = await jose.compactDecrypt(body, await jose.importJWK(jwk, jwk.alg), {
    keyManagementAlgorithms: [jwk.alg],
    contentEncryptionAlgorithms: ["A256GCM"],
  });
  return text(opened.plaintext);
}

async function openHpke({ body, jwk }) {
  const [encoded, enc, ciphertext] = body.split(".");
  const header = JSON.parse(text(octets(encoded)));
  const kems = { 16: hpke.DhkemP256HkdfSha256, 32: hpke.DhkemX25519HkdfSha256 };
  const suite = new hpke.CipherSuite({
    kem: new kems[header.kem](),
    kdf: new hpke.HkdfSha256(),
    aead: new hpke.Aes256Gcm(),
  });
  const { alg, ...members } = jwk;
  const recipient = await suite.createRecipientContext({
    recipientKey: await suite.kem.importKey("jwk", { ...members, key_ops: ["deriveBits"] }, false),
    enc: octets(enc),
    info: new TextEncoder().encode(`keyferry-hpke.${encoded}`),
  });
  return text(await recipient.open(octets(ciphertext)));
}

const opened = [];
for (const each of JSON.parse(readFileSync(0, "utf8"))) {
  opened.push(await (each.media_type === "application/jose" ? openJwe : openHpke)(each));
}
console.log(JSON.stringify(opened));
