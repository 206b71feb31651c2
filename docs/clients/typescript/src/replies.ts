/**
 * What the server answers, taken apart. Status 200 with something else in it is a captive portal:
 * `Retryable`, as if nothing had come.
 */
import { base64url } from "jose";

import type { Reply } from "./connection.js";
import { Retryable, TamperedDelivery } from "./errors.js";
import { isObject, jsonObject, type JsonObject } from "./json.js";

/** A token response (RFC 6749 §5.1). Times in seconds. */
export interface TokenReply {
  readonly accessToken: string;
  readonly expiresIn: number;
  readonly refreshToken: string;
  readonly refreshExpiresIn: number;
  readonly sessionId: unknown;
}

/** One login of this user on one device, for a screen like "your devices". Times in seconds, by the server's clock. */
export interface Session {
  readonly id: string;
  readonly device: string;
  readonly platform: string;
  readonly appVersion: string;
  readonly createdAt: number;
  readonly lastUsedAt: number;
  /** Whether it is the session of this very app. */
  readonly current: boolean;
}

/** What an upstream answered, whatever it was: a `status` of 500 is the upstream's own. */
export interface ProxiedResponse {
  readonly status: number;
  /** By lower-case name; the few that the server passes on. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

export function tokenReply(reply: Reply): TokenReply {
  const body = jsonObject(reply.text) ?? {};
  const { access_token, token_type, expires_in, refresh_token, refresh_expires_in, session_id } = body;
  if (
    typeof access_token !== "string" ||
    typeof token_type !== "string" ||
    typeof expires_in !== "number" ||
    typeof refresh_token !== "string"
  ) {
    throw new Retryable("the reply was not a token response");
  }
  if (token_type.toLowerCase() !== "dpop") {
    // A bearer token would be good for every thief (RFC 9449 §5: the client must check this).
    throw new TamperedDelivery("the server gave a token that is not bound to this device");
  }
  return {
    accessToken: access_token,
    expiresIn: expires_in,
    refreshToken: refresh_token,
    refreshExpiresIn: typeof refresh_expires_in === "number" ? refresh_expires_in : 0,
    sessionId: session_id,
  };
}

export function sessionList(reply: Reply): Session[] {
  const sessions = jsonObject(reply.text)?.["sessions"];
  if (!Array.isArray(sessions)) {
    throw new Retryable("the reply was not a list of sessions");
  }
  return sessions.map(session);
}

function session(row: unknown): Session {
  const { id, device, platform, app_version, created_at, last_used_at, current }: JsonObject =
    isObject(row) ? row : {};
  if (
    typeof id === "string" &&
    typeof device === "string" &&
    typeof platform === "string" &&
    typeof app_version === "string" &&
    typeof created_at === "number" &&
    typeof last_used_at === "number" &&
    typeof current === "boolean"
  ) {
    return { id, device, platform, appVersion: app_version, createdAt: created_at, lastUsedAt: last_used_at, current };
  }
  throw new Retryable("the reply was not a list of sessions");
}

export function proxiedResponse(reply: Reply): ProxiedResponse {
  const { status, headers, body, body_base64 } = jsonObject(reply.text) ?? {};
  const bytes =
    typeof body === "string"
      ? new TextEncoder().encode(body)
      : typeof body_base64 === "string"
        ? base64url.decode(body_base64.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, ""))
        : undefined;
  if (typeof status !== "number" || !isObject(headers) || bytes === undefined) {
    throw new Retryable("the reply was not an upstream's answer");
  }
  const texts = Object.entries(headers).map(([name, value]) => [name, String(value)] as const);
  return { status, headers: Object.fromEntries(texts), body: bytes };
}
