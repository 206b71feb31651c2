"""What the keyring row holds. Every secret in it is wrapped by KMS; nothing here can unwrap one."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from keyferry.config import Deployment
from keyferry.errors import CommandRefused
from keyferry.jose.rfc7517_jwk import EcJwk


class Purpose(StrEnum):
    """What a key is for. Part of its KMS encryption context, so IAM can grant each one apart."""

    TOKEN_SIGNING = "token-signing"
    REFRESH_MAC = "refresh-mac"
    DPOP_NONCE = "dpop-nonce"


class Standing(StrEnum):
    """Where a key is in its life: published but unused, in use, or kept for what it has signed."""

    NEXT = "next"
    CURRENT = "current"
    PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One key of the keyring. ``since`` (epoch seconds) is when it came to its ``standing``."""

    kid: str
    purpose: Purpose
    standing: Standing
    since: int
    wrapped: bytes = field(repr=False)
    public: EcJwk | None = None

    def context(self, deployment: Deployment) -> dict[str, str]:
        return encryption_context(deployment, self.purpose, self.kid)


@dataclass(frozen=True, slots=True)
class Clients:
    """The client keys, by the id of the API Gateway API key: which client each one names.

    They come from two sides that do not know of each other. A deployment brings those of the
    ``template``, all of them each time. The operator has ``added`` others and ``retired`` some, and
    a deployment changes neither.
    """

    template: Mapping[str, str]
    added: Mapping[str, str] = field(default_factory=dict)
    retired: frozenset[str] = frozenset()

    def known(self) -> dict[str, str]:
        """API-key id → client id of every key that is good."""
        named = {**self.added, **self.template}
        return {key: client for key, client in named.items() if key not in self.retired}

    def add(self, key_id: str, client_id: str) -> Clients:
        """Let ``key_id`` name ``client_id``, also when it was retired before.

        Raise `CommandRefused` for a client that the template does not have, and for a key that
        names another one.
        """
        if client_id not in self.template.values():
            raise CommandRefused("not_found", f"The template has no client {client_id}.")
        if {**self.added, **self.template}.get(key_id, client_id) != client_id:
            raise CommandRefused("invalid_request", "This key names another client.")
        added = dict(self.added)
        if key_id not in self.template:
            added[key_id] = client_id
        return Clients(self.template, added, self.retired - {key_id})

    def retire(self, key_id: str) -> Clients:
        """Let ``key_id`` name nobody. One of the template is remembered, as the next deployment
        brings it again; any other one is just forgotten."""
        added = {key: client for key, client in self.added.items() if key != key_id}
        retired = self.retired | ({key_id} & self.template.keys())
        return Clients(self.template, added, retired)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The whole row."""

    revision: int
    issuer: str
    clients: Clients
    keys: tuple[WrappedKey, ...]

    def of(self, purpose: Purpose, *standings: Standing) -> tuple[WrappedKey, ...]:
        return tuple(
            key
            for key in self.keys
            if key.purpose is purpose and (not standings or key.standing in standings)
        )

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The JWK Set (RFC 7517 §5) of every signing key, *next* included: published before used."""
        return {
            "keys": [
                {**key.public.members(), "kid": key.kid, "use": "sig", "alg": "ES256"}
                for key in self.of(Purpose.TOKEN_SIGNING)
                if key.public is not None
            ]
        }

    def to_json(self) -> str:
        return json.dumps(
            {
                "issuer": self.issuer,
                "clients": dict(self.clients.template),
                "added_clients": dict(self.clients.added),
                "retired_clients": sorted(self.clients.retired),
                "keys": [
                    {
                        "kid": key.kid,
                        "purpose": key.purpose,
                        "standing": key.standing,
                        "since": key.since,
                        "wrapped": base64.b64encode(key.wrapped).decode("ascii"),
                        "public": key.public.members() if key.public else None,
                    }
                    for key in self.keys
                ],
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, document: str, *, revision: int) -> Self:
        members = json.loads(document)
        return cls(
            revision=revision,
            issuer=members["issuer"],
            clients=Clients(
                template=members["clients"],
                # A row from before client keys could be added has neither.
                added=members.get("added_clients", {}),
                retired=frozenset(members.get("retired_clients", ())),
            ),
            keys=tuple(_key(entry) for entry in members["keys"]),
        )


def encryption_context(deployment: Deployment, purpose: Purpose, kid: str) -> dict[str, str]:
    """The KMS encryption context of a keyring key. It shows in CloudTrail and holds no secret."""
    return {
        "app": deployment.app,
        "stage": deployment.stage,
        "purpose": purpose.value,
        "kid": kid,
    }


def _key(entry: Mapping[str, Any]) -> WrappedKey:
    public = entry["public"]
    return WrappedKey(
        kid=entry["kid"],
        purpose=Purpose(entry["purpose"]),
        standing=Standing(entry["standing"]),
        since=entry["since"],
        wrapped=base64.b64decode(entry["wrapped"]),
        public=EcJwk(x=public["x"], y=public["y"]) if public else None,
    )
