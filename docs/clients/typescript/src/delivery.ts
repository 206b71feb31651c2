/** What a delivery must say to be believed, and how long it is. */
import { thumbprint, type DeviceKeys } from "./device.js";
import { TamperedDelivery } from "./errors.js";
import { isObject, type JsonObject } from "./json.js";

export const TYP = "keyferry-keys+jwt";

/** One API key. Keep it in memory, not on disk. */
export class DeliveredKey {
  readonly #value: string;

  constructor(
    value: string,
    readonly version: number,
    /** How long the value may be used before it is asked for again. */
    readonly cacheSeconds: number,
    /** Older versions of this key are not to be used any more. */
    readonly minVersion: number,
  ) {
    this.#value = value;
  }

  /** Private behind this, so that no log has it by accident. */
  get value(): string {
    return this.#value;
  }
}

export type DeliveredKeys = ReadonlyMap<string, DeliveredKey>;

/** The keys of one answer, and why others are withheld, by name. */
export interface Delivery {
  readonly keys: DeliveredKeys;
  readonly refused: ReadonlyMap<string, string>;
}

/** What a reply to this request must say. */
export interface Expected {
  readonly issuer: string;
  readonly clientId: string;
  readonly subject: string;
  readonly sessionId: string;
  readonly proofJti: string;
}

/**
 * What one delivery holds, or `TamperedDelivery`. A delivery has no `exp`: `proof_jti` proves that it was
 * signed after the request was sent, and the time-out bounds how long it can have been held back.
 */
export async function openDelivery(
  jwe: string,
  device: DeviceKeys,
  expected: Expected,
  verify: (token: string, typ: string) => Promise<JsonObject>,
): Promise<Delivery> {
  const inner = new TextDecoder().decode(await device.open(jwe));
  // Encryption alone proves nothing about the sender: anybody can encrypt to a public key. The signature does.
  const claims = await verify(inner, TYP);
  const required: JsonObject = {
    iss: expected.issuer,
    aud: expected.clientId,
    sub: expected.subject,
    sid: expected.sessionId,
    // An older delivery, however authentic, is not an answer to this request.
    proof_jti: expected.proofJti,
    // Somebody who has made the server use a key of theirs can read a delivery and encrypt it to this device
    // again, but not change this.
    encryption_kid: await thumbprint(await device.encryptionJwk()),
  };
  for (const [name, value] of Object.entries(required)) {
    if (claims[name] !== value) {
      throw new TamperedDelivery(`the delivery has another ${name}`);
    }
  }
  const { keys, refused } = claims;
  if (!isObject(keys) || !isObject(refused)) {
    throw new TamperedDelivery("the delivery is not as documented");
  }
  return {
    keys: new Map(Object.entries(keys).map(([name, entry]) => [name, deliveredKey(entry)])),
    refused: new Map(Object.entries(refused).map(([name, reason]) => [name, String(reason)])),
  };
}

function deliveredKey(entry: unknown): DeliveredKey {
  const { value, version, min_version, cache_seconds }: JsonObject = isObject(entry) ? entry : {};
  if (typeof value === "string" && isNumber(version) && isNumber(min_version) && isNumber(cache_seconds)) {
    return new DeliveredKey(value, version, cache_seconds, min_version);
  }
  throw new TamperedDelivery("a delivered key is not as documented");
}

function isNumber(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

/** A delivery in memory. `verifiedAt`: when the server last said that this is what there is, in seconds. */
export class CachedDelivery {
  constructor(
    readonly delivery: Delivery,
    readonly etag: string | undefined,
    private readonly verifiedAt: number,
  ) {}

  /** Without the keys whose time is over. */
  usable(now: number): Delivery {
    const living = [...this.delivery.keys].filter(([, key]) => now < this.verifiedAt + key.cacheSeconds);
    return { ...this.delivery, keys: new Map(living) };
  }

  isFresh(now: number): boolean {
    const { size } = this.delivery.keys;
    return size > 0 && this.usable(now).keys.size === size;
  }

  isOutdatedBy(newer: Delivery): boolean {
    return [...this.delivery.keys].some(
      ([name, key]) => key.version < (newer.keys.get(name)?.minVersion ?? 0),
    );
  }
}
