// Apps on Node, their keys in WebCrypto or as a native module would have them: node node.js TEST webcrypto|native
import { MemoryStorage, NativeDeviceKeys, WebCryptoKeys, type NativeKeys, type PublicJwk } from "keyferry-client";

import { serve, type Phone } from "./steps.js";

declare const process: { readonly argv: readonly string[] };
const [, , test = "", kind = ""] = process.argv;

async function webCryptoPhone(): Promise<Phone> {
  let keys = await WebCryptoKeys.generate();
  return { keys, storage: new MemoryStorage(), renew: async () => (keys = await keys.withNewEncryptionKey()) };
}

const ECDSA = { name: "ECDSA", namedCurve: "P-256" };
const ECDH = { name: "ECDH", namedCurve: "P-256" };

/** In the place of the hardware: its four calls, and no more. */
async function softwareKeys(signing: CryptoKeyPair): Promise<NativeKeys> {
  const encryption = await crypto.subtle.generateKey(ECDH, false, ["deriveBits"]);
  const jwk = async (key: CryptoKey): Promise<PublicJwk> => {
    const { x = "", y = "" } = await crypto.subtle.exportKey("jwk", key);
    return { kty: "EC", crv: "P-256", x, y };
  };
  return {
    signingJwk: async () => jwk(signing.publicKey),
    encryptionJwk: async () => jwk(encryption.publicKey),
    sign: async (message) => {
      const algorithm = { name: "ECDSA", hash: "SHA-256" };
      return new Uint8Array(await crypto.subtle.sign(algorithm, signing.privateKey, Uint8Array.from(message)));
    },
    agree: async (ephemeral) => {
      const peer = await crypto.subtle.importKey("jwk", { ...ephemeral }, ECDH, false, []);
      const algorithm = { name: "ECDH", public: peer };
      return new Uint8Array(await crypto.subtle.deriveBits(algorithm, encryption.privateKey, 256));
    },
  };
}

async function nativePhone(): Promise<Phone> {
  const signing = await crypto.subtle.generateKey(ECDSA, false, ["sign", "verify"]);
  const make = async (): Promise<NativeDeviceKeys> => new NativeDeviceKeys(await softwareKeys(signing));
  return { keys: await make(), storage: new MemoryStorage(), renew: make };
}

const phones = new Map<string, Promise<Phone>>();

await serve(test, {
  phone: async (device) => {
    const phone = phones.get(device) ?? (kind === "native" ? nativePhone() : webCryptoPhone());
    phones.set(device, phone);
    return phone;
  },
  // To the test's proxy, whatever the URL says. The proof is about the URL.
  fetch: (issuer) => async (url, init) => fetch(url.replace(new URL(issuer).origin, test), init),
  restart: async () => undefined,
});
