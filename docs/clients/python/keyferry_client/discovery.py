"""Authorization server metadata (RFC 8414) and the server's public signing keys (RFC 7517), both
cached.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from .errors import Retryable, TamperedDelivery
from .jose import PublicJwk, jwt_kid, public_p256_jwk

_DEFAULT_MAX_AGE = 300.0
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True)
class Metadata:
    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    jwks_uri: str


class Discovery:
    """Answers two questions: where are the endpoints, and which key has this `kid`?"""

    def __init__(
        self, issuer: str, get: Callable[[str], httpx.Response], clock: Callable[[], float]
    ) -> None:
        url = httpx.URL(issuer)
        if url.scheme != "https" and url.host not in _LOOPBACK:
            raise ValueError("the issuer must be an https URL")
        self._issuer = issuer.rstrip("/")
        self._get = get
        self._clock = clock
        self._metadata: Metadata | None = None
        self._jwks: dict[str, PublicJwk] = {}
        self._jwks_expire_at = 0.0

    def metadata(self) -> Metadata:
        if self._metadata is None:
            document = _document(self._get(f"{self._issuer}/.well-known/openid-configuration"))
            # RFC 8414 §3.3: a document that names another issuer is somebody else's.
            if document.get("issuer") != self._issuer:
                raise TamperedDelivery("the metadata names another issuer")
            self._metadata = Metadata(
                issuer=self._issuer,
                token_endpoint=self._endpoint(document, "token_endpoint"),
                revocation_endpoint=self._endpoint(document, "revocation_endpoint"),
                jwks_uri=self._endpoint(document, "jwks_uri"),
            )
        return self._metadata

    def key_for(self, token: str, *, typ: str) -> PublicJwk:
        """The public key that a JWT names, fetched again when it is unknown: the server rotates its
        keys.
        """
        kid = jwt_kid(token, typ=typ)
        if kid not in self._jwks or self._clock() >= self._jwks_expire_at:
            self._fetch_jwks()
        try:
            return self._jwks[kid]
        except KeyError:
            raise TamperedDelivery("signed with a key that the server does not publish") from None

    def _fetch_jwks(self) -> None:
        response = self._get(self.metadata().jwks_uri)
        keys = _document(response).get("keys")
        if not isinstance(keys, list):
            raise TamperedDelivery("not a JWK set")
        found: dict[str, PublicJwk] = {}
        for key in keys:
            # A set may hold keys for other purposes and of other types (RFC 7517 §5): those are not
            # for us.
            match key:
                case {"kty": "EC", "crv": "P-256", "kid": str(kid), **rest} if (
                    rest.get("use", "sig") == "sig"
                ):
                    found[kid] = public_p256_jwk(key)
        self._jwks = found
        self._jwks_expire_at = self._clock() + _max_age(response)

    def _endpoint(self, document: dict[str, object], name: str) -> str:
        url = document.get(name)
        # Tokens are sent there, so an endpoint outside of the issuer that the app was built with is
        # refused.
        if not isinstance(url, str) or not url.startswith(f"{self._issuer}/"):
            raise TamperedDelivery(f"{name} is not below the issuer")
        return url


def _document(response: httpx.Response) -> dict[str, object]:
    try:
        document = response.json()
    except ValueError as error:
        # Typically the login page of a public Wi-Fi.
        raise Retryable("discovery did not answer with JSON") from error
    if not isinstance(document, dict):
        raise TamperedDelivery("discovery answered with something that is not an object")
    return document


def _max_age(response: httpx.Response) -> float:
    match = re.search(r"\bmax-age=(\d+)", response.headers.get("Cache-Control", ""))
    return float(match[1]) if match else _DEFAULT_MAX_AGE
