// Apps in a page, their keys and sessions in IndexedDB.
import { IndexedDbStorage, type WebCryptoKeys } from "keyferry-client";

import { serve, type Phone } from "./steps.js";

async function phone(device: string): Promise<Phone> {
  const storage = await IndexedDbStorage.open(device);
  let keys = await storage.deviceKeys();
  return {
    keys,
    storage,
    renew: async () => {
      keys = await keys.withNewEncryptionKey();
      await storage.saveDeviceKeys(keys);
      return keys;
    },
    steal: async () => steal(keys),
  };
}

/** By every way that WebCrypto has. */
async function steal(keys: WebCryptoKeys): Promise<string[]> {
  const { signing, encryption } = keys.pairs;
  const refusals: string[] = [];
  for (const key of [signing.privateKey, encryption.privateKey]) {
    for (const format of ["jwk", "pkcs8"] as const) {
      try {
        await crypto.subtle.exportKey(format, key);
        refusals.push("none");
      } catch (error) {
        refusals.push(error instanceof DOMException ? error.name : String(error));
      }
    }
  }
  return refusals;
}

const phones = new Map<string, Promise<Phone>>();

await serve(location.origin, {
  phone: async (device) => {
    const kept = phones.get(device) ?? phone(device);
    phones.set(device, kept);
    return kept;
  },
  // The API has no CORS: it is for mobile apps. Here the page and the API have one origin.
  fetch: () => async (url, init) => fetch(url, init),
  // Never done: this page is to ask for nothing more, and the next one begins anew.
  restart: async () => new Promise(() => location.reload()),
});
