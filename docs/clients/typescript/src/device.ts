/**
 * The two key pairs of a device: one signs proofs, the other receives API keys. They are two because
 * secure hardware gives a key one purpose.
 */
import { generateKeyPair, generateProof } from "dpop";
import { calculateJwkThumbprint, compactDecrypt, decodeJwt, exportJWK, type JWK } from "jose";

import { checkHeader, ENC } from "./envelope.js";
import { TamperedDelivery } from "./errors.js";

/** A P-256 public key. `alg` is in the encryption key alone. */
export interface PublicJwk {
  readonly kty: "EC";
  readonly crv: "P-256";
  readonly x: string;
  readonly y: string;
  readonly alg?: "ECDH-ES";
}

/** What a proof is about (RFC 9449 §4.2). */
export interface ProofClaims {
  readonly htm: string;
  /** The URL without query and fragment. */
  readonly htu: string;
  readonly nonce?: string;
  readonly accessToken?: string;
}

export interface Proof {
  /** The value of the `DPoP` request header. */
  readonly header: string;
  /** The proof's identifier. A delivery repeats it, which ties the reply to this request. */
  readonly jti: string;
}

/** All that the client needs of the keys; it never sees a private one. */
export interface DeviceKeys {
  /** RFC 7638 thumbprint of the signing key: what tokens are bound to. */
  jkt(): Promise<string>;
  /** Public half of the encryption key; sent at login, and when it is replaced. */
  encryptionJwk(): Promise<PublicJwk>;
  /** Sign one proof for one request, with the claim `encryption_kid`. Never send one twice. */
  proof(claims: ProofClaims): Promise<Proof>;
  /** Open a compact JWE that is for the encryption key, or throw `TamperedDelivery`. */
  open(jwe: string): Promise<Uint8Array>;
}

/** The two pairs, as IndexedDB stores them: a `CryptoKey` can be kept without being exportable. */
export interface WebCryptoPairs {
  readonly signing: CryptoKeyPair;
  readonly encryption: CryptoKeyPair;
}

/** Keys in WebCrypto: browsers, Node, and React Native with a polyfill. Private halves cannot be exported. */
export class WebCryptoKeys implements DeviceKeys {
  constructor(readonly pairs: WebCryptoPairs) {}

  static async generate(): Promise<WebCryptoKeys> {
    const [signing, encryption] = await Promise.all([
      generateKeyPair("ES256"),
      newEncryptionPair(),
    ]);
    return new WebCryptoKeys({ signing, encryption });
  }

  /** The same signing key with a new encryption key, for `KeyferryClient.replaceEncryptionKey`. */
  async withNewEncryptionKey(): Promise<WebCryptoKeys> {
    return new WebCryptoKeys({ ...this.pairs, encryption: await newEncryptionPair() });
  }

  async jkt(): Promise<string> {
    return calculateJwkThumbprint(await exportJWK(this.pairs.signing.publicKey));
  }

  async encryptionJwk(): Promise<PublicJwk> {
    return { ...publicP256(await exportJWK(this.pairs.encryption.publicKey)), alg: "ECDH-ES" };
  }

  async proof({ htm, htu, nonce, accessToken }: ProofClaims): Promise<Proof> {
    const kid = await thumbprint(await this.encryptionJwk());
    const header = await generateProof(this.pairs.signing, htu, htm, nonce, accessToken, {
      encryption_kid: kid,
    });
    return { header, jti: String(decodeJwt(header).jti) };
  }

  async open(jwe: string): Promise<Uint8Array> {
    checkHeader(jwe, await thumbprint(await this.encryptionJwk()));
    try {
      const opened = await compactDecrypt(jwe, this.pairs.encryption.privateKey, {
        keyManagementAlgorithms: ["ECDH-ES"],
        contentEncryptionAlgorithms: [ENC],
      });
      return opened.plaintext;
    } catch (cause) {
      throw new TamperedDelivery("the delivery does not open", { cause });
    }
  }
}

/** RFC 7638. */
export async function thumbprint(jwk: PublicJwk): Promise<string> {
  return calculateJwkThumbprint({ kty: jwk.kty, crv: jwk.crv, x: jwk.x, y: jwk.y });
}

function publicP256({ kty, crv, x, y }: JWK): PublicJwk {
  if (kty !== "EC" || crv !== "P-256" || x === undefined || y === undefined) {
    throw new TypeError("not a P-256 key");
  }
  return { kty: "EC", crv: "P-256", x, y };
}

async function newEncryptionPair(): Promise<CryptoKeyPair> {
  return crypto.subtle.generateKey({ name: "ECDH", namedCurve: "P-256" }, false, ["deriveBits"]);
}
