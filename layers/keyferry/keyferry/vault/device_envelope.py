"""What a delivery travels in: a JWE, or HPKE for whoever asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from keyferry.errors import RequestRefused
from keyferry.jose import base64url, rfc7516_jwe, rfc9180_hpke
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import RsaJwk

JWE: Final = "application/jose"
HPKE: Final = "application/vnd.keyferry.hpke"

_HPKE_TYP: Final = "keyferry-hpke"


@dataclass(frozen=True, slots=True)
class DeviceEnvelope:
    """The encryption of one delivery to one device, and the media type of that."""

    recipient: Recipient
    media_type: str

    @classmethod
    def choose(cls, accept: tuple[str, ...], recipient: Recipient) -> Self:
        """HPKE where an ``Accept`` header (RFC 9110 §12.5.1) names it and ``recipient`` can open it;
        else a JWE, also for whoever accepts neither by name.

        Raise `RequestRefused` (``not_acceptable``) for an RSA key and nothing but HPKE.
        """
        accepted = _media_types(accept)
        if HPKE not in accepted:
            return cls(recipient, JWE)
        if not isinstance(recipient.jwk, RsaJwk):
            return cls(recipient, HPKE)
        if accepted.isdisjoint({JWE, "application/*", "*/*"}):
            raise RequestRefused("not_acceptable", "HPKE for an RSA key")
        return cls(recipient, JWE)

    def name(self) -> str:
        """Differs from that of every other envelope; part of the ``ETag``."""
        return f"{self.media_type} {self.recipient.alg} {self.recipient.thumbprint()}"

    def seal(self, jwt: str, *, random: Callable[[int], bytes]) -> str:
        """``jwt`` as the body of the response. ``random`` must be `os.urandom` in production."""
        jwk, plaintext = self.recipient.jwk, jwt.encode("ascii")
        if self.media_type == JWE or isinstance(jwk, RsaJwk):
            return rfc7516_jwe.encrypt(plaintext, self.recipient, cty="JWT", random=random)
        header = {
            "typ": _HPKE_TYP,
            "kem": rfc9180_hpke.kem_id(jwk),
            "kdf": rfc9180_hpke.KDF_HKDF_SHA256,
            "aead": rfc9180_hpke.AEAD_AES_256_GCM,
            "kid": self.recipient.thumbprint(),
            "cty": "JWT",
        }
        encoded = base64url.encode(json.dumps(header, separators=(",", ":")).encode("ascii"))
        # In `info`, as some platforms' HPKE takes no additional data; either binds the header.
        info = f"{_HPKE_TYP}.{encoded}".encode("ascii")
        sealed = rfc9180_hpke.seal(plaintext, jwk, info=info, random=random)
        return ".".join((encoded, *map(base64url.encode, sealed)))


def _media_types(accept: tuple[str, ...]) -> frozenset[str]:
    """The media ranges of an ``Accept`` header but those of weight 0. Other weights are not looked
    at: whoever names HPKE is given it."""
    ranges = [each.split(";") for each in ",".join(accept).lower().split(",")]
    return frozenset(
        media_type.strip()
        for media_type, *parameters in ranges
        if not any(_is_zero_weight(parameter) for parameter in parameters)
    )


def _is_zero_weight(parameter: str) -> bool:
    name, _, value = parameter.strip().partition("=")
    return name == "q" and value.rstrip("0").rstrip(".") in ("", "0")
