/**
 * Keys in the Secure Enclave or the Android Keystore, for React Native.
 *
 * A native module of the app implements `NativeKeys`; what it takes on each platform is in
 * docs/mobile. The rest is here. It needs `crypto.subtle` for SHA-256 and AES-GCM, and jose needs it to
 * verify signatures: in React Native, install `react-native-quick-crypto` before this is loaded. The
 * tests run this file on Node, with `NativeKeys` in software. It was NOT run on a phone.
 */
import { base64url, calculateJwkThumbprint } from "jose";

import { thumbprint, type DeviceKeys, type Proof, type ProofClaims, type PublicJwk } from "./device.js";
import { checkHeader, ENC } from "./envelope.js";
import { TamperedDelivery } from "./errors.js";

/** The few calls into secure hardware. Both keys are P-256. */
export interface NativeKeys {
  /** Public half of the key that signs. */
  signingJwk(): Promise<PublicJwk>;
  /** Public half of the key that agrees, without `alg`. */
  encryptionJwk(): Promise<PublicJwk>;
  /**
   * ES256: ECDSA with SHA-256 as 64 bytes `r || s` (RFC 7518 §3.4), not as ASN.1. CryptoKit:
   * `rawRepresentation`. Android's `SHA256withECDSA` gives ASN.1: convert it.
   */
  sign(message: Uint8Array): Promise<Uint8Array>;
  /** ECDH: the 32 bytes of the x coordinate of the shared point. Must refuse a point off the curve. */
  agree(ephemeral: PublicJwk): Promise<Uint8Array>;
}

export class NativeDeviceKeys implements DeviceKeys {
  constructor(private readonly native: NativeKeys) {}

  async jkt(): Promise<string> {
    return calculateJwkThumbprint({ ...(await this.native.signingJwk()) });
  }

  async encryptionJwk(): Promise<PublicJwk> {
    return { ...(await this.native.encryptionJwk()), alg: "ECDH-ES" };
  }

  async proof({ htm, htu, nonce, accessToken }: ProofClaims): Promise<Proof> {
    const { kty, crv, x, y } = await this.native.signingJwk();
    const jti = base64url.encode(crypto.getRandomValues(new Uint8Array(32)));
    const claims = {
      jti,
      htm,
      htu,
      iat: Math.floor(Date.now() / 1000),
      nonce,
      ath: accessToken === undefined ? undefined : await sha256(ascii(accessToken)).then(base64url.encode),
      encryption_kid: await thumbprint(await this.encryptionJwk()),
    };
    const header = { typ: "dpop+jwt", alg: "ES256", jwk: { kty, crv, x, y } };
    const input = `${encodeJson(header)}.${encodeJson(claims)}`;
    const signature = await this.native.sign(ascii(input));
    return { header: `${input}.${base64url.encode(signature)}`, jti };
  }

  async open(jwe: string): Promise<Uint8Array> {
    const epk = publicP256(checkHeader(jwe, await thumbprint(await this.encryptionJwk())));
    const [protectedHeader = "", encryptedKey, nonce, ciphertext, tag] = jwe.split(".");
    // With direct key agreement the second part is empty (RFC 7518 §4.6).
    if (encryptedKey !== "") {
      throw new TamperedDelivery("unexpected encrypted key");
    }
    const [iv, text, end] = [nonce, ciphertext, tag].map(decode) as [Bytes, Bytes, Bytes];
    if (iv.length !== 12 || end.length !== 16) {
      throw new TamperedDelivery("wrong nonce or tag length");
    }
    // A refusal of the hardware, locked perhaps, is not the server's doing: it is thrown as it is.
    const secret = await this.native.agree(epk);
    const key = await crypto.subtle.importKey("raw", await concatKdf(secret), "AES-GCM", false, ["decrypt"]);
    try {
      // The protected header as received is the additional authenticated data (RFC 7516 §5.2).
      const algorithm = { name: "AES-GCM", iv, additionalData: ascii(protectedHeader) };
      return new Uint8Array(await crypto.subtle.decrypt(algorithm, key, concat(text, end)));
    } catch (cause) {
      throw new TamperedDelivery("the ciphertext was altered", { cause });
    }
  }
}

type Bytes = Uint8Array<ArrayBuffer>;

/**
 * The Concat KDF of RFC 7518 §4.6.2 for A256GCM: one round of SHA-256, without apu and apv. Every
 * length is a 32-bit big-endian number.
 */
async function concatKdf(secret: Uint8Array): Promise<Bytes> {
  const number = (value: number): number[] => [0, 0, value >> 8, value & 255];
  const info = [...number(ENC.length), ...ascii(ENC), ...number(0), ...number(0), ...number(256)];
  return sha256(Uint8Array.from([...number(1), ...secret, ...info]));
}

/** A P-256 public key from the other side: exactly 32-byte coordinates, and nothing private. */
function publicP256({ kty, crv, x, y, d }: Readonly<Record<string, unknown>>): PublicJwk {
  if (kty !== "EC" || crv !== "P-256" || d !== undefined) {
    throw new TamperedDelivery("not a P-256 public key");
  }
  if (typeof x !== "string" || typeof y !== "string" || decode(x).length !== 32 || decode(y).length !== 32) {
    throw new TamperedDelivery("a P-256 coordinate has 32 bytes");
  }
  return { kty, crv, x, y };
}

function decode(text: string | undefined): Bytes {
  try {
    return Uint8Array.from(base64url.decode(text ?? ""));
  } catch (cause) {
    throw new TamperedDelivery("not base64url", { cause });
  }
}

async function sha256(data: Bytes): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data));
}

function ascii(text: string): Bytes {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function encodeJson(value: object): string {
  return base64url.encode(new TextEncoder().encode(JSON.stringify(value)));
}

function concat(one: Bytes, other: Bytes): Bytes {
  const joined = new Uint8Array(one.length + other.length);
  joined.set(one);
  joined.set(other, one.length);
  return joined;
}
