"""Schemas of the request bodies: those of the functions' models, and what the functions check
beyond them as far as a schema can say it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from keyferry.proxy.proxy import ProxyRequest
from keyferry.sessions.management import EncryptionKeyRequest, RevocationRequest
from keyferry.users.accounts import PasswordRequest, RedeemRequest, RegisterRequest
from keyferry.users.enrolment import CodeRequest
from keyferry_cli.openapi.bodies import LoginRequest, RefreshRequest

Schema = dict[str, Any]

REF: Final = "#/components/schemas/{model}"

MODELS: Final[tuple[type[BaseModel], ...]] = (
    LoginRequest,
    RefreshRequest,
    RevocationRequest,
    EncryptionKeyRequest,
    ProxyRequest,
    CodeRequest,
    RedeemRequest,
    RegisterRequest,
    PasswordRequest,
)

WAYS_IN: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]]] = {
    "PasswordLogin": (
        ("username", "password"),
        ("otp",),
        "With a password, and with a code (`otp`) at once or after `mfa_required`.",
    ),
    "ContinuedLogin": (
        ("auth_session", "otp"),
        (),
        "With a code, after `mfa_required` has given an `auth_session`.",
    ),
    "ProviderLogin": (
        ("provider", "id_token"),
        ("nonce", "invitation", "otp"),
        "With an ID token of a provider that the operator has configured.",
    ),
}
"""The ways of `LoginRequest`: members that each needs, and that each may have."""

_COORDINATE: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}
# The public key of RFC 7517 Appendix A.1.
_EXAMPLE_X: Final = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"
_EXAMPLE_Y: Final = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
_AGREEMENT: Final[Schema] = {
    "type": "string",
    "description": "Without it, `ECDH-ES`.",
    "enum": ["ECDH-ES", "ECDH-ES+A256KW"],
}


def _jwk(description: str, required: Schema, alg: Schema, key_ops: list[str]) -> Schema:
    return {
        "type": "object",
        "description": description,
        "required": list(required),
        "properties": {
            **required,
            "alg": alg,
            "use": {"const": "enc"},
            "key_ops": {"type": "array", "items": {"type": "string", "enum": key_ops}},
        },
    }


ENCRYPTION_KEYS: Final[Mapping[str, Schema]] = {
    "EncryptionKey": {
        "description": "A public JWK (RFC 7517) that keys are delivered to. One with a private member is refused.",
        "oneOf": [
            {"$ref": REF.format(model=name)}
            for name in ("EcEncryptionKey", "OkpEncryptionKey", "RsaEncryptionKey")
        ],
    },
    "EcEncryptionKey": {
        **_jwk(
            "For secure hardware: Secure Enclave, Android Keystore.",
            {
                "kty": {"const": "EC"},
                "crv": {"const": "P-256"},
                "x": _COORDINATE,
                "y": _COORDINATE,
            },
            _AGREEMENT,
            ["deriveKey", "deriveBits"],
        ),
        "examples": [{"kty": "EC", "crv": "P-256", "x": _EXAMPLE_X, "y": _EXAMPLE_Y}],
    },
    "OkpEncryptionKey": _jwk(
        "For keys in software (RFC 8037).",
        {"kty": {"const": "OKP"}, "crv": {"const": "X25519"}, "x": _COORDINATE},
        {**_AGREEMENT, "default": "ECDH-ES"},
        ["deriveKey", "deriveBits"],
    ),
    "RsaEncryptionKey": _jwk(
        "For the Keystore before Android 12, where the stack has `AllowRsaOaep=true`.",
        {
            "kty": {"const": "RSA"},
            "n": {"type": "string", "description": "2048 to 4096 bits."},
            "e": {"type": "string"},
        },
        {"const": "RSA-OAEP"},
        ["encrypt", "wrapKey"],
    ),
}

_EXAMPLES: Final[Mapping[str, Schema]] = {
    "PasswordLogin": {"username": "ana", "password": "correct horse battery staple"},
    "ContinuedLogin": {"auth_session": "eyJ…", "otp": "492039"},
    "ProviderLogin": {"provider": "google", "id_token": "eyJ…", "nonce": "5f1d…"},
}
_EXAMPLE_DEVICE: Final[Schema] = {
    "name": "Ana's phone",
    "platform": "ios",
    "app_version": "1.2.0",
    "encryption_key": {"kty": "EC", "crv": "P-256", "x": _EXAMPLE_X, "y": _EXAMPLE_Y},
}

_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_NULL: Final[Schema] = {"type": "null"}


def schemas() -> dict[str, Schema]:
    """By name, for ``components.schemas``."""
    _, made = models_json_schema([(model, "validation") for model in MODELS], ref_template=REF)
    found: dict[str, Schema] = {name: plain(each) for name, each in made["$defs"].items()}
    login = found.pop("LoginRequest")
    device = {"$ref": REF.format(model="EncryptionKey")}
    found["DeviceRequest"]["properties"]["encryption_key"] = device
    found["EncryptionKeyRequest"]["properties"]["encryption_key"] = device
    found["LoginRequest"] = {
        "description": "One of three ways in, each with the device.",
        "oneOf": [{"$ref": REF.format(model=name)} for name in WAYS_IN],
    }
    for name, (needed, allowed, description) in WAYS_IN.items():
        found[name] = _way_in(login, needed, allowed, description)
        found[name]["examples"] = [{**_EXAMPLES[name], "device": _EXAMPLE_DEVICE}]
    refresh = found["RefreshRequest"]
    refresh["properties"]["grant_type"] = {"const": "refresh_token"}
    proxy = found["ProxyRequest"]
    proxy["properties"]["body_base64"]["anyOf"][0] |= {
        "pattern": _BASE64,
        "contentEncoding": "base64",
    }
    # Either of the two is null or not there.
    proxy["anyOf"] = [{"properties": {name: _NULL}} for name in ("body", "body_base64")]
    found["RefreshForm"] = _form(refresh)
    found["RevocationForm"] = _form(found["RevocationRequest"])
    return found | copy.deepcopy(dict(ENCRYPTION_KEYS))


def _way_in(
    login: Schema, needed: tuple[str, ...], allowed: tuple[str, ...], description: str
) -> Schema:
    """What is needed is not null; what belongs to another way is null or not there."""
    properties: dict[str, Schema] = {}
    for name, schema in login["properties"].items():
        if name in needed:
            properties[name] = without_null(schema)
        elif name in allowed or name == "device":
            properties[name] = schema
        else:
            properties[name] = _NULL
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "required": [*needed, "device"],
        "properties": properties,
    }


def _form(model: Schema) -> Schema:
    """The same as a form, which has no null."""
    fields = {name: without_null(each) for name, each in model["properties"].items()}
    return {**copy.deepcopy(model), "properties": fields}


def without_null(schema: Schema) -> Schema:
    kept = [each for each in schema.get("anyOf", []) if each != _NULL]
    if not kept:
        return schema
    (one,) = kept
    return {**{name: each for name, each in schema.items() if name != "anyOf"}, **one}


def plain(node: Any) -> Any:
    """A schema of pydantic's without the titles that it makes of names, and without defaults: some
    generators take a member that has one for a member that is always there."""
    if isinstance(node, list):
        return [plain(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        name: {key: plain(each) for key, each in value.items()}
        if name == "properties"
        else plain(value)
        for name, value in node.items()
        if name not in ("title", "default")
    }
