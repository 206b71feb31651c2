/** One logged-in app: login, refresh, keys, sessions, logout. */
import { base64url } from "jose";

import { Connection, type Exchange, type Fetch, type Sent } from "./connection.js";
import { CachedDelivery, openDelivery, type DeliveredKey, type DeliveredKeys, type Delivery } from "./delivery.js";
import { thumbprint, type DeviceKeys } from "./device.js";
import { Discovery } from "./discovery.js";
import { KeyferryError, LoggedOut, Rejected, Retryable, TamperedDelivery } from "./errors.js";
import { isObject, jsonObject } from "./json.js";
import {
  proxiedResponse,
  sessionList,
  tokenReply,
  type ProxiedResponse,
  type Session,
  type TokenReply,
} from "./replies.js";
import type { SessionState, Storage } from "./storage.js";

/** Ask for a new access token a little before the old one ends, so that no request dies on the way. */
const EXPIRY_MARGIN = 30;

/** What is built into the app. None of it is a secret: anybody can read it in the package. Times in seconds. */
export interface Config {
  /** The stack's output `ApiUrl`, for example `https://abc123.execute-api.eu-central-1.amazonaws.com/prod`. */
  readonly issuer: string;
  /** `ios` or `android`: the audience that delivered keys are signed for. */
  readonly clientId: string;
  /** The `x-api-key` of the platform's usage plan. It names and throttles the app; it protects nothing. */
  readonly clientKey: string;
  readonly timeout?: number;
  /** How often a refresh is sent when replies are lost, before the app hears `Retryable`. */
  readonly attempts?: number;
  /** A `Retry-After` beyond this is the app's business: it is thrown, not slept. */
  readonly longestWait?: number;
  /** What sends requests, if not the platform's `fetch`: one that pins certificates, for example. */
  readonly fetch?: Fetch;
}

/** One of the three ways in (protocol.md#login). */
export type Credentials =
  | { readonly username: string; readonly password: string; readonly otp?: string }
  /** After `mfa_required`: the `authSession` of that `Rejected`. A wrong code leaves it good for the next one. */
  | { readonly authSession: string; readonly otp: string }
  /** What a provider's SDK gave, asked for with `idTokenNonce`. */
  | {
      readonly provider: string;
      readonly idToken: string;
      readonly otp?: string;
      readonly invitation?: { readonly username: string; readonly code: string };
    };

export interface LoginDetails {
  readonly deviceName: string;
  readonly appVersion: string;
  /** A Firebase App Check token. */
  readonly appCheck?: string;
}

export interface ProxiedRequest {
  readonly method: string;
  /** Absolute, without query. */
  readonly path: string;
  readonly query?: readonly (readonly [string, string])[];
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

export class KeyferryClient {
  private readonly issuer: string;
  private readonly connection: Connection;
  private readonly discovery: Discovery;
  /** Delivered keys live here and nowhere else. The session is part of the name: what one user got is never another's. */
  readonly #deliveries = new Map<string, CachedDelivery>();

  constructor(
    private readonly config: Config,
    private device: DeviceKeys,
    private readonly storage: Storage,
  ) {
    this.issuer = config.issuer.replace(/\/+$/, "");
    const send: Fetch = config.fetch ?? (async (url, init) => fetch(url, init));
    this.connection = new Connection(send, config.clientKey, config.timeout ?? 10);
    this.discovery = new Discovery(this.issuer, async (url) => this.connection.getPublic(url));
  }

  /** The session, as whoever shares the storage has left it. */
  async state(): Promise<SessionState | undefined> {
    return this.storage.load();
  }

  // ── login ────────────────────────────────────────────────────────────

  /**
   * Open a session that is bound to this device's keys.
   *
   * Wrong credentials are `Rejected` with `invalid_grant`. `mfa_required` asks for a code: go on with its
   * `authSession`, or send the same ID token again with `otp`. A lost reply is not repeated here: it costs an
   * unused session, and the user is there to press again.
   */
  async login(credentials: Credentials, { deviceName, appVersion, appCheck }: LoginDetails): Promise<SessionState> {
    // First, because what follows needs it: better to fail before a session exists than after.
    await this.discovery.metadata();
    const device = {
      name: deviceName,
      platform: this.config.clientId,
      app_version: appVersion,
      encryption_key: await this.device.encryptionJwk(),
    };
    const { reply } = await this.connection.send(this.device, "POST", `${this.issuer}/v1/login`, {
      json: { ...given(credentials), device },
      ...(appCheck !== undefined && { headers: { "X-Firebase-AppCheck": appCheck } }),
    });
    const tokens = tokenReply(reply);
    const state = { ...(await this.verified(tokens)), ...tokenFields(tokens) };
    // Under the lock: a refresh of the session before, if one is under way, would else put that one back.
    return this.storage.exclusively(async () => {
      await this.storage.save(state);
      this.#deliveries.clear();
      return state;
    });
  }

