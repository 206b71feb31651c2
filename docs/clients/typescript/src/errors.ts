/**
 * What can go wrong, as one small tree.
 *
 *     KeyferryError
 *     ├── LoggedOut          the session is over: send the user to the login screen
 *     ├── Retryable          nothing was lost: try again, after `retryAfter` seconds when it is given
 *     ├── Rejected           the server understood and said no; `code` says why (RFC 6749 §5.2)
 *     └── TamperedDelivery   a reply did not prove where it came from: use nothing of it
 *
 * Only `LoggedOut` ends a session. A time-out, a 429 and every 5xx are `Retryable`, however often they
 * occur.
 */
export abstract class KeyferryError extends Error {}

/** There is no session, or the server answered a refresh with `invalid_grant`. */
export class LoggedOut extends KeyferryError {
  override readonly name = "LoggedOut";
}

/** The reply was lost, or the server asked for patience. The session is as it was before the call. */
export class Retryable extends KeyferryError {
  override readonly name = "Retryable";

  constructor(
    message: string,
    /** Seconds, when the server named them. */
    readonly retryAfter?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** A refusal that repeating the same call will not change. */
export class Rejected extends KeyferryError {
  override readonly name = "Rejected";

  constructor(
    readonly code: string,
    readonly description: string,
    readonly status: number,
    /** With `mfa_required`: what `login` goes on with. */
    readonly authSession?: string,
  ) {
    super(description === "" ? code : `${code}: ${description}`);
  }
}

/** The reply was altered, replayed, meant for another device, or signed by a stranger. */
export class TamperedDelivery extends KeyferryError {
  override readonly name = "TamperedDelivery";
}
