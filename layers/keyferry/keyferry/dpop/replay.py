"""One use for each DPoP proof (RFC 9449 §11.1), by one conditional write.

Most routes need no such record: what a replayed refresh or key delivery yields is of use to the
device key alone. The authorizer and the proxy guard other people's side effects, so they keep one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyferry.dpop.proof import Proof
from keyferry.edge.request import Call
from keyferry.errors import RequestRefused
from keyferry.single_use import SingleUse

_MARGIN_SECONDS: Final = 60
"""For clocks that differ."""


@dataclass(frozen=True, slots=True)
class ReplayGuard:
    proofs: SingleUse

    def reserve(self, proof: Proof, call: Call, *, good_until: int, invocation_id: str) -> None:
        """Raise `RequestRefused` unless this is the first use of ``proof`` on ``call``.

        ``good_until`` is when the access token ends that the proof names by its ``ath``. Nothing
        earlier will do: a proof of a phone whose clock is ahead is good by its nonce at first, and
        by its ``iat`` once more when our clock gets there.

        By the device key too: two devices may draw the same ``jti``, and one must not be able to
        use up another's.
        """
        first = self.proofs.use(
            proof.jkt,
            call.method,
            call.url,
            proof.jti,
            expires_at=good_until + _MARGIN_SECONDS,
            invocation_id=invocation_id,
        )
        if not first:
            raise RequestRefused("invalid_dpop_proof", "proof: used before")
