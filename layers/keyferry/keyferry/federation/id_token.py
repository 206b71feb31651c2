"""Verification of ID tokens (OpenID Connect Core 1.0 §3.1.3.7).

What comes out names an account at its issuer by (issuer, subject), and by nothing else: an e-mail
address is told so that people can be shown it, and never decides whose account is opened. Whoever
registers somebody else's address with some provider would otherwise be that somebody here.

The nonce. An ID token is a bearer token: it says who signed in, not who sent it. So a provider that
lets the app set a nonce must be given one, and the token's ``nonce`` must be the lower-case hex
SHA-256 of ``expected_nonce``. That is what apps do already for Apple and Google (the provider gets
the digest, the backend gets what was digested), and a token alone then does not tell its own nonce.

``expected_nonce`` is best the thumbprint (``jkt``) of the device key that signed this login's DPoP
proof: the ID token is then of use to that device alone, and nothing has to be remembered. Where
there is no device key, it is a random text that the app made and sends along. Firebase Auth puts no
nonce into its ID tokens; there only `Provider.max_age` bounds how long a stolen one is of use.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyferry.errors import RequestRefused
from keyferry.federation.jwks import Jwks
from keyferry.federation.providers import Kind, Nonce, Provider
from keyferry.federation.signature import SignedClaims, verified

MAX_LENGTH: Final = 16 * 1024
"""Characters."""

CLOCK_SKEW_SECONDS: Final = 60
"""How far the issuer's clock may be ahead of ours. No device clock is involved in an ID token."""

MAX_SUBJECT_LENGTH: Final = 255
"""Characters, ASCII (OpenID Connect Core 1.0 §2)."""

_MAX_EMAIL_LENGTH: Final = 254
_MAX_NAME_LENGTH: Final = 128


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed in at a provider. ``issuer`` is the provider's one spelling of it.

    ``email``, ``email_verified`` and ``name`` are what the issuer says of them; they may change, and
    somebody else may have had the address before.
    """

    issuer: str
    subject: str
    email: str | None
    email_verified: bool
    name: str | None


def verify(
    token: str, provider: Provider, *, now: int, jwks: Jwks, expected_nonce: str | None = None
) -> Identity:
    """Raise `RequestRefused` (``invalid_grant``) unless ``provider`` issued ``token`` to this
    deployment's app, for this login, a moment ago; `Unavailable` when its keys cannot be had."""
    try:
        signed = verified(
            token,
            jwks=jwks,
            jwks_uri=provider.jwks_uri,
            algorithms=provider.algorithms,
            max_length=MAX_LENGTH,
        )
        _require_id_token(signed)
        _require_parties(signed.claims, provider)
        _require_time(signed, provider, now)
        if provider.nonce is Nonce.REQUIRED:
            _require_nonce(signed.claims.get("nonce"), expected_nonce)
        if provider.kind is Kind.FIREBASE:
            _require_firebase_user(signed.claims.get("firebase"), provider)
        return _identity(signed.claims, provider)
    except ValueError as error:
        raise RequestRefused("invalid_grant", f"id token: {error}") from None


def _require_id_token(signed: SignedClaims) -> None:
    """Refuse other JWTs that the issuer signs with the same keys (RFC 8725 §3.11)."""
    typ = signed.header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.upper() != "JWT":
        raise ValueError("typ")
    # Keycloak's access tokens differ from its ID tokens in this claim alone.
    if signed.claims.get("typ", "ID") != "ID":
        raise ValueError("typ claim")
    # A logout token or another security event (RFC 8417 §2.2) about a user is no login of theirs.
    if "events" in signed.claims:
        raise ValueError("security event")


def _require_parties(claims: Mapping[str, Any], provider: Provider) -> None:
    if claims.get("iss") not in (provider.issuer, *provider.issuer_aliases):
        raise ValueError("iss")
    aud, azp = claims.get("aud"), claims.get("azp")
    audiences = aud if isinstance(aud, list) else [aud]
    # One that is not ours would be a party that can log in here with what it was given.
    if not audiences or not all(each in provider.audiences for each in audiences):
        raise ValueError("aud")
    if len(audiences) > 1 and azp not in provider.audiences:
        raise ValueError("azp with several audiences")
    if (
        azp is not None
        and provider.authorized_parties is not None
        and azp not in provider.audiences + provider.authorized_parties
    ):
        raise ValueError("azp")


def _require_time(signed: SignedClaims, provider: Provider, now: int) -> None:
    if now >= signed.time("exp"):
        raise ValueError("expired")
    issued_at = signed.time("iat")
    if issued_at > now + CLOCK_SKEW_SECONDS:
        raise ValueError("iat in the future")
    if now - issued_at > provider.max_age:
        raise ValueError("iat too long ago")
    for name in ("nbf", "auth_time"):
        if name in signed.claims and signed.time(name) > now + CLOCK_SKEW_SECONDS:
            raise ValueError(f"{name} in the future")


def _require_nonce(nonce: object, expected: str | None) -> None:
    if not expected:
        raise ValueError("nothing to compare the nonce with")
    if not isinstance(nonce, str):
        raise ValueError("nonce is missing")
    digest = nonce_digest(expected)
    if not hmac.compare_digest(nonce.encode("utf-8", "surrogatepass"), digest.encode("ascii")):
        raise ValueError("nonce of another login")


def nonce_digest(expected: str) -> str:
    """What an app gives to the provider as the nonce of the login for ``expected``."""
    return hashlib.sha256(expected.encode("utf-8", "surrogatepass")).hexdigest()


def _require_firebase_user(firebase: object, provider: Provider) -> None:
    details = firebase if isinstance(firebase, dict) else {}
    # A project's tenants have users of their own, and share issuer, audience and keys: in another
    # tenant somebody can be given any ``sub``.
    if details.get("tenant") != provider.tenant:
        raise ValueError("firebase tenant")
    if details.get("sign_in_provider") == "anonymous" and not provider.anonymous:
        raise ValueError("firebase anonymous")


def _identity(claims: Mapping[str, Any], provider: Provider) -> Identity:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_LENGTH:
        raise ValueError("sub")
    if not subject.isascii() or not subject.isprintable():
        raise ValueError("sub")
    email = _shown(claims.get("email"), _MAX_EMAIL_LENGTH)
    return Identity(
        issuer=provider.issuer,
        subject=subject,
        email=email,
        # Apple sends a text, or did; "false" is one too.
        email_verified=email is not None and claims.get("email_verified") in (True, "true"),
        name=_shown(claims.get("name"), _MAX_NAME_LENGTH),
    )


def _shown(value: object, max_length: int) -> str | None:
    """A text to show to people, or None when it is not fit for that: no reason to refuse a login."""
    if not isinstance(value, str) or not 0 < len(value) <= max_length or not value.isprintable():
        return None
    return value
