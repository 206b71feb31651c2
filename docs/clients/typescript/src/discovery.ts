/** Authorization server metadata (RFC 8414) and the server's public signing keys (RFC 7517), both cached. */
import { compactVerify, createLocalJWKSet, decodeProtectedHeader, errors, type CompactVerifyResult } from "jose";

import type { Reply } from "./connection.js";
import { Retryable, TamperedDelivery } from "./errors.js";
import { jsonObject, type JsonObject } from "./json.js";

export interface Metadata {
  readonly tokenEndpoint: string;
  readonly revocationEndpoint: string;
  readonly jwksUri: string;
}

type JwkSet = ReturnType<typeof createLocalJWKSet>;

const ALG = "ES256";
const DEFAULT_MAX_AGE = 300;

/** Answers two questions: where are the endpoints, and did this server sign that? */
export class Discovery {
  private known: Metadata | undefined;
  private jwks: { readonly keys: JwkSet; readonly expiresAt: number } | undefined;

  constructor(
    private readonly issuer: string,
    private readonly get: (url: string) => Promise<Reply>,
  ) {
    if (!/^https:\/\/|^http:\/\/(127\.0\.0\.1|localhost|\[::1\])[:/]/.test(issuer)) {
      throw new TypeError("the issuer must be an https URL");
    }
  }

  async metadata(): Promise<Metadata> {
    if (this.known === undefined) {
      const url = `${this.issuer}/.well-known/openid-configuration`;
      const document = parsed(await this.get(url));
      // RFC 8414 §3.3: a document that names another issuer is somebody else's.
      if (document["issuer"] !== this.issuer) {
        throw new TamperedDelivery("the metadata names another issuer");
      }
      const endpoint = (name: string): string => {
        const found = document[name];
        // Tokens are sent there, so one outside of the issuer that the app was built with is refused.
        if (typeof found !== "string" || !found.startsWith(`${this.issuer}/`)) {
          throw new TamperedDelivery(`${name} is not below the issuer`);
        }
        return found;
      };
      this.known = {
        tokenEndpoint: endpoint("token_endpoint"),
        revocationEndpoint: endpoint("revocation_endpoint"),
        jwksUri: endpoint("jwks_uri"),
      };
    }
    return this.known;
  }

  /**
   * The claims of a JWT whose signature, algorithm and type hold, to be checked by the caller. The keys are
   * fetched again when they are old or the JWT names another one: the server rotates them.
   */
  async verify(token: string, typ: string): Promise<JsonObject> {
    try {
      const { alg, kid, typ: type, crit } = decodeProtectedHeader(token);
      // RFC 8725 §3.1 and §3.11: algorithm and type are pinned, so that no token passes for another kind.
      if (alg !== ALG || type !== typ || typeof kid !== "string" || crit !== undefined) {
        throw new TamperedDelivery(`not an ${ALG} ${typ}`);
      }
      const { payload } = await this.verifySignature(token);
      const claims = jsonObject(new TextDecoder().decode(payload));
      if (claims === undefined) {
        throw new TamperedDelivery("not a JWT");
      }
      return claims;
    } catch (cause) {
      // jose throws a TypeError for what is no JWS at all, and its own errors for the rest.
      if (cause instanceof errors.JOSEError || cause instanceof TypeError) {
        throw new TamperedDelivery("the signature does not hold", { cause });
      }
      throw cause;
    }
  }

  private async verifySignature(token: string): Promise<CompactVerifyResult> {
    // Nothing here asks the clock of this device, which may be days off.
    const options = { algorithms: [ALG] };
    const kept = this.jwks;
    if (kept !== undefined && Date.now() < kept.expiresAt) {
      try {
        return await compactVerify(token, kept.keys, options);
      } catch (error) {
        if (!(error instanceof errors.JWKSNoMatchingKey)) {
          throw error;
        }
      }
    }
    return compactVerify(token, await this.fetchKeys(), options);
  }

  private async fetchKeys(): Promise<JwkSet> {
    const { jwksUri } = await this.metadata();
    const reply = await this.get(jwksUri);
    const keys = createLocalJWKSet(parsed(reply) as unknown as Parameters<typeof createLocalJWKSet>[0]);
    const maxAge = /\bmax-age=(\d+)/.exec(reply.headers.get("Cache-Control") ?? "")?.[1];
    this.jwks = { keys, expiresAt: Date.now() + Number(maxAge ?? DEFAULT_MAX_AGE) * 1000 };
    return keys;
  }
}

function parsed(reply: Reply): JsonObject {
  const document = jsonObject(reply.text);
  if (document === undefined) {
    // Typically the login page of a public Wi-Fi.
    throw new Retryable("discovery did not answer with JSON");
  }
  return document;
}
