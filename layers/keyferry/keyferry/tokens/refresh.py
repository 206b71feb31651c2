"""The refresh token: opaque to clients, self-authenticating to us.

    kfr_ base64url( version 1 | kid 8 | sub 16 | sid 16 | generation 4 | secret 16 | MAC 32 )

93 bytes are 124 characters of base64url with no unused bit, so a token has one spelling, and all
have one length. The prefix lets secret scanners find a leaked one.

The MAC is under a key of the keyring: junk is refused with no I/O. The secret is drawn once for
each session and is nowhere but in the tokens of that session; the session row holds only its hash.
So the keyring alone forges no token (it lacks the secret), a dump of the table forges none (it
lacks both), and even the two together forge none. What does is the keyring with any one token of
the session, an old one too; for a bound session that still takes the device key.

Every token of a session is a function of its generation: a successor can be derived again, which
is what makes a lost reply harmless.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from keyferry.errors import RequestRefused
from keyferry.jose import base64url

PREFIX: Final = "kfr_"
VERSION: Final = 1
KID_BYTES: Final = 8
ID_BYTES: Final = 16
GENERATION_BYTES: Final = 4
SECRET_BYTES: Final = 16
MAC_BYTES: Final = 32
_MESSAGE_BYTES: Final = 1 + KID_BYTES + 2 * ID_BYTES + GENERATION_BYTES + SECRET_BYTES
LENGTH: Final = len(PREFIX) + (_MESSAGE_BYTES + MAC_BYTES) * 4 // 3
"""Characters of every refresh token: 128."""

MAX_GENERATION: Final = 2 ** (8 * GENERATION_BYTES) - 1

MacKey = Callable[[str], bytes | None]
"""The MAC key of a ``kid`` (base64url of 8 bytes), or None when the keyring does not have it."""


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """The fields of a refresh token. ``sub`` and ``sid`` are base64url of 16 bytes."""

    kid: str
    sub: str
    sid: str
    generation: int
    secret: bytes = field(repr=False)

    @property
    def secret_hash(self) -> bytes:
        """What the session row keeps of the secret: 32 bytes."""
        return hashlib.sha256(b"keyferry session secret" + self.secret).digest()

    def successor(self, *, generation: int, kid: str) -> Self:
        return type(self)(kid, self.sub, self.sid, generation, self.secret)

    def encode(self, mac_key: bytes) -> str:
        message = (
            bytes((VERSION,))
            + base64url.decode(self.kid)
            + base64url.decode(self.sub)
            + base64url.decode(self.sid)
            + self.generation.to_bytes(GENERATION_BYTES, "big")
            + self.secret
        )
        return PREFIX + base64url.encode(message + _mac(mac_key, message))


def parse(token: str, mac_key: MacKey) -> RefreshToken:
    """Raise `RequestRefused` (``invalid_grant``) unless ``token`` was made under one of our keys.

    Costs no I/O beyond what ``mac_key`` does for a ``kid`` that the keyring really has.
    """
    if len(token) != LENGTH or not token.startswith(PREFIX):
        raise RequestRefused("invalid_grant", "refresh token: form")
    try:
        raw = base64url.decode(token[len(PREFIX) :])
    except ValueError:
        raise RequestRefused("invalid_grant", "refresh token: encoding") from None
    message, mac = raw[:_MESSAGE_BYTES], raw[_MESSAGE_BYTES:]
    kid = base64url.encode(message[1 : 1 + KID_BYTES])
    key = mac_key(kid)
    if message[0] != VERSION or key is None:
        raise RequestRefused("invalid_grant", "refresh token: version or kid")
    if not hmac.compare_digest(_mac(key, message), mac):
        raise RequestRefused("invalid_grant", "refresh token: MAC")
    ids = 1 + KID_BYTES
    counter = ids + 2 * ID_BYTES
    return RefreshToken(
        kid=kid,
        sub=base64url.encode(message[ids : ids + ID_BYTES]),
        sid=base64url.encode(message[ids + ID_BYTES : counter]),
        generation=int.from_bytes(message[counter : counter + GENERATION_BYTES], "big"),
        secret=message[counter + GENERATION_BYTES :],
    )


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, b"keyferry refresh token" + message, hashlib.sha256)
