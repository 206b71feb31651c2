/** What the app keeps between two starts, and the lock of whoever shares it. */
import { WebCryptoKeys, type WebCryptoPairs } from "./device.js";

/** One logged-in session. Replaced as a whole, never edited in place. Times in seconds, by this device's clock. */
export interface SessionState {
  readonly subject: string;
  readonly sessionId: string;
  readonly accessToken: string;
  readonly accessExpiresAt: number;
  readonly refreshToken: string;
  readonly refreshExpiresAt: number;
}

/**
 * Where the app keeps the session: Keychain, a file encrypted with a Keystore key, IndexedDB. Each call
 * is durable and atomic when its promise is fulfilled.
 */
export interface Storage {
  load(): Promise<SessionState | undefined>;
  save(state: SessionState): Promise<void>;
  clear(): Promise<void>;
  /**
   * Run `work` while nobody else who shares this storage runs theirs: tabs, or an app and its extension. Of
   * two that refresh at once with one token, one would fall behind, and a token that is two behind counts as
   * stolen.
   */
  exclusively<T>(work: () => Promise<T>): Promise<T>;
}

/** One after the other, within this process. */
export function processLock(): Storage["exclusively"] {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const mine = last.then(work);
    last = mine.catch(() => undefined);
    return mine;
  };
}

/** One after the other, in all tabs and workers of an origin (Web Locks). */
export function webLock(name: string): Storage["exclusively"] {
  // The inner promise is awaited by `request`, so its value is what comes out.
  return async (work) => navigator.locks.request(name, work);
}

/** Forgets with the process; for tests, demonstrations and servers. */
export class MemoryStorage implements Storage {
  readonly exclusively = processLock();

  #state: SessionState | undefined;

  constructor(state?: SessionState) {
    this.#state = state;
  }

  async load(): Promise<SessionState | undefined> {
    return this.#state;
  }

  async save(state: SessionState): Promise<void> {
    this.#state = state;
  }

  async clear(): Promise<void> {
    this.#state = undefined;
  }
}

const STORE = "keyferry";

/**
 * Session and device keys in a browser's IndexedDB. The private keys are kept as `CryptoKey` objects that cannot
 * be exported: a script in the page can use them while it runs there, and take none of them away.
 */
export class IndexedDbStorage implements Storage {
  readonly exclusively: Storage["exclusively"];

  private constructor(private readonly database: IDBDatabase) {
    this.exclusively = webLock(`keyferry:${database.name}`);
  }

  static async open(name = "keyferry"): Promise<IndexedDbStorage> {
    const opening = indexedDB.open(name, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    return new IndexedDbStorage(await settled(opening));
  }

  /** This device's keys, made the first time. */
  async deviceKeys(): Promise<WebCryptoKeys> {
    return this.exclusively(async () => {
      const kept = (await this.get("keys")) as WebCryptoPairs | undefined;
      if (kept !== undefined) {
        return new WebCryptoKeys(kept);
      }
      const keys = await WebCryptoKeys.generate();
      await this.put("keys", keys.pairs);
      return keys;
    });
  }

  /** Keep other keys, after `withNewEncryptionKey`. */
  async saveDeviceKeys(keys: WebCryptoKeys): Promise<void> {
    await this.put("keys", keys.pairs);
  }

  async load(): Promise<SessionState | undefined> {
    return (await this.get("session")) as SessionState | undefined;
  }

  async save(state: SessionState): Promise<void> {
    await this.put("session", state);
  }

  async clear(): Promise<void> {
    await this.change((store) => store.delete("session"));
  }

  close(): void {
    this.database.close();
  }

  private async get(key: string): Promise<unknown> {
    return settled(this.database.transaction(STORE).objectStore(STORE).get(key));
  }

  private async put(key: string, value: unknown): Promise<void> {
    await this.change((store) => store.put(value, key));
  }

  private async change(write: (store: IDBObjectStore) => IDBRequest): Promise<void> {
    // Strict: on disk when it is done. A token that was used and then forgotten would be a session lost.
    const transaction = this.database.transaction(STORE, "readwrite", { durability: "strict" });
    write(transaction.objectStore(STORE));
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("the transaction was aborted"));
    });
  }
}

async function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB does not answer"));
  });
}
