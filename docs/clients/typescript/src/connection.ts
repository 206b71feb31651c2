/** One request: proof, nonce, time-out, and what a refusal means. */
import type { DeviceKeys } from "./device.js";
import { Rejected, Retryable } from "./errors.js";
import { jsonObject } from "./json.js";

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** A response whose body has arrived. */
export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** A reply, with the `jti` of the proof that asked for it. */
export interface Exchange {
  readonly reply: Reply;
  readonly proofJti: string;
}

export interface Sent {
  readonly headers?: Readonly<Record<string, string>>;
  readonly accessToken?: string;
  readonly json?: object;
  readonly form?: Readonly<Record<string, string>>;
}

export class Connection {
  /** The newest `DPoP-Nonce`. All endpoints are below the issuer, so there is one (RFC 9449 §8.2). */
  private nonce: string | undefined;

  constructor(
    private readonly fetch: Fetch,
    private readonly clientKey: string,
    private readonly timeout: number,
  ) {}

  /** One request with a fresh proof. A demand for a nonce is answered once (RFC 9449 §8). */
  async send(device: DeviceKeys, method: string, url: string, sent: Sent = {}): Promise<Exchange> {
    for (let answered = false; ; answered = true) {
      const { nonce } = this;
      const { accessToken } = sent;
      const proof = await device.proof({
        htm: method,
        htu: url.replace(/[?#].*$/, ""),
        ...(nonce !== undefined && { nonce }),
        ...(accessToken !== undefined && { accessToken }),
      });
      const headers: Record<string, string> = {
        ...sent.headers,
        "x-api-key": this.clientKey,
        DPoP: proof.header,
      };
      if (accessToken !== undefined) {
        headers["Authorization"] = `DPoP ${accessToken}`;
      }
      const reply = await this.request(url, { method, headers, ...body(sent, headers) });
      this.nonce = reply.headers.get("DPoP-Nonce") ?? this.nonce;
      if (!answered && asksForNonce(reply)) {
        continue;
      }
      throwForRefusal(reply);
      return { reply, proofJti: proof.jti };
    }
  }

  /** Metadata and JWKS, which need nothing. */
  async getPublic(url: string): Promise<Reply> {
    const reply = await this.request(url, { headers: { Accept: "application/json" } });
    throwForRefusal(reply);
    return reply;
  }

  private async request(url: string, init: RequestInit): Promise<Reply> {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), this.timeout * 1000);
    try {
      const response = await this.fetch(url, {
        ...init,
        signal: abort.signal,
        // A proof is good for one URI, and a token must not wander. React Native follows redirects all the same.
        redirect: "error",
        // A 304 is to come here, and nothing is to be kept on a disk.
        cache: "no-store",
        credentials: "omit",
      });
      return { status: response.status, headers: response.headers, text: await response.text() };
    } catch (cause) {
      throw new Retryable("no reply", undefined, { cause });
    } finally {
      clearTimeout(timer);
    }
  }
}

function body(sent: Sent, headers: Record<string, string>): { body?: string } {
  if (sent.json !== undefined) {
    headers["Content-Type"] = "application/json";
    return { body: JSON.stringify(sent.json) };
  }
  if (sent.form !== undefined) {
    headers["Content-Type"] = "application/x-www-form-urlencoded";
    const pairs = Object.entries(sent.form).map((pair) => pair.map(encodeURIComponent).join("="));
    return { body: pairs.join("&") };
  }
  return {};
}

function asksForNonce(reply: Reply): boolean {
  return (
    (reply.status === 400 || reply.status === 401) &&
    reply.headers.has("DPoP-Nonce") &&
    jsonObject(reply.text)?.["error"] === "use_dpop_nonce"
  );
}

function throwForRefusal(reply: Reply): void {
  const { status } = reply;
  if (status === 200 || status === 204 || status === 304) {
    return;
  }
  if (status === 408 || status === 429 || status >= 500) {
    throw new Retryable(`the server answered ${status}`, retryAfter(reply.headers.get("Retry-After")));
  }
  const refusal = jsonObject(reply.text) ?? {};
  const text = (name: string): string | undefined => {
    const value = refusal[name];
    return typeof value === "string" ? value : undefined;
  };
  throw new Rejected(
    text("error") ?? "unrecognized_reply",
    text("error_description") ?? "",
    status,
    text("auth_session"),
  );
}

/** `Retry-After` in seconds; RFC 9110 §10.2.3 also allows a date. */
function retryAfter(header: string | null): number | undefined {
  const value = header?.trim() ?? "";
  if (/^\d+$/.test(value)) {
    return Number(value);
  }
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - Date.now()) / 1000);
}
