"""The function that keeps the keyring: on a schedule, as the stack's custom resource, and for the
operator.

The custom resource is how a fresh stack gets its first keys, its issuer and its clients. Deleting
the resource changes nothing: keys of a stack that is going away still open its backups.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from keyferry import aws, clock
from keyferry.config import Deployment, TokenPolicy
from keyferry.edge.telemetry import Metric, count, failure, logger
from keyferry.errors import CommandRefused, Unavailable
from keyferry.keyring.lifecycle import KeyMaker, Maintenance, Schedule, maintain, schedules
from keyferry.keyring.model import Purpose
from keyferry.keyring.store import KeyringStore

PHYSICAL_ID: Final = "keyferry-keyring"
_RESPONSE_TIMEOUT_SECONDS: Final = 5

_MEMBERS: Final[Mapping[str, frozenset[str]]] = {
    "keyring.revoke": frozenset({"kid"}),
    "keyring.add_client": frozenset({"key_id", "client_id"}),
    "keyring.retire_client": frozenset({"key_id"}),
}

ApiKeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,64}$")]
"""The id of an API key, which is no secret: never its value, which `GenerateDistinctId` keeps apart."""


class KeyringProperties(BaseModel):
    """The properties of ``Custom::Keyring``."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    issuer: str = Field(alias="Issuer", pattern=r"^https?://[^?#]+[^/?#]$")
    clients: dict[str, list[str]] = Field(alias="Clients", min_length=1)
    """Client id → the ids of its API Gateway API keys: two of them while one replaces the other."""

    def by_key(self) -> dict[str, str]:
        """API-key id → client id. Raise `ValueError` when two clients name one key."""
        pairs = [(key, client) for client, keys in self.clients.items() for key in keys]
        if len(dict(pairs)) != len(pairs):
            raise ValueError("an API key of two clients")
        return dict(pairs)


