"""The client keys of a stack, at API Gateway and in the keyring.

Two sides must agree about a client key: API Gateway lets it in where it is enabled and in the usage
plan of its platform, and the functions accept it where the keyring knows it. What changes here
changes in the order in which API Gateway never lets in a key that the keyring does not know: the
keyring first when one is added, API Gateway first when one is retired.

The template has one key for each platform. All others are outside of the stack, and tagged with its
name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final, Self

from keyferry_cli.stack_functions import CommandFailed, StackFunctions

STACK_TAG: Final = "keyferry:stack"
PLATFORM_TAG: Final = "keyferry:platform"

_PLAN_OUTPUT: Final = re.compile(r"([A-Z][a-z0-9]*)UsagePlanId")


@dataclass(frozen=True, slots=True)
class ClientKey:
    """One client key; never its value. ``created`` is in epoch seconds.

    ``known`` is whether the keyring has it, ``in_plan`` whether it is in the plan of its platform.
    ``exists`` is False for one that the keyring or the template names and API Gateway does not have.
    """

    key_id: str
    platform: str
    from_template: bool
    known: bool
    in_plan: bool = False
    exists: bool = False
    enabled: bool = False
    name: str = ""
    created: int | None = None

    @property
    def works(self) -> bool:
        return self.known and self.in_plan and self.exists and self.enabled


@dataclass(frozen=True, slots=True)
class Usage:
    """How many requests a key made in some days, and on which of them the last one."""

    requests: int
    last_used: date | None


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """``plans``: the id of the usage plan of each platform."""

    functions: StackFunctions
    plans: Mapping[str, str]

    @classmethod
    def of(cls, functions: StackFunctions) -> Self:
        """Those of a stack, by its outputs: ``IosUsagePlanId`` names the plan of ``ios``."""
        plans = {
            match[1].lower(): value
            for name, value in functions.outputs().items()
            if (match := _PLAN_OUTPUT.fullmatch(name))
        }
        return cls(functions, plans)

    def plan(self, platform: str) -> str:
        """Raise `CommandFailed` for a platform that the template does not have."""
        if platform not in self.plans:
            raise CommandFailed(
                f"the stack has no usage plan for {platform}, only for"
                f" {', '.join(sorted(self.plans)) or 'none'}: a platform is added in template.yaml"
                " (docs/clients.md) and deployed before its keys are"
            )
        return self.plans[platform]

    def read(self) -> list[ClientKey]:
        """All keys in the plans of the stack, in its keyring and in its template, oldest first."""
        keyring = self.functions.keep_keyring("keyring.show")
        platforms: dict[str, str] = {**keyring["template_clients"], **keyring["clients"]}
        in_plans = {
            key_id: platform
            for platform, plan in self.plans.items()
            for key_id in self._in_plan(plan)
        }
        keys = [
            self._key(key_id, platform, keyring, in_plan=in_plans.get(key_id) == platform)
            for key_id, platform in (in_plans | platforms).items()
        ]
        # What was deleted and is named by nobody may stay in a plan's list for a while.
        found = [key for key in keys if key.exists or key.known or key.from_template]
        return sorted(found, key=lambda key: (key.platform, key.created or 0, key.key_id))

    def find(self, key_id: str) -> ClientKey:
        """One key of this stack, also one of which only the tag says so.

        Raise `CommandFailed` for a key of somebody else, and for one that there is not.
        """
        for key in self.read():
            if key.key_id == key_id:
                return key
        found = self._described(key_id)
        tags = found.get("tags", {}) if found else {}
        if found is None or tags.get(STACK_TAG) != self.functions.stack:
            raise CommandFailed(f"not_found: there is no client key {key_id} of this stack.")
        return _with_details(
            ClientKey(key_id, tags.get(PLATFORM_TAG, ""), from_template=False, known=False), found
        )

    def usage(self, key: ClientKey, *, days: int, today: date) -> Usage:
        """The key's use in the last ``days``, today included, by UTC.

        Raise `CommandFailed` when that cannot be known.
        """
        if not key.in_plan:
            raise CommandFailed(f"{key.key_id} is in no usage plan, which is where use is counted")
        begin = today - timedelta(days=days - 1)
        daily: list[int] = []
        with self.functions.gateway() as gateway:
            pages = gateway.get_paginator("get_usage").paginate(
                usagePlanId=self.plan(key.platform),
                keyId=key.key_id,
                startDate=begin.isoformat(),
                endDate=today.isoformat(),
            )
            for page in pages:
                if "items" not in page:
                    raise CommandFailed(f"API Gateway does not tell the use of {key.key_id}")
                # For each key (there is but one), for each day: used, and left of the quota.
                daily += [day[0] for log in page["items"].values() for day in log]
        used = [day for day, count in enumerate(daily) if count > 0]
        return Usage(sum(daily), begin + timedelta(days=used[-1]) if used else None)

    def value(self, key_id: str) -> str:
        """What an app sends as ``x-api-key``."""
        with self.functions.gateway() as gateway:
            return str(gateway.get_api_key(apiKey=key_id, includeValue=True)["value"])

    def create(self, platform: str, *, today: date) -> str:
        """A new key that is in no plan yet, so that API Gateway lets it in nowhere. Return its id."""
        stack = self.functions.stack
        with self.functions.gateway() as gateway:
            made = gateway.create_api_key(
                name=f"{stack}-{platform}-{today:%Y%m%d}",
                enabled=True,
                generateDistinctId=True,
                tags={STACK_TAG: stack, PLATFORM_TAG: platform},
            )
            return str(made["id"])

    def admit(self, key_id: str, platform: str) -> None:
        """Tell the keyring of a key, and then put it into the platform's plan."""
        plan = self.plan(platform)
        self._tell("keyring.add_client", key_id=key_id, client_id=platform)
        if key_id not in self._in_plan(plan):
            with self.functions.gateway() as gateway:
                gateway.create_usage_plan_key(usagePlanId=plan, keyId=key_id, keyType="API_KEY")

    def enable(self, key_id: str) -> None:
        self._set_enabled(key_id, "true")

    def disable(self, key_id: str) -> None:
        self._set_enabled(key_id, "false")

    def _set_enabled(self, key_id: str, value: str) -> None:
        with self.functions.gateway() as gateway:
            operation = {"op": "replace", "path": "/enabled", "value": value}
            gateway.update_api_key(apiKey=key_id, patchOperations=[operation])

    def forget(self, key_id: str) -> None:
        """Take a key out of the keyring."""
        self._tell("keyring.retire_client", key_id=key_id)

    def delete(self, key_id: str) -> None:
        """Delete a key at API Gateway, which takes it out of its plan too."""
        with self.functions.gateway() as gateway:
            try:
                gateway.delete_api_key(apiKey=key_id)
            except gateway.exceptions.NotFoundException:
                return  # an earlier try did it

    def _tell(self, command: str, **members: str) -> None:
        self.functions.keep_keyring(command, operator=self.functions.operator, **members)

    def _in_plan(self, plan: str) -> list[str]:
        with self.functions.gateway() as gateway:
            pages = gateway.get_paginator("get_usage_plan_keys").paginate(usagePlanId=plan)
            # What API Gateway says of each key here has its value in it.
            return [key["id"] for page in pages for key in page["items"]]

    def _key(
        self, key_id: str, platform: str, keyring: Mapping[str, Any], *, in_plan: bool
    ) -> ClientKey:
        key = ClientKey(
            key_id,
            platform,
            from_template=key_id in keyring["template_clients"],
            known=key_id in keyring["clients"],
            in_plan=in_plan,
        )
        return _with_details(key, self._described(key_id))

    def _described(self, key_id: str) -> Mapping[str, Any] | None:
        with self.functions.gateway() as gateway:
            try:
                found: Mapping[str, Any] = gateway.get_api_key(apiKey=key_id, includeValue=False)
            except gateway.exceptions.NotFoundException:
                return None
            return found


def _with_details(key: ClientKey, found: Mapping[str, Any] | None) -> ClientKey:
    """``key`` with what API Gateway says of it."""
    if found is None:
        return key
    return replace(
        key,
        exists=True,
        enabled=found["enabled"],
        name=found.get("name", ""),
        created=int(found["createdDate"].timestamp()),
    )
