"""Who is calling: which client, which device key, and with which access token."""

from __future__ import annotations

from keyferry.dpop import proof as dpop_proof
from keyferry.dpop.proof import Proof
from keyferry.edge.request import Call, Request
from keyferry.errors import RequestRefused
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.tokens import access
from keyferry.tokens.access import AccessToken


def client_id(request: Request, keyring: UnwrappedKeyring) -> str:
    """The client whose key API Gateway saw. It identifies and throttles; it proves nothing."""
    known = keyring.clients.get(request.client_key_id)
    if known is None:
        raise RequestRefused("invalid_client", "client key not in the keyring")
    return known


def device_key(
    call: Call,
    keyring: UnwrappedKeyring,
    *,
    now: int,
    required: bool,
    access_token: str | None = None,
) -> Proof | None:
    """Verify the DPoP proof of a call; None when there is none and none is ``required``."""
    header = call.headers.one("dpop")
    if header is None:
        if required:
            raise RequestRefused("invalid_dpop_proof", "proof: none")
        return None
    return dpop_proof.verify(
        header,
        method=call.method,
        url=call.url,
        now=now,
        nonce_time=keyring.dpop_nonce_time,
        access_token=access_token,
    )


def authenticate(
    call: Call, keyring: UnwrappedKeyring, *, now: int, require_dpop: bool
) -> tuple[AccessToken, Proof | None]:
    """Verify the access token, and the proof that the caller holds the key it is bound to
    (RFC 9449 §7.1). A bound token is never accepted as a bearer token (§7.2)."""
    scheme, _, presented = (call.headers.one("authorization") or "").partition(" ")
    bound = scheme.lower() == "dpop"
    if not bound and (require_dpop or scheme.lower() != "bearer"):
        raise RequestRefused("invalid_token", "no access token")
    token = access.verify(
        presented, keys=keyring.verification_keys(), issuer=keyring.issuer, now=now
    )
    if (token.jkt is not None) != bound:
        raise RequestRefused("invalid_token", "access token: under the wrong scheme")
    if not bound:
        return token, None
    proof = device_key(call, keyring, now=now, required=True, access_token=presented)
    if proof is None or proof.jkt != token.jkt:
        raise RequestRefused("invalid_token", "access token: bound to another key")
    return token, proof
