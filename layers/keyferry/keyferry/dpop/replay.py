"""One use for each DPoP proof (RFC 9449 §11.1), by one conditional write.

Most routes need no such record: what a replayed refresh or key delivery yields is of use to the
device key alone. The authorizer and the proxy guard other people's side effects, so they keep one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyferry.dpop.nonce import LIFETIME_SECONDS
from keyferry.dpop.proof import IAT_LEEWAY_SECONDS, Proof
from keyferry.edge.request import Call
from keyferry.errors import RequestRefused
from keyferry.single_use import SingleUse

KEPT_SECONDS: Final = max(LIFETIME_SECONDS, 2 * IAT_LEEWAY_SECONDS) + 60
"""Longer than a proof can be good for: the life of its nonce, or the window of its ``iat`` on both
sides, and a minute for clocks that differ."""


@dataclass(frozen=True, slots=True)
class ReplayGuard:
    proofs: SingleUse

    def reserve(self, proof: Proof, call: Call, *, now: int, invocation_id: str) -> None:
        """Raise `RequestRefused` unless this is the first use of ``proof`` on ``call``.

        By the device key too: two devices may draw the same ``jti``, and one must not be able to
        use up another's.
        """
        first = self.proofs.use(
            proof.jkt,
            call.method,
            call.url,
            proof.jti,
            expires_at=now + KEPT_SECONDS,
            invocation_id=invocation_id,
        )
        if not first:
            raise RequestRefused("invalid_dpop_proof", "proof: used before")
