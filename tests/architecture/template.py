"""What the diagram shows, read from template.yaml: routes, and what each function's role may do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

TEMPLATE: Final = Path(__file__).resolve().parents[2] / "template.yaml"

WRITES: Final = frozenset({"PutItem", "UpdateItem", "DeleteItem"})
READS: Final = frozenset({"GetItem", "BatchGetItem", "Query", "ConditionCheckItem"})
SEALS: Final = frozenset(
    {
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
    }
)
OPENS: Final = frozenset({"Decrypt"})


class _Loader(yaml.SafeLoader):
    """Keeps what the short forms of intrinsic functions are about, and forgets the rest of them."""


def _intrinsic(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return {tag: node.value}
    if isinstance(node, yaml.SequenceNode):
        return {tag: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {tag: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _intrinsic)


@dataclass(frozen=True)
class Function:
    """``uses`` says of each table and KMS key whether something is written or sealed there (True),
    or read and opened alone (False)."""

    name: str
    routes: tuple[str, ...]
    scheduled: bool
    uses: Mapping[str, bool]


@dataclass(frozen=True)
class System:
    """``columns`` are the logical names of the tables, then of the KMS keys that functions use."""

    functions: tuple[Function, ...]
    tables: tuple[str, ...]
    keys: tuple[str, ...]
    platforms: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.tables, *self.keys)


def resources() -> Mapping[str, Any]:
    """Those of template.yaml; an intrinsic function is an object with its short name."""
    document = yaml.load(TEMPLATE.read_text(encoding="utf-8"), _Loader)  # noqa: S506 -- a SafeLoader
    found: Mapping[str, Any] = document["Resources"]
    return found


def read() -> System:
    all_of_them = resources()
    of_type = _by_type(all_of_them)
    functions = tuple(
        _function(name, all_of_them[name]["Properties"], all_of_them)
        for name in of_type["AWS::Serverless::Function"]
    )
    used = {each for function in functions for each in function.uses}
    return System(
        functions=functions,
        tables=tuple(of_type["AWS::DynamoDB::Table"]),
        keys=tuple(name for name in of_type["AWS::KMS::Key"] if name in used),
        platforms=tuple(
            name.removesuffix("UsagePlan").lower() for name in of_type["AWS::ApiGateway::UsagePlan"]
        ),
    )


def _by_type(all_of_them: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, resource in all_of_them.items():
        found.setdefault(resource["Type"], []).append(name)
    return found


def _function(name: str, properties: Mapping[str, Any], all_of_them: Mapping[str, Any]) -> Function:
    events = properties.get("Events", {}).values()
    role = all_of_them[properties["Role"]["GetAtt"].removesuffix(".Arn")]["Properties"]
    uses: dict[str, bool] = {}
    for action, resource in _rights(role):
        if action in WRITES | SEALS:
            uses[resource] = True
        elif action in READS | OPENS:
            uses.setdefault(resource, False)
    return Function(
        name=properties["CodeUri"].removeprefix("functions/"),
        routes=tuple(
            f"{each['Properties']['Method'].upper()} {each['Properties']['Path']}"
            for each in events
            if each["Type"] == "Api"
        ),
        scheduled=any(each["Type"] == "Schedule" for each in events),
        uses=uses,
    )


def _rights(role: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Action without its service, and the logical name of what it may be done to."""
    for policy in role["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            resources = statement["Resource"]
            for resource in resources if isinstance(resources, list) else [resources]:
                if isinstance(resource, dict) and "GetAtt" in resource:
                    for action in [actions] if isinstance(actions, str) else actions:
                        service, _, operation = action.partition(":")
                        if service in ("dynamodb", "kms"):
                            yield operation, resource["GetAtt"].removesuffix(".Arn")