class KeyringCommand(BaseModel):
    """A direct invocation by the operator; no reply shows more of a key than its public half.

    ``operator`` is who gives the command, in the words of that one's own tool: it is for reading the
    log, and nothing is decided by it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    command: Literal[
        "keyring.show",
        "keyring.rotate",
        "keyring.revoke",
        "keyring.add_client",
        "keyring.retire_client",
    ]
    now: bool = False
    kid: str | None = None
    key_id: ApiKeyId | None = None
    client_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None

    operator: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{0,512}$")] = ""

    @model_validator(mode="after")
    def _members_of_the_command(self) -> Self:
        members = ("kid", "key_id", "client_id")
        given = {name for name in members if getattr(self, name) is not None}
        if given != _MEMBERS.get(self.command, frozenset()):
            raise ValueError("not the members of this command")
        return self


class CustomResourceRequest(BaseModel):
    """What CloudFormation sends to a custom resource."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    RequestType: Literal["Create", "Update", "Delete"]
    ResponseURL: str = Field(repr=False)  # presigned: whoever has it can answer for us
    StackId: str
    RequestId: str
    LogicalResourceId: str
    PhysicalResourceId: str = PHYSICAL_ID
    ResourceProperties: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class RotateKeyring:
    store: KeyringStore
    maker: KeyMaker
    schedules: Mapping[Purpose, Schedule]
    now: Callable[[], int]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(
            store=KeyringStore(aws.boto3_dynamodb(), environ["KEYFERRY_KEYRING_TABLE"]),
            maker=KeyMaker(
                kms=aws.boto3_kms(),
                key_arn=environ["KEYFERRY_KEYRING_KEY_ARN"],
                deployment=Deployment.from_environ(environ),
                random=clock.random,
            ),
            schedules=schedules(idle_seconds=TokenPolicy.idle_from_environ(environ)),
            now=clock.now,
        )

    def __call__(self, event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        """Run once. A schedule's failure raises, so that Lambda retries it and the alarm sees it;
        a custom resource's is told to CloudFormation, which would otherwise wait for an hour."""
        if "command" in event:
            return self.command(event)
        if "ResponseURL" not in event:
            return _report(self.maintain())
        request = CustomResourceRequest.model_validate(event)
        try:
            data = self._apply(request)
        except Exception as error:  # noqa: BLE001 -- else CloudFormation waits for an hour
            logger.error("custom resource failed", extra=failure(error))
            _answer(request, "FAILED", f"{type(error).__name__}; see the function's log", {})
            return {}
        _answer(request, "SUCCESS", "", data)
        return data

    def command(self, event: dict[str, Any]) -> dict[str, Any]:
        """What the operator asks for, answered as the operator function answers."""
        try:
            command = KeyringCommand.model_validate(event)
            match command:
                case KeyringCommand(command="keyring.rotate"):
                    self.maintain(early=command.now)
                case KeyringCommand(command="keyring.revoke"):
                    self.maintain(revoked=command.kid)
                case KeyringCommand(
                    command="keyring.add_client", key_id=str(key), client_id=str(client)
                ):
                    done = self.maintain(operated=lambda clients: clients.add(key, client))
                    _log("added", command, done)
                case KeyringCommand(command="keyring.retire_client", key_id=str(key)):
                    done = self.maintain(operated=lambda clients: clients.retire(key))
                    _log("retired", command, done)
            return {"ok": True, "result": self._show()}
        except ValidationError:
            return _refused(
                "invalid_request", "There is no such command, or not with these members."
            )
        except CommandRefused as refused:
            return _refused(refused.code, refused.description)
        except LookupError as error:
            return _refused("not_found", f"{error}.")
        except Unavailable as unavailable:
            return _refused("temporarily_unavailable", f"AWS: {unavailable.operation}; try again.")

    def maintain(self, **changes: Any) -> Maintenance:
        """`lifecycle.maintain` with this function's store, maker, schedules and clock."""
        done = maintain(self.store, self.maker, self.schedules, now=self.now(), **changes)
        logger.info("keyring", extra={"keyring": _report(done)})
        count(Metric.KEYRING_MAINTAINED)
        if done.written:
            count(Metric.KEYRING_CHANGED)
        return done

    def _show(self) -> dict[str, Any]:
        keyring = self.store.read()
        if keyring is None:
            raise LookupError("there is no keyring")
        return {
            "revision": keyring.revision,
            "issuer": keyring.issuer,
            "clients": keyring.clients.known(),
            "template_clients": dict(keyring.clients.template),
            "keys": [
                {
                    "kid": key.kid,
                    "purpose": key.purpose,
                    "standing": key.standing,
                    "since": key.since,
                }
                for key in keyring.keys
            ],
        }

    def _apply(self, request: CustomResourceRequest) -> dict[str, Any]:
        if request.RequestType == "Delete":
            return {}
        properties = KeyringProperties.model_validate(request.ResourceProperties)
        return _report(self.maintain(issuer=properties.issuer, clients=properties.by_key()))


def _log(action: Literal["added", "retired"], command: KeyringCommand, done: Maintenance) -> None:
    logger.info(
        "client key",
        extra={
            "action": action,
            "client_key_id": command.key_id,
            "client_id": command.client_id,
            "written": done.written,
            "operator": command.operator,
        },
    )


def _report(done: Maintenance) -> dict[str, Any]:
    return {
        "revision": done.revision,
        "written": done.written,
        "created": list(done.created),
        "dropped": list(done.dropped),
    }


def _refused(code: str, description: str) -> dict[str, Any]:
    return {"ok": False, "error": {"error": code, "error_description": description}}


def _answer(
    request: CustomResourceRequest, status: str, reason: str, data: Mapping[str, Any]
) -> None:
    body = {
        "Status": status,
        "Reason": reason,
        "PhysicalResourceId": request.PhysicalResourceId,
        "StackId": request.StackId,
        "RequestId": request.RequestId,
        "LogicalResourceId": request.LogicalResourceId,
        "Data": {"Revision": str(data.get("revision", ""))},
    }
    if urlsplit(request.ResponseURL).scheme not in ("https", "http"):
        raise ValueError("ResponseURL is not HTTP")
    # An empty Content-Type is what CloudFormation's presigned URL was signed with.
    put = HttpRequest(  # noqa: S310 -- scheme checked above
        request.ResponseURL,
        data=json.dumps(body).encode("utf-8"),
        method="PUT",
        headers={"Content-Type": ""},
    )
    with urlopen(put, timeout=_RESPONSE_TIMEOUT_SECONDS):  # noqa: S310 -- scheme checked above
        pass
