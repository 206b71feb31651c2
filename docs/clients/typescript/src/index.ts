/**
 * A client of Keyferry for browsers, Node and React Native.
 *
 * Read in this order: `device` (the two key pairs), `connection` (one request), `client` (login, refresh, keys,
 * sessions), `delivery`, `envelope` and `discovery` (what it takes to trust a delivered key), `storage`, `native`.
 */
export { KeyferryClient, type Config, type Credentials, type LoginDetails, type ProxiedRequest } from "./client.js";
export type { Fetch } from "./connection.js";
export type { DeliveredKey, DeliveredKeys } from "./delivery.js";
export { WebCryptoKeys, type DeviceKeys, type Proof, type ProofClaims, type PublicJwk, type WebCryptoPairs } from "./device.js";
export { KeyferryError, LoggedOut, Rejected, Retryable, TamperedDelivery } from "./errors.js";
export { NativeDeviceKeys, type NativeKeys } from "./native.js";
export type { ProxiedResponse, Session } from "./replies.js";
export { IndexedDbStorage, MemoryStorage, processLock, webLock, type SessionState, type Storage } from "./storage.js";
