"""AWS Signature Version 4 for a POST to the root of a JSON service.

Source: AWS, "Create a signed AWS API request" (IAM User Guide, reference_sigv-create-signed-request).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, field
from typing import Final

from keyferry.aws_json.credentials import Credentials

ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(slots=True)
class Signer:
    """Signs for one service in one region. The key of a day is derived once for each credentials."""

    service: str
    region: str
    _derived: tuple[Credentials, str, bytes] | None = field(default=None, repr=False)

    def sign(
        self, headers: dict[str, str], body: bytes, credentials: Credentials, now: float
    ) -> None:
        """Add ``X-Amz-Date``, ``X-Amz-Security-Token`` where there is one, and ``Authorization`` to
        ``headers``, all of which are signed; ``now`` is seconds since the epoch."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        headers["X-Amz-Date"] = moment
        if credentials.token:
            headers["X-Amz-Security-Token"] = credentials.token
        day = moment[:8]
        named = sorted((name.lower(), value) for name, value in headers.items())
        signed = ";".join([name for name, _ in named])
        lines = "".join([f"{name}:{value}\n" for name, value in named])
        canonical = f"POST\n/\n\n{lines}\n{signed}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{day}/{self.region}/{self.service}/aws4_request"
        digest = hashlib.sha256(canonical.encode("utf-8")).hexdigest()
        signature = hmac.digest(
            self._key_of(credentials, day),
            f"{ALGORITHM}\n{moment}\n{scope}\n{digest}".encode("ascii"),
            "sha256",
        ).hex()
        headers["Authorization"] = (
            f"{ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )

    def _key_of(self, credentials: Credentials, day: str) -> bytes:
        held = self._derived  # once, and set whole: threads may share this
        if held is not None and held[0] is credentials and held[1] == day:
            return held[2]
        key = f"AWS4{credentials.secret_key}".encode()
        for part in (day, self.region, self.service, "aws4_request"):
            key = hmac.digest(key, part.encode("ascii"), "sha256")
        self._derived = (credentials, day, key)
        return key
