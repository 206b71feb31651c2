"""Every route: what it is for, what it takes, and how it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from keyferry.edge.request import FORM, JSON
from keyferry.vault.access import Reason
from keyferry.vault.device_envelope import HPKE, JWE
from keyferry_cli.openapi import responses

KEY_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

TAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Login": "How a session begins, and how users come to be.",
        "Tokens": "How a session goes on, and how it ends.",
        "Keys": "Deliveries of API keys, encrypted to the device.",
        "Proxy": "Calls to a service with a key that no device is given.",
        "Account": "The signed-in user's password, second factor and sessions.",
        "Discovery": "Public documents, for anybody.",
        "Operator": "For whoever runs the stack.",
    }
)


class Access(Enum):
    """What stands before a route, as names of security schemes."""

    PUBLIC = ()
    CLIENT = ("clientKey",)
    PROOF = ("clientKey", "proof")
    TOKEN = ("clientKey", "accessToken", "proof")
    OPERATOR = ("operator",)


@dataclass(frozen=True, slots=True)
class Success:
    """An answer that is no error. ``content`` is by media type: a model, or a JSON schema."""

    description: str
    content: Mapping[str, type[BaseModel] | Mapping[str, Any]] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """``body`` is by media type the name of a schema of `keyferry_cli.openapi.requests`; ``errors``
    are the codes that the function itself answers with, but for those that all can."""

    id: str
    tag: str
    summary: str
    description: str
    access: Access
    success: Mapping[int, Success]
    errors: frozenset[str] = frozenset()
    body: Mapping[str, str] = field(default_factory=dict)
    parameters: tuple[Mapping[str, Any], ...] = ()

    @property
    def protected(self) -> bool:
        """Whether DPoP errors are 401 here (RFC 9449 §7.1) and not 400."""
        return self.access is Access.TOKEN


ALL: Final = frozenset(
    {"invalid_request", "payload_too_large", "server_error", "temporarily_unavailable"}
)
"""Errors that every function can answer with."""

_CLIENT: Final = frozenset({"invalid_client"})
_PROOF: Final = _CLIENT | {"invalid_dpop_proof", "use_dpop_nonce"}
_TOKEN: Final = _PROOF | {"invalid_token"}
_BODY: Final = frozenset({"unsupported_media_type"})
_GUESS: Final = frozenset({"too_many_attempts"})
_WITHHELD: Final = frozenset({*Reason, "not_found"})

_APP_CHECK: Final = {
    "name": "X-Firebase-AppCheck",
    "in": "header",
    "description": "A Firebase App Check token, where the deployment asks for one.",
    "schema": {"type": "string"},
}
_APP_VERSION: Final = {
    "name": "Keyferry-App-Version",
    "in": "header",
    "description": "The app's version now, if it was updated since the login.",
    "schema": {"type": "string", "pattern": "^[0-9A-Za-z.+-]{1,64}$"},
    "example": "2.4.1",
}
_IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` of the last delivery of this session.",
    "schema": {"type": "string"},
}


def _name(parameter: str) -> Mapping[str, Any]:
    return {
        "name": parameter,
        "in": "path",
        "required": True,
        "description": "Name of a key.",
        "schema": {"type": "string", "pattern": KEY_NAME},
        "example": "gemini",
    }


def _query(name: str, description: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _json(model: type[BaseModel], description: str, *headers: str) -> Mapping[int, Success]:
    return {200: Success(description, {JSON: model}, headers)}


_NOTHING: Final = {204: Success("Done.")}

_SEALED: Final[Mapping[str, Any]] = {
    JWE: {
        "type": "string",
        "description": "A compact JWE (RFC 7516) around a signed JWT with the claims of `KeyDelivery`.",
        "contentMediaType": JWE,
        "pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
        "contentSchema": {"$ref": "#/components/schemas/KeyDelivery"},
    },
    HPKE: {
        "type": "string",
        "description": "HPKE (RFC 9180) around the same JWT: header, encapsulated key and ciphertext.",
        "contentMediaType": HPKE,
        "pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
        "contentSchema": {"$ref": "#/components/schemas/KeyDelivery"},
    },
}

_DELIVERY: Final = {
    200: Success(
        "The keys, signed and then encrypted to this device. HPKE for whoever names it in `Accept`.",
        _SEALED,
        ("ETag", "Vary"),
    ),
    304: Success("Nothing has changed since `If-None-Match`.", headers=("ETag", "Vary")),
}

_SIGNED_IN: Final = {
    200: Success("A session: an access token and a refresh token.", {JSON: responses.TokenResponse})
}


_LOGIN_DESCRIPTION: Final = """\
There are three ways in, and a body has exactly one of them: user name and password; the `auth_session` that `mfa_required` gave, \
with a code; an ID token of a configured provider. Unknown, wrong and disabled get one and the same `invalid_grant`."""

_TOKEN_DESCRIPTION: Final = """\
RFC 6749 §6, with rotation: every refresh gives a new refresh token. A client that gets no reply sends **the same token again** and gets \
the same successor. Only `invalid_grant` means that the user has to log in; a timeout, a 429 and every 5xx do not."""

_PROXY_DESCRIPTION: Final = """\
One request to the key's upstream, by the key's rules and within a budget for each user. The proof is good for one request: make a new one \
for every attempt, and repeat an attempt of unknown outcome only if it may be carried out twice."""


OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = MappingProxyType(
    {
        ("POST", "/v1/login"): Operation(
            "login",
            "Login",
            "Log in",
            _LOGIN_DESCRIPTION,
            Access.PROOF,
            _SIGNED_IN,
            _PROOF | _BODY | _GUESS | {"invalid_grant", "mfa_required", "attestation_required"},
            {JSON: "LoginRequest"},
            (_APP_CHECK,),
        ),
        ("POST", "/v1/invitations/redeem"): Operation(
            "redeemInvitation",
            "Login",
            "Become a user by an invitation",
            "A code of the operator's, and a password of one's own. The next step is a login.",
            Access.CLIENT,
            _json(responses.UserMade, "There is such a user now."),
            _CLIENT
            | _BODY
            | _GUESS
            | {"invalid_grant", "password_refused", "attestation_required"},
            {JSON: "RedeemRequest"},
            (_APP_CHECK,),
        ),
        ("POST", "/v1/register"): Operation(
            "register",
            "Login",
            "Become a user",
            "Where the stack lets anybody in (`SelfRegistration`). The next step is a login.",
            Access.CLIENT,
            _json(responses.UserMade, "There is such a user now, without roles."),
            _CLIENT
            | _BODY
            | _GUESS
            | {"registration_closed", "username_taken", "password_refused", "attestation_required"},
            {JSON: "RegisterRequest"},
            (_APP_CHECK,),
        ),
        ("POST", "/v1/token"): Operation(
            "refresh",
            "Tokens",
            "Refresh a session",
            _TOKEN_DESCRIPTION,
            Access.PROOF,
            _SIGNED_IN,
            _PROOF | _BODY | {"invalid_grant", "unsupported_grant_type"},
            {FORM: "RefreshForm", JSON: "RefreshRequest"},
        ),
        ("POST", "/v1/revoke"): Operation(
            "revoke",
            "Tokens",
            "End a session by its refresh token",
            "RFC 7009. It asks for no proof: a token in wrong hands is better dead.",
            Access.CLIENT,
            _json(responses.TokenRevoked, "The token is worth nothing (any more)."),
            _CLIENT | _BODY | {"unsupported_token_type"},
            {FORM: "RevocationForm", JSON: "RevocationRequest"},
        ),
        ("GET", "/v1/keys"): Operation(
            "getKeys",
            "Keys",
            "All keys, or some",
            "All that the caller may have; what is withheld is listed with the reason.",
            Access.TOKEN,
            _DELIVERY,
            _TOKEN | {"not_acceptable", "too_many_requests"},
            parameters=(
                _query(
                    "names",
                    "Only these, with commas between them; 100 at most.",
                    {
                        "type": "string",
                        "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(,[A-Za-z0-9][A-Za-z0-9_.-]{0,63}){0,99}$",
                    },
                ),
                _IF_NONE_MATCH,
                _APP_VERSION,
            ),
        ),
        ("GET", "/v1/keys/{name}"): Operation(
            "getKey",
            "Keys",
            "One key",
            "A key that is withheld is an error here.",
            Access.TOKEN,
            _DELIVERY,
            _TOKEN | _WITHHELD | {"not_acceptable", "too_many_requests"},
            parameters=(
                _name("name"),
                _query(
                    "version",
                    "The version before the current one, while it may still be delivered.",
                    {"type": "string", "pattern": "^[1-9][0-9]{0,14}$"},
                ),
                _IF_NONE_MATCH,
                _APP_VERSION,
            ),
        ),
        ("PUT", "/v1/device/encryption-key"): Operation(
            "replaceEncryptionKey",
            "Keys",
            "Replace the device's encryption key",
            "From now on keys are delivered to this one. Sending the same key again changes nothing.",
            Access.TOKEN,
            _json(responses.EncryptionKeyReplaced, "The key that deliveries are encrypted to."),
            _TOKEN | _BODY,
            {JSON: "EncryptionKeyRequest"},
        ),
        ("POST", "/v1/proxy/{key}"): Operation(
            "proxy",
            "Proxy",
            "Have a request sent with a key",
            _PROXY_DESCRIPTION,
            Access.TOKEN,
            _json(responses.ProxyAnswer, "The upstream has answered; `status` is its own."),
            (_TOKEN | _BODY | _WITHHELD) - {"proxy_only"}
            | {
                "proxy_refused",
                "budget_exhausted",
                "upstream_unavailable",
                "upstream_answer_too_large",
                "upstream_echo",
                "upstream_timeout",
            },
            {JSON: "ProxyRequest"},
            (_name("key"), _APP_VERSION),
        ),
        ("POST", "/v1/password"): Operation(
            "changePassword",
            "Account",
            "Change the password",
            "Every other session of the user ends; this one goes on.",
            Access.TOKEN,
            _json(responses.SessionsEnded, "Changed."),
            _TOKEN | _BODY | _GUESS | {"wrong_password", "password_refused"},
            {JSON: "PasswordRequest"},
        ),
        ("POST", "/v1/mfa/totp"): Operation(
            "beginTotp",
            "Account",
            "Set up a second factor",
            "A new secret (RFC 6238), in force once a code of it has confirmed it. Soon after a login only.",
            Access.TOKEN,
            _json(responses.TotpSecret, "Show it as a QR code, and confirm it with a code."),
            _TOKEN | {"already_enrolled", "insufficient_user_authentication"},
        ),
        ("POST", "/v1/mfa/totp/confirm"): Operation(
            "confirmTotp",
            "Account",
            "Confirm a second factor",
            "From now on a login takes a code. Sessions that exist go on.",
            Access.TOKEN,
            _json(
                responses.RecoveryCodesIssued, "In force. The recovery codes are shown this once."
            ),
            _TOKEN | _BODY | {"invalid_code"},
            {JSON: "CodeRequest"},
        ),
        ("POST", "/v1/mfa/totp/remove"): Operation(
            "removeTotp",
            "Account",
            "Remove a second factor",
            "With a code of the app, or a recovery code.",
            Access.TOKEN,
            _NOTHING,
            _TOKEN | _BODY | _GUESS | {"invalid_code"},
            {JSON: "CodeRequest"},
        ),
        ("GET", "/v1/sessions"): Operation(
            "listSessions",
            "Account",
            "The user's sessions",
            "One for each device that is signed in.",
            Access.TOKEN,
            _json(responses.SessionList, "Oldest first."),
            _TOKEN,
        ),
        ("DELETE", "/v1/sessions"): Operation(
            "endSessions",
            "Account",
            "End the user's sessions",
            "An ended session refreshes no more and is delivered no key from that moment on.",
            Access.TOKEN,
            _json(responses.SessionsEnded, "Ended."),
            _TOKEN,
            parameters=(
                _query(
                    "except",
                    "`current` spares the session that asks.",
                    {"type": "string", "enum": ["current"]},
                ),
            ),
        ),
        ("DELETE", "/v1/sessions/{id}"): Operation(
            "endSession",
            "Account",
            "End one session",
            "One of the caller's own, this one too.",
            Access.TOKEN,
            _NOTHING,
            _TOKEN | {"not_found"},
            parameters=(
                {
                    "name": "id",
                    "in": "path",
                    "required": True,
                    "description": "As `GET /v1/sessions` lists it.",
                    "schema": {"type": "string", "minLength": 1},
                },
            ),
        ),
        ("GET", "/.well-known/jwks.json"): Operation(
            "getJwks",
            "Discovery",
            "Signing keys",
            "Public keys of the keyring, the next one included (RFC 7517 §5).",
            Access.PUBLIC,
            _json(responses.JwkSet, "May be cached for five minutes."),
        ),
        ("GET", "/.well-known/openid-configuration"): Operation(
            "getOpenidConfiguration",
            "Discovery",
            "Metadata",
            "By OpenID Connect Discovery, for the libraries that look there.",
            Access.PUBLIC,
            _json(responses.ServerMetadata, "May be cached for five minutes."),
        ),
        ("GET", "/.well-known/oauth-authorization-server"): Operation(
            "getAuthorizationServerMetadata",
            "Discovery",
            "Metadata of the authorization server",
            "By RFC 8414.",
            Access.PUBLIC,
            _json(responses.ServerMetadata, "May be cached for five minutes."),
        ),
        ("GET", "/openapi.json"): Operation(
            "getOpenApi",
            "Operator",
            "This document",
            "With this stack's URL. Only where the parameter `ServeOpenApi` is `true`.",
            Access.OPERATOR,
            {200: Success("An OpenAPI 3.1 document.", {JSON: {"type": "object"}})},
        ),
    }
)
