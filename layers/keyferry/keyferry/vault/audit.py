"""The audit trail: one log line for each delivery, each use and each change of a key, and never a
value.

    message  "key audit"
    action   an `Action`
    keys     which versions, by the key's name
    refused  why a key was withheld, by its name
    …        who; of a device ``sub``, ``sid``, ``client_id``, ``jkt``, ``platform``, ``app_version``
             and ``attested``; of an operator ``operator``, as that one's own tool says it is (what
             AWS knows of it stands in CloudTrail, under the same ``function_request_id``)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from keyferry.edge.telemetry import logger
from keyferry.sessions.model import Session
from keyferry.vault.access import Facts

MESSAGE: Final = "key audit"


class Action(StrEnum):
    # of devices
    DELIVERED = "delivered"
    NOT_MODIFIED = "not_modified"
    REFUSED = "refused"
    PROXIED = "proxied"
    # of operators
    PUT = "put"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    MINIMUM_SET = "minimum_set"
    POLICY_SET = "policy_set"
    UPSTREAM_SET = "upstream_set"
    DELETED = "deleted"


def of_device(
    action: Action,
    session: Session,
    facts: Facts,
    *,
    keys: Mapping[str, str],
    refused: Mapping[str, str],
) -> None:
    logger.info(
        MESSAGE,
        extra={
            "action": action,
            "keys": dict(keys),
            "refused": dict(refused),
            "sub": session.sub,
            "sid": session.sid,
            "client_id": session.client_id,
            "jkt": session.jkt,
            "platform": facts.platform,
            "app_version": facts.app_version,
            "attested": facts.attested,
        },
    )


def of_operator(action: Action, operator: str, *, keys: Mapping[str, str]) -> None:
    logger.info(MESSAGE, extra={"action": action, "keys": dict(keys), "operator": operator})
