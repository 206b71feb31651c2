// What a client in TypeScript can rely on, from the types that openapi-typescript makes of docs/openapi.json. It is compiled
// and never run; each `@ts-expect-error` is a mistake that the compiler has to see.
import type { components, operations, paths } from "./schema";

type Login = components["schemas"]["LoginRequest"];
type Json<Answer> = Answer extends { content: { "application/json": infer Body } } ? Body : never;
type Answers<Name extends keyof operations> = operations[Name]["responses"];

const device: components["schemas"]["DeviceRequest"] = {
  name: "Ana's phone",
  platform: "ios",
  app_version: "1.2.0",
  encryption_key: { kty: "EC", crv: "P-256", x: "x", y: "y" },
};

export const logins: Login[] = [
  { username: "ana", password: "p", device },
  { username: "ana", password: "p", otp: "492039", device },
  { auth_session: "s", otp: "492039", device },
  { provider: "google", id_token: "t", nonce: "n", device },
];

// @ts-expect-error one way in, and all of it
export const half: Login = { username: "ana", device };
// @ts-expect-error not two of them
export const both: Login = { username: "ana", password: "p", provider: "google", id_token: "t", device };
export const curve: components["schemas"]["EncryptionKey"] = {
  kty: "EC",
  // @ts-expect-error no such curve
  crv: "P-521",
  x: "x",
  y: "y",
};

export function sessionOf(answer: Json<Answers<"login">[200]>): [string, string, number] {
  const kind: "DPoP" | "Bearer" = answer.token_type;
  return [kind, answer.refresh_token, answer.expires_in];
}

export function isLoggedOut(answer: Json<Answers<"refresh">[400]>): boolean {
  return answer.error === "invalid_grant";
}

export function asksForCode(answer: Json<Answers<"login">[403]>): string | undefined {
  return answer.error === "mfa_required" ? answer.auth_session : undefined;
}

export function isTaken(answer: Json<Answers<"register">[409]>): boolean {
  // @ts-expect-error a misspelt code
  return answer.error === "username_token";
}

type Delivery = Answers<"getKeys">[200]["content"];
export const envelopes: (keyof Delivery)[] = ["application/jose", "application/vnd.keyferry.hpke"];
export type NotModified = Answers<"getKeys">[304]["headers"]["ETag"];

export function valueOf(delivery: components["schemas"]["KeyDelivery"], name: string): string | undefined {
  return delivery.keys[name]?.value ?? delivery.refused[name];
}

export const form: operations["refresh"]["requestBody"]["content"]["application/x-www-form-urlencoded"] = {
  grant_type: "refresh_token",
  refresh_token: "kfr_…",
};
export const query: NonNullable<paths["/v1/sessions"]["delete"]["parameters"]["query"]> = { except: "current" };
