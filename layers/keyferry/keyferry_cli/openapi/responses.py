"""What a success looks like. The tests hold every real answer against these, which allow no other
member; the document leaves that out, as a client must ignore members that it does not know.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from keyferry.users.totp import RECOVERY_CODES
from keyferry.vault.access import Reason

Seconds = Annotated[int, Field(ge=0)]
Time = Annotated[int, Field(ge=0, description="Seconds since 1970-01-01T00:00:00Z.")]
Thumbprint = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_-]{43}$", description="Thumbprint of a public key (RFC 7638)."),
]
Coordinate = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ErrorBody(_Body):
    """Every error, of a function, of API Gateway and of the firewall. Branch on `error`."""

    error: str
    error_description: Annotated[
        str, Field(description="For developers; its wording is no interface.")
    ]
    request_id: Annotated[str, Field(description="To search the logs by. Empty from the firewall.")]
    auth_session: Annotated[
        str | None,
        Field(description="With `mfa_required` at a login with a password: to go on with a code."),
    ] = None


class TokenResponse(_Body):
    """RFC 6749 §5.1. To the client both tokens are opaque."""

    access_token: Annotated[str, Field(description="A JWT (RFC 9068), for 15 minutes at most.")]
    token_type: Annotated[
        Literal["DPoP", "Bearer"],
        Field(description="`Bearer` only on a stack with `RequireDPoP=false`."),
    ]
    expires_in: Annotated[Seconds, Field(description="Of the access token, in seconds.")]
    refresh_token: Annotated[
        str, Field(pattern=r"^kfr_[A-Za-z0-9_-]{124}$", description="Store it before you use it.")
    ]
    refresh_expires_in: Annotated[Seconds, Field(description="Of the refresh token, in seconds.")]
    session_id: str
    scope: str


class DeliveredKey(_Body):
    value: Annotated[str, Field(description="The API key. Keep it in memory alone.")]
    version: Annotated[int, Field(ge=1)]
    min_version: Annotated[
        int, Field(ge=0, description="Drop a value whose version is below this.")
    ]
    cache_seconds: Annotated[Seconds, Field(description="How long the value may be kept.")]


class KeyDelivery(_Body):
    """Claims of the signed JWT inside a delivery (`typ` is `keyferry-keys+jwt`). A client checks the
    signature and every claim."""

    iss: Annotated[str, Field(description="The issuer: the URL of this server.")]
    aud: Annotated[str, Field(description="The client id, such as `ios`.")]
    sub: Annotated[str, Field(description="The user.")]
    sid: Annotated[str, Field(description="The session.")]
    iat: Time
    proof_jti: Annotated[
        str | None, Field(description="The `jti` of the proof that was sent with this request.")
    ]
    encryption_kid: Thumbprint
    min_fetch_interval: Annotated[
        Seconds, Field(description="How long to wait before the next fetch.")
    ]
    keys: Annotated[dict[str, DeliveredKey], Field(description="By name.")]
    refused: Annotated[
        dict[str, Reason | Literal["not_found", "temporarily_unavailable"]],
        Field(description="Why a key is not among `keys`, by its name."),
    ]


class SessionEntry(_Body):
    id: str
    device: Annotated[str, Field(description="The name that the device gave at login.")]
    platform: str
    app_version: Annotated[str, Field(description="At login.")]
    created_at: Time
    last_used_at: Annotated[Time, Field(description="The last refresh, or the login.")]
    current: Annotated[bool, Field(description="Whether this is the session that asks.")]


class SessionList(_Body):
    """The caller's own, oldest first."""

    sessions: list[SessionEntry]


class SessionsEnded(_Body):
    ended: Annotated[int, Field(ge=0, description="How many sessions this has ended.")]


class EncryptionKeyReplaced(_Body):
    kid: Thumbprint


class TotpSecret(_Body):
    """Not in force before a code of it has confirmed it."""

    secret: Annotated[str, Field(pattern=r"^[A-Z2-7]+$", description="In Base32.")]
    otpauth_uri: Annotated[str, Field(pattern=r"^otpauth://totp/", description="For a QR code.")]


class RecoveryCodesIssued(_Body):
    recovery_codes: Annotated[
        list[str],
        Field(
            min_length=RECOVERY_CODES,
            max_length=RECOVERY_CODES,
            description="Shown this once. Each works once.",
        ),
    ]


class UserMade(_Body):
    username: str


class TokenRevoked(_Body):
    """Empty, also for a token that is none (RFC 7009 §2.2)."""


class ProxyAnswer(_Body):
    """What the upstream has answered, whatever its status."""

    status: Annotated[int, Field(ge=100, le=599)]
    headers: Annotated[
        dict[str, str], Field(description="By names in lower case, and few of them.")
    ]
    body: Annotated[str | None, Field(description="When it is plain text.")] = None
    body_base64: Annotated[
        str | None,
        Field(
            description="In place of `body` for anything else.",
            json_schema_extra={"contentEncoding": "base64"},
        ),
    ] = None


class SigningKey(_Body):
    """A public key (RFC 7517) that access tokens and deliveries are signed with."""

    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: Coordinate
    y: Coordinate
    kid: str
    use: Literal["sig"]
    alg: Literal["ES256"]


class JwkSet(_Body):
    keys: list[SigningKey]


class ServerMetadata(_Body):
    """RFC 8414 §2, with what clients of OpenID Connect Discovery insist on."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    jwks_uri: str
    grant_types_supported: list[str]
    response_types_supported: list[str]
    subject_types_supported: list[str]
    id_token_signing_alg_values_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]
    dpop_signing_alg_values_supported: list[str]
    scopes_supported: list[str]
    keyferry_login_endpoint: str
    keyferry_keys_endpoint: str
    keyferry_sessions_endpoint: str


MODELS: tuple[type[BaseModel], ...] = (
    ErrorBody,
    TokenResponse,
    KeyDelivery,
    SessionList,
    SessionsEnded,
    EncryptionKeyReplaced,
    TotpSecret,
    RecoveryCodesIssued,
    UserMade,
    TokenRevoked,
    ProxyAnswer,
    JwkSet,
    ServerMetadata,
)
