"""What an app holds between the password and the second factor: a signed note of what was proved.

It says that the password of a user was right a moment ago, on this device and client. It opens
nothing without a code, and dies with the password that it vouches for. (The term is that of OAuth
2.0 for First-Party Applications.)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from keyferry.errors import RequestRefused
from keyferry.jose import base64url, rfc7515_jws
from keyferry.jose.strict_json import loads_object
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.users.store import PasswordCredential

TYP: Final = "keyferry-auth+jwt"
LIFETIME_SECONDS: Final = 300
_MAX_LENGTH: Final = 2048


@dataclass(frozen=True, slots=True)
class AuthSession:
    """``username`` is canonical; ``jkt`` is "" for a bearer client."""

    username: str
    client_id: str
    jkt: str
    credential: str
    """A digest of the password hash that was right."""


def credential_digest(credential: PasswordCredential) -> str:
    digest = hashlib.sha256(b"keyferry auth session" + credential.phc.encode("utf-8")).digest()
    return base64url.encode(digest[:16])


def issue(session: AuthSession, keyring: UnwrappedKeyring, *, now: int) -> str:
    kid, key = keyring.signing_key()
    claims = {
        "iss": keyring.issuer,
        "username": session.username,
        "client_id": session.client_id,
        "jkt": session.jkt,
        "credential": session.credential,
        "exp": now + LIFETIME_SECONDS,
    }
    return rfc7515_jws.sign_es256(typ=TYP, kid=kid, claims=claims, key=key)


def verify(text: str, keyring: UnwrappedKeyring, *, now: int) -> AuthSession:
    """Raise `RequestRefused` (``invalid_grant``) unless we issued it and it still lives."""
    try:
        jws = rfc7515_jws.parse(text, max_length=_MAX_LENGTH)
        key = keyring.verification_keys().get(str(jws.header.get("kid")))
        if jws.header.get("typ") != TYP or key is None or not jws.verify_es256(key):
            raise ValueError("not ours")
        claims = loads_object(jws.payload)
    except ValueError:
        raise RequestRefused("invalid_grant", "auth session: not ours") from None
    if claims["iss"] != keyring.issuer or now >= claims["exp"]:
        raise RequestRefused("invalid_grant", "auth session: expired")
    return AuthSession(
        username=claims["username"],
        client_id=claims["client_id"],
        jkt=claims["jkt"],
        credential=claims["credential"],
    )
