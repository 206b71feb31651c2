"""What a deployed stack's functions may do, by the transformed template, and what they did, by the audit log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from keyferry_cli.local.emulator import REGION
from tests.iam_policy import Request, Statement, UnsupportedPolicyError, Values, allowing

if TYPE_CHECKING:
    from keyferry_cli.local.calls import Call
    from keyferry_cli.local.stack import LocalStack

ACCOUNT: Final = "000000000000"
_UA: Final = "AWS_SDK_UA_APP_ID"
_APPLICATION: Final = "keyferry-"
_PSEUDO_PARAMETERS: Final = {"AWS::Partition": "aws", "AWS::AccountId": ACCOUNT}
_ACTIONS_OF_A_TRANSACTION: Final = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}
_ON_ONE_ROW: Final = {
    "GetItem": "Key",
    "PutItem": "Item",
    "UpdateItem": "Key",
    "DeleteItem": "Key",
}


@dataclass(frozen=True, order=True)
class Right:
    """One action on one resource, as one statement of a function's role allows it."""

    function: str
    sid: str
    action: str
    resource: str
    """The name in the template, or ``*``."""

    where: str = ""
    """One of the values, if a condition lists several of them to choose from."""


@dataclass(frozen=True)
class Rights:
    """The roles of the template, with the names and parameters of one stack put in."""

    resources: Mapping[str, Any]
    """The transformed template's."""

    physical: Mapping[str, str]
    """Name in the template to the name that CloudFormation gave it."""

    parameters: Mapping[str, str]
    """And the stack's name, as ``AWS::StackName``."""

    @classmethod
    def of(cls, stack: LocalStack, resources: Mapping[str, Any]) -> Rights:
        client = stack.boto3_client("cloudformation")
        described = client.describe_stack_resources(StackName=stack.stack_name)["StackResources"]
        (itself,) = client.describe_stacks(StackName=stack.stack_name)["Stacks"]
        return cls(
            resources,
            {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in described},
            {each["ParameterKey"]: each["ParameterValue"] for each in itself["Parameters"]}
            | {"AWS::StackName": stack.stack_name},
        )

    @cached_property
    def statements(self) -> dict[str, tuple[Statement, ...]]:
        """Of each function's role, by the function's application id without its prefix."""
        found: dict[str, tuple[Statement, ...]] = {}
        for resource in self.resources.values():
            if resource["Type"] != "AWS::Lambda::Function":
                continue
            properties = resource["Properties"]
            application = properties["Environment"]["Variables"][_UA]
            assert application.startswith(_APPLICATION)
            role, attribute = properties["Role"]["Fn::GetAtt"]
            assert attribute == "Arn"
            if role not in self.physical:
                continue  # of a function that this stack does not have
            assert not self.resources[role]["Properties"].get("ManagedPolicyArns")
            found[application.removeprefix(_APPLICATION)] = tuple(
                Statement.parse(self._resolved(statement))
                for policy in self.resources[role]["Properties"]["Policies"]
                for statement in policy["PolicyDocument"]["Statement"]
            )
        return found

    @cached_property
    def principals(self) -> dict[str, str]:
        """The ARN of each function's role."""
        found = {}
        for resource in self.resources.values():
            if resource["Type"] == "AWS::Lambda::Function":
                application = resource["Properties"]["Environment"]["Variables"][_UA]
                role, _ = resource["Properties"]["Role"]["Fn::GetAtt"]
                if role not in self.physical:
                    continue
                path = self._resolved(self.resources[role]["Properties"].get("Path", "/"))
                arn = f"arn:aws:iam::{ACCOUNT}:role{path}{self.physical[role]}"
                found[application.removeprefix(_APPLICATION)] = arn
        return found

    def guard(self, name: str) -> tuple[Statement, ...]:
        """What a KMS key's own policy denies to everybody. It has to leave the rest to the roles."""
        properties = self.resources[name]["Properties"]
        policy = self._resolved(properties.get("KeyPolicy", {"Statement": []}))["Statement"]
        denies = [each for each in policy if each["Effect"] == "Deny"]
        assert all(each["Principal"] == {"AWS": "*"} for each in denies)
        to_roles = {"Action": "kms:*", "Resource": "*", "Principal": {"AWS": _ROOT}}
        assert not policy or any(to_roles.items() <= each.items() for each in policy)
        return tuple(Statement.parse(each) for each in denies)

    def everything(self) -> set[Right]:
        return {
            Right(function, statement.sid, action, self._name(resource), value)
            for function, statements in self.statements.items()
            for statement in statements
            for action in statement.actions
            for resource in statement.resources
            for _, value in _choices(statement)
        }

    def used(self, call: Call) -> set[Right]:
        """The rights that a function's call rests on. Raise `NotAllowedError` if it has too few."""
        assert call.function is not None
        found = set()
        for asked in self.requests(call):
            principal = {"aws:PrincipalArn": self.principals[call.function]}
            request = replace(asked, context={**asked.context, **principal})
            name = self._name(request.resource)
            statements = self.statements[call.function] + self.guard(name)
            allowed = allowing(statements, request)
            if not allowed:
                raise NotAllowedError(call.function, request)
            for statement in allowed:
                resource = name if request.resource in statement.resources else "*"
                right = Right(call.function, statement.sid, request.action, resource)
                for key, value in _choices(statement):
                    if request.context.get(key, "") == value:
                        found.add(replace(right, where=value))
        return found

    def requests(self, call: Call) -> Iterator[Request]:
        """What AWS authorizes when it gets this call.

        https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html
        https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html
        https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
        """
        asked = call.request
        if call.service == "kms":
            context: dict[str, Values] = {}
            if encryption := asked.get("EncryptionContext"):
                context["kms:EncryptionContextKeys"] = tuple(encryption)
                context |= {f"kms:EncryptionContext:{key}": v for key, v in encryption.items()}
            if "KeyPairSpec" in asked:
                context["kms:DataKeyPairSpec"] = asked["KeyPairSpec"]
            # Always named: a Decrypt without it would be one with whatever key the blob is of.
            yield Request(f"kms:{call.operation}", asked["KeyId"], context)
        elif call.operation == "TransactWriteItems":
            for item in asked["TransactItems"]:
                for member, write in item.items():
                    row = write["Item"] if member == "Put" else write["Key"]
                    one = self._on_rows(_ACTIONS_OF_A_TRANSACTION[member], write["TableName"], row)
                    enclosing = {"dynamodb:EnclosingOperation": call.operation}
                    yield replace(one, context={**one.context, **enclosing})
        elif call.operation == "BatchGetItem":
            # The rows of a table are taken together: if each of them were asked about by itself, as
            # single reads are, a policy that allows all of them at once would allow that too.
            for table, wanted in asked["RequestItems"].items():
                yield self._on_rows(call.operation, table, *wanted["Keys"])
        elif call.operation == "Query":
            condition = re.fullmatch(r"(#\w+) = (:\w+)", asked["KeyConditionExpression"])
            assert condition is not None
            name = asked["ExpressionAttributeNames"][condition[1]]
            value = asked["ExpressionAttributeValues"][condition[2]]
            yield self._on_rows(call.operation, asked["TableName"], {name: value})
        elif call.service == "dynamodb" and call.operation in _ON_ONE_ROW:
            row = asked[_ON_ONE_ROW[call.operation]]
            yield self._on_rows(call.operation, asked["TableName"], row)
        else:
            raise UnsupportedPolicyError(f"what {call.service}:{call.operation} is allowed by")

    def _on_rows(self, operation: str, table: str, *rows: Mapping[str, Any]) -> Request:
        name = self._name(arn := _table_arn(table))
        (key,) = (
            each["AttributeName"]
            for each in self.resources[name]["Properties"]["KeySchema"]
            if each["KeyType"] == "HASH"
        )
        leading = tuple(row[key]["S"] for row in rows)
        return Request(f"dynamodb:{operation}", arn, {"dynamodb:LeadingKeys": leading})

    # ---------------------------------------------------------------- names

    @cached_property
    def _names(self) -> dict[str, str]:
        kinds = ("AWS::DynamoDB::Table", "AWS::KMS::Key", "AWS::Logs::LogGroup")
        return {
            self._arn(name): name
            for name, resource in self.resources.items()
            if resource["Type"] in kinds and name in self.physical  # others are for other stages
        }

    def _name(self, arn: str) -> str:
        return "*" if arn == "*" else self._names[arn]

    def _arn(self, name: str) -> str:
        physical = self.physical[name]
        match self.resources[name]["Type"]:
            case "AWS::DynamoDB::Table":
                return _table_arn(physical)
            case "AWS::KMS::Key":
                return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{physical}"
            case "AWS::Logs::LogGroup":
                return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{physical}:*"
            case kind:
                raise UnsupportedPolicyError(f"the ARN of a {kind}")

    def _resolved(self, value: Any) -> Any:
        match value:
            case {"Fn::GetAtt": [str(name), "Arn"]}:
                return self._arn(name)
            case {"Ref": "AWS::NoValue"}:
                return _NO_VALUE
            case {"Ref": str(name)}:
                return self.parameters[name]
            case {"Fn::Sub": str(text)}:
                known = {**_PSEUDO_PARAMETERS, **self.parameters}
                return re.sub(r"\$\{([A-Za-z:]+)\}", lambda name: known[name[1]], text)
            case {"Fn::If": ["IsProd", in_prod, otherwise]}:
                return self._resolved(in_prod if self.parameters["Stage"] == "prod" else otherwise)
            case dict():
                if any(key.startswith("Fn::") for key in value):
                    raise UnsupportedPolicyError(f"function {value}")
                return {key: self._resolved(each) for key, each in value.items()}
            case list():
                resolved = [self._resolved(each) for each in value]
                return [each for each in resolved if each is not _NO_VALUE]
        return value


def _choices(statement: Statement) -> list[tuple[str, str]]:
    """Context key and value, for each of several values that a condition is content with."""
    listed = [
        (key, value)
        for key, values in statement.conditions.get("StringEquals", {}).items()
        if len(values) > 1
        for value in values
    ]
    return listed or [("", "")]


_ROOT: Final = f"arn:aws:iam::{ACCOUNT}:root"
_NO_VALUE: Final = object()


class NotAllowedError(Exception):
    """A function called AWS with something that its role does not allow."""

    def __init__(self, function: str, request: Request) -> None:
        # Of the context the names only: its values are users' and rows'.
        super().__init__(
            f"{function}: {request.action} on {request.resource}, {[*request.context]}"
        )


def _table_arn(physical: str) -> str:
    return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{physical}"


def calls_of_functions(stack: LocalStack) -> list[Call]:
    """Every call that the stack's functions have made since it was started."""
    return [call for call in stack.audit_log.since(None) if call.function is not None]


def used_rights(stack: LocalStack, resources: Mapping[str, Any]) -> set[Right]:
    """Raise `NotAllowedError` if a function called with anything that its role does not allow."""
    rights = Rights.of(stack, resources)
    return {right for call in calls_of_functions(stack) for right in rights.used(call)}