  /** What to give to a provider's SDK as `nonce`: it makes the ID token good on this device only. */
  async idTokenNonce(): Promise<string> {
    const jkt = new TextEncoder().encode(await this.device.jkt());
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", jkt));
    return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  /**
   * Check the first access token: everything later is compared with the session it names. Later ones stay
   * opaque, as RFC 9068 §6 wants it.
   */
  private async verified({ accessToken, sessionId }: TokenReply): Promise<{ subject: string; sessionId: string }> {
    const { iss, client_id, sub, sid, cnf } = await this.discovery.verify(accessToken, "at+jwt");
    if (
      iss !== this.issuer ||
      client_id !== this.config.clientId ||
      typeof sub !== "string" ||
      typeof sid !== "string" ||
      sid !== sessionId ||
      !isObject(cnf) ||
      cnf["jkt"] !== (await this.device.jkt())
    ) {
      throw new TamperedDelivery("the session was opened for somebody else");
    }
    return { subject: sub, sessionId: sid };
  }

  // ── refresh ────────────────────────────────────────────────────────────

  /** An access token that is good for at least half a minute. */
  async accessToken(): Promise<string> {
    const state = await this.session();
    return now() < state.accessExpiresAt - EXPIRY_MARGIN
      ? state.accessToken
      : (await this.refresh(state.accessToken)).accessToken;
  }

  /**
   * Trade the refresh token for its successor (RFC 6749 §6), one at a time.
   *
   * `insteadOf` is the access token that the caller found wanting: when somebody else has replaced it in the
   * meantime, another call or another tab, the result is shared and nothing is sent.
   */
  async refresh(insteadOf?: string): Promise<SessionState> {
    return this.storage.exclusively(async () => {
      const state = await this.session();
      if (insteadOf !== undefined && state.accessToken !== insteadOf) {
        return state;
      }
      const tokens = await this.refreshUntilAnswered(state.refreshToken);
      const next = { ...state, ...tokenFields(tokens) };
      // Stored first, used after. A crash in between loses nothing, because the server still accepts the
      // old refresh token until it has seen the new one.
      await this.storage.save(next);
      return next;
    });
  }

  /**
   * Send the SAME refresh token until a reply arrives.
   *
   * When a reply is lost on the way, the server has moved on and the device has not. Sending the same token
   * again is safe: the server gives the same successor to the same device until that one has been used.
   */
  private async refreshUntilAnswered(refreshToken: string): Promise<TokenReply> {
    const { attempts = 3, longestWait = 5, clientId } = this.config;
    const form = { grant_type: "refresh_token", refresh_token: refreshToken, client_id: clientId };
    for (let attempt = 1; ; attempt += 1) {
      try {
        const { tokenEndpoint } = await this.discovery.metadata();
        return tokenReply((await this.connection.send(this.device, "POST", tokenEndpoint, { form })).reply);
      } catch (error) {
        if (error instanceof Rejected && error.code === "invalid_grant") {
          // The one answer that ends a session (RFC 6749 §5.2).
          await this.forget();
          throw new LoggedOut(error.description || "the session has ended", { cause: error });
        }
        if (!(error instanceof Retryable)) {
          throw error;
        }
        const { retryAfter = 0 } = error;
        if (attempt >= attempts || retryAfter > longestWait) {
          throw error;
        }
        // Jitter, so that a million phones do not come back in the same second.
        const wait = retryAfter + 0.5 * 2 ** (attempt - 1) * (0.5 + Math.random());
        await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      }
    }
  }

  // ── keys ────────────────────────────────────────────────────────────

  /**
   * The API keys that this user may have on this device: all of them, or the named ones.
   *
   * While the server cannot be reached, those that may still be used: without a word from it a key lives for
   * its `cacheSeconds` and no longer. `Retryable` when there are none.
   */
  async keys(names: readonly string[] = []): Promise<DeliveredKeys> {
    return (await this.all(names)).keys;
  }

  /** Why other keys are not among `keys`, by name: `app_version_too_old`, `mfa_required`, … */
  async withheld(names: readonly string[] = []): Promise<ReadonlyMap<string, string>> {
    return (await this.all(names)).refused;
  }

  /** One API key. `Rejected` says why it is withheld; `not_found`: none, or none that this user may know of. */
  async key(name: string): Promise<DeliveredKey> {
    const { keys } = await this.deliver(`/v1/keys/${encodeURIComponent(name)}`);
    const key = keys.get(name);
    if (key === undefined) {
      throw new TamperedDelivery("the delivery does not hold the key that was asked for");
    }
    return key;
  }

  private async all(names: readonly string[]): Promise<Delivery> {
    const wanted = [...names].sort().map(encodeURIComponent).join(",");
    return this.deliver(wanted === "" ? "/v1/keys" : `/v1/keys?names=${wanted}`);
  }

  private async deliver(path: string): Promise<Delivery> {
    const session = await this.session();
    const place = `${session.sessionId} ${path}`;
    const cached = this.#deliveries.get(place);
    if (cached?.isFresh(now())) {
      return cached.delivery;
    }
    let exchange: Exchange;
    try {
      exchange = await this.sendAuthorized("GET", path, {
        headers: {
          Accept: "application/jose",
          ...(cached?.etag !== undefined && { "If-None-Match": cached.etag }),
        },
      });
    } catch (error) {
      const usable = error instanceof Retryable ? cached?.usable(now()) : undefined;
      if (usable === undefined || usable.keys.size === 0) {
        throw error;
      }
      return usable;
    }
    if (cached !== undefined && exchange.reply.status === 304) {
      // A 304 carries no signature. It can only prolong what this process has itself opened and verified.
      this.#deliveries.set(place, new CachedDelivery(cached.delivery, cached.etag, now()));
      return cached.delivery;
    }
    const delivery = await this.open(exchange);
    // A key that was asked for by name may be kept there in a version that is not to be used.
    for (const [other, kept] of this.#deliveries) {
      if (kept.isOutdatedBy(delivery)) {
        this.#deliveries.delete(other);
      }
    }
    const etag = exchange.reply.headers.get("ETag") ?? undefined;
    this.#deliveries.set(place, new CachedDelivery(delivery, etag, now()));
    return delivery;
  }

  private async open({ reply, proofJti }: Exchange): Promise<Delivery> {
    const { subject, sessionId } = await this.session();
    const { issuer } = this;
    const expected = { issuer, clientId: this.config.clientId, subject, sessionId, proofJti };
    return openDelivery(reply.text, this.device, expected, async (token, typ) =>
      this.discovery.verify(token, typ),
    );
  }

  /**
   * Have keys delivered to another encryption key: the old one was lost with a reinstallation, or is to be
   * replaced. `device` has the same signing key; keep it before, as deliveries are for it from then on.
   *
   * After `Retryable` call it again: the same key may be sent any number of times.
   */
  async replaceEncryptionKey(device: DeviceKeys): Promise<void> {
    this.device = device;
    const jwk = await device.encryptionJwk();
    let exchange: Exchange;
    try {
      exchange = await this.sendAuthorized("PUT", "/v1/device/encryption-key", { json: { encryption_key: jwk } });
    } catch (error) {
      if (error instanceof Rejected && error.code === "use_dpop_nonce") {
        // The server counts in seconds, and has replaced the key in this very one.
        throw new Retryable("the key was replaced a moment ago", 1, { cause: error });
      }
      throw error;
    }
    if (jsonObject(exchange.reply.text)?.["kid"] !== (await thumbprint(jwk))) {
      throw new Retryable("the reply does not name the key");
    }
    this.#deliveries.clear();
  }

  /**
   * Have the server send a request to the key's upstream, with the key, which does not come here.
   *
   * It is sent once. `Retryable` after no reply, or after status 502, 503 or 504, does not say that the
   * upstream has done nothing: repeat what may be done twice, and nothing else.
   */
  async proxy(key: string, { method, path, query, headers, body }: ProxiedRequest): Promise<ProxiedResponse> {
    const json = {
      method,
      path,
      ...(query !== undefined && { query }),
      ...(headers !== undefined && { headers }),
      ...(typeof body === "string" && { body }),
      ...(body instanceof Uint8Array && { body_base64: base64(body) }),
    };
    const { reply } = await this.sendAuthorized("POST", `/v1/proxy/${encodeURIComponent(key)}`, { json });
    return proxiedResponse(reply);
  }

  // ── sessions ────────────────────────────────────────────────────────────

  /** This user's sessions on all devices, the oldest first. */
  async sessions(): Promise<Session[]> {
    return sessionList((await this.sendAuthorized("GET", "/v1/sessions")).reply);
  }

  /**
   * End one of this user's sessions, a lost phone's perhaps: no refresh and no key from now on. `Rejected`
   * with `not_found`: there is none, or it has ended already.
   */
  async endSession(sessionId: string): Promise<void> {
    const { reply } = await this.sendAuthorized("DELETE", `/v1/sessions/${encodeURIComponent(sessionId)}`);
    if (reply.status !== 204) {
      throw new Retryable("the reply does not say that the session has ended");
    }
    await this.storage.exclusively(async () => {
      if ((await this.storage.load())?.sessionId === sessionId) {
        await this.forget();
      }
    });
  }

  /** End all of this user's sessions but this one. Return how many. */
  async endOtherSessions(): Promise<number> {
    const { reply } = await this.sendAuthorized("DELETE", "/v1/sessions?except=current");
    const ended = jsonObject(reply.text)?.["ended"];
    if (typeof ended !== "number") {
      throw new Retryable("the reply does not say how many sessions have ended");
    }
    return ended;
  }

  /**
   * End this session, here in any case and on the server if it can be reached (RFC 7009). False: the server
   * has not confirmed it. The tokens are gone; on the server the session lasts until its idle time is over.
   */
  async logout(): Promise<boolean> {
    // Under the lock: a refresh that is under way would else store a new session after this one was forgotten.
    return this.storage.exclusively(async () => {
      const state = await this.storage.load();
      if (state === undefined) {
        return true;
      }
      const form = {
        token: state.refreshToken,
        token_type_hint: "refresh_token",
        client_id: this.config.clientId,
      };
      try {
        const { revocationEndpoint } = await this.discovery.metadata();
        const { reply } = await this.connection.send(this.device, "POST", revocationEndpoint, { form });
        return jsonObject(reply.text) !== undefined;
      } catch (error) {
        if (!(error instanceof KeyferryError)) {
          throw error;
        }
        return false;
      } finally {
        await this.forget();
      }
    });
  }

  /** A request with the access token, and once more with a new one if that is too old. */
  private async sendAuthorized(method: string, path: string, sent: Sent = {}): Promise<Exchange> {
    const url = this.issuer + path;
    const accessToken = await this.accessToken();
    try {
      return await this.connection.send(this.device, method, url, { ...sent, accessToken });
    } catch (error) {
      if (!(error instanceof Rejected) || error.code !== "invalid_token") {
        throw error;
      }
    }
    const renewed = (await this.refresh(accessToken)).accessToken;
    return this.connection.send(this.device, method, url, { ...sent, accessToken: renewed });
  }

  private async session(): Promise<SessionState> {
    const state = await this.storage.load();
    if (state === undefined) {
      throw new LoggedOut("there is no session");
    }
    return state;
  }

  private async forget(): Promise<void> {
    this.#deliveries.clear();
    await this.storage.clear();
  }
}

function given(credentials: Credentials): object {
  if ("authSession" in credentials) {
    return { auth_session: credentials.authSession, otp: credentials.otp };
  }
  if ("idToken" in credentials) {
    const { idToken, ...rest } = credentials;
    return { ...rest, id_token: idToken };
  }
  return credentials;
}

function tokenFields(
  tokens: TokenReply,
): Pick<SessionState, "accessToken" | "accessExpiresAt" | "refreshToken" | "refreshExpiresAt"> {
  return {
    accessToken: tokens.accessToken,
    accessExpiresAt: now() + tokens.expiresIn,
    refreshToken: tokens.refreshToken,
    refreshExpiresAt: now() + tokens.refreshExpiresIn,
  };
}

function now(): number {
  return Date.now() / 1000;
}

/** RFC 4648 §4, with padding. */
function base64(bytes: Uint8Array): string {
  const text = base64url.encode(bytes).replaceAll("-", "+").replaceAll("_", "/");
  return text.padEnd(Math.ceil(text.length / 4) * 4, "=");
}
