/** The JWE around a delivery (RFC 7516): pinned, compared, never obeyed. */
import { decodeProtectedHeader } from "jose";

import { TamperedDelivery } from "./errors.js";
import { isObject, type JsonObject } from "./json.js";

export const ENC = "A256GCM";

/** Compare the header with what this device has registered, before anything is opened. Return `epk`. */
export function checkHeader(jwe: string, kid: string): JsonObject {
  let header: JsonObject;
  try {
    header = { ...decodeProtectedHeader(jwe) };
  } catch (cause) {
    throw new TamperedDelivery("not a compact JWE", { cause });
  }
  const { epk, typ: _typ, ...rest } = header;
  const expected: JsonObject = { alg: "ECDH-ES", enc: ENC, cty: "JWT", kid };
  // Nothing else is understood: no "zip" (compression leaks), no "crit" (RFC 7516 §4.1.13), no apu or apv.
  const names = new Set([...Object.keys(expected), ...Object.keys(rest)]);
  for (const name of names) {
    if (rest[name] !== expected[name]) {
      throw new TamperedDelivery("encrypted in another way or to another device");
    }
  }
  if (!isObject(epk)) {
    throw new TamperedDelivery("the delivery has no ephemeral key");
  }
  return epk;
}
