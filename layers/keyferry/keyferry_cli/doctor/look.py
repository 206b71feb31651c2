"""Asks AWS about a stack, with calls that only read. What is refused becomes `Unseen`, never a guess.

The rights that it takes are in docs/doctor.md; a test holds them against the calls here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

from botocore import exceptions as aws
from botocore.config import Config
from botocore.parsers import ResponseParserError

from keyferry_cli.client_keys import ClientKeys
from keyferry_cli.doctor import policies
from keyferry_cli.doctor.facts import (
    EVERY,
    SETTINGS,
    Account,
    Alarm,
    ApiKey,
    Domain,
    Facts,
    Firewall,
    Function,
    KeyringKey,
    KmsKey,
    LogGroup,
    Method,
    Plan,
    Policy,
    Provider,
    Route,
    Schedule,
    Settings,
    Stack,
    Stage,
    Table,
    Topic,
    Unseen,
)
from keyferry_cli.stack_functions import CommandFailed, StackFunctions

_T = TypeVar("_T")

_CALLS: Final = Config(
    connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 5}
)
_AT_ONCE: Final = 8
_LIVE: Final = "live"
_ALARMS_AT_ONCE: Final = 100

_MAY_BE_MISSING: Final = ("AWS::ApiGateway::DomainName", "AWS::SNS::Topic")
"""Types that not every Keyferry stack has. Where another one is missing it is a stack of something
else, or of a version that this command does not know, and nothing must be said of it."""

_COMPARED: Final[Mapping[str, str]] = {
    "CodeSha256": "code",
    "Layers": "layers",
    "Environment": "environment",
    "Role": "role",
    "Runtime": "runtime",
    "MemorySize": "memory",
    "Timeout": "timeout",
}
"""What of a function's configuration its version is made of, and the word for it."""


@dataclass(frozen=True)  # without slots, for the cached properties
class Look:
    """Facts of one stack. Whoever asks needs a stack that can be described, and no more."""

    functions: StackFunctions
    now: Callable[[], float] = time.time

    def facts(self) -> Facts:
        """Raise `CommandFailed` if there is no such stack, or nobody who may ask."""
        parameters = self._parameters
        _ = self._clients
        found = self._each("AWS::Lambda::Function", self._function)
        domains = self._each("AWS::ApiGateway::DomainName", self._domain)
        return Facts(
            now=int(self.now()),
            # What cannot be told is judged by what is asked of production.
            prod=parameters.get("Stage") != "dev",
            stack={self.functions.stack: self._stack()},
            settings={_LIVE: _settings(found)},
            stages=self._each("AWS::ApiGateway::Stage", self._stage),
            routes=_spread(self._routes()),
            domains=domains,
            firewall=self._each("AWS::ApiGateway::Stage", self._firewall),
            plans=_spread(self._plans()),
            client_keys=_spread(self._client_keys()),
            functions={
                name: part if isinstance(part, Unseen) else part[0] for name, part in found.items()
            },
            account={"concurrency": self._account(parameters)},
            tables=self._each("AWS::DynamoDB::Table", self._table),
            kms_keys=self._each("AWS::KMS::Key", self._kms_key),
            logs=self._each("AWS::Logs::LogGroup", self._log_group),
            alarms=_spread(self._alarms()),
            topics=self._each("AWS::SNS::Topic", self._topic),
            keyring=_spread(self._keyring()),
            schedules=self._each("AWS::Events::Rule", self._schedule),
            keys=_spread(self._keys()),
            providers=_spread(self._providers()),
        )

    # ── the stack ────────────────────────────────────────────────────────

    @cached_property
    def _described(self) -> Mapping[str, Any]:
        with self.functions.reading():
            found = self._client("cloudformation").describe_stacks(StackName=self.functions.stack)
            described: Mapping[str, Any] = found["Stacks"][0]
            return described

    @cached_property
    def _parameters(self) -> Mapping[str, str]:
        listed = self._described.get("Parameters", [])
        return {each["ParameterKey"]: each.get("ParameterValue", "") for each in listed}

    @cached_property
    def _resources(self) -> Mapping[str, Mapping[str, str]] | Unseen:
        """Physical ids by logical name, by type."""

        def look() -> Mapping[str, Mapping[str, str]]:
            found: dict[str, dict[str, str]] = {}
            pages = self._client("cloudformation").get_paginator("list_stack_resources")
            for page in pages.paginate(StackName=self.functions.stack):
                for each in page["StackResourceSummaries"]:
                    if each.get("PhysicalResourceId"):
                        kind = found.setdefault(each["ResourceType"], {})
                        kind[each["LogicalResourceId"]] = each["PhysicalResourceId"]
            return found

        return _looked("cloudformation:ListStackResources", look)

    def _stack(self) -> Stack:
        described = self._described
        return Stack(described["StackStatus"], bool(described.get("EnableTerminationProtection")))

    def _each(self, kind: str, look: Callable[[str], _T | Unseen]) -> Mapping[str, _T | Unseen]:
        """What ``look`` says of each resource of a type, by its physical id."""
        if isinstance(self._resources, Unseen):
            return {EVERY: self._resources}
        names = self._resources.get(kind, {})
        if not names and kind not in _MAY_BE_MISSING:
            return {EVERY: Unseen("cloudformation:ListStackResources", f"there is no {kind}")}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(names, pool.map(look, names.values()), strict=True))

    def _client(self, service: str) -> Any:
        client: Any = self.functions.session.client(service, config=_CALLS)  # type: ignore[call-overload]
        return client

    @cached_property
    def _clients(self) -> Mapping[str, Any]:
        """Made once and before there are threads: sessions of boto3 are not for several at once."""
        services = ("apigateway", "dynamodb", "events", "kms", "lambda", "logs", "sns", "wafv2")
        return {service: self._client(service) for service in services}

    # ── API Gateway and the firewall ─────────────────────────────────────

    @property
    def _api(self) -> str:
        if isinstance(self._resources, Unseen):
            raise CommandFailed(self._resources.reason)
        (api,) = self._resources["AWS::ApiGateway::RestApi"].values()
        return api

    def _stage(self, name: str) -> Stage | Unseen:
        gateway = self._clients["apigateway"]

        def look() -> Stage:
            stage = gateway.get_stage(restApiId=self._api, stageName=name)
            api = gateway.get_rest_api(restApiId=self._api)
            return Stage(
                methods={
                    path: Method(
                        rate=settings.get("throttlingRateLimit"),
                        logging_level=settings.get("loggingLevel", "OFF"),
                        data_trace=settings.get("dataTraceEnabled", False),
                    )
                    for path, settings in stage.get("methodSettings", {}).items()
                },
                access_log_format=stage.get("accessLogSettings", {}).get("format"),
                cache=stage.get("cacheClusterEnabled", False),
                own_address=not api.get("disableExecuteApiEndpoint", False),
            )

        return _looked("apigateway:GET", look)

    def _routes(self) -> Mapping[str, Route] | Unseen:
        def look() -> Mapping[str, Route]:
            pages = self._clients["apigateway"].get_paginator("get_resources")
            return {
                f"{verb} {resource['path']}": Route(
                    client_key=method.get("apiKeyRequired", False),
                    iam=method.get("authorizationType") == "AWS_IAM",
                )
                for page in pages.paginate(restApiId=self._api, embed=["methods"])
                for resource in page["items"]
                for verb, method in resource.get("resourceMethods", {}).items()
            }

        return _looked("apigateway:GET", look)

    def _domain(self, name: str) -> Domain | Unseen:
        def look() -> Domain:
            found = self._clients["apigateway"].get_domain_name(domainName=name)
            return Domain(found.get("securityPolicy", ""))

        return _looked("apigateway:GET", look)

    def _firewall(self, stage: str) -> Firewall | Unseen:
        _, partition, _, region, *_ = self._described["StackId"].split(":")

        def look() -> Firewall:
            arn = f"arn:{partition}:apigateway:{region}::/restapis/{self._api}/stages/{stage}"
            found = self._clients["wafv2"].get_web_acl_for_resource(ResourceArn=arn)
            acl = found.get("WebACL")
            if not acl:
                return Firewall(attached=False)
            blocking = [
                rule
                for rule in acl.get("Rules", [])
                if "RateBasedStatement" in rule["Statement"] and "Block" in rule.get("Action", {})
            ]
            return Firewall(attached=True, blocking_rate_rules=len(blocking))

        return _looked("wafv2:GetWebACLForResource", look)

    def _plans(self) -> Mapping[str, Plan | Unseen] | Unseen:
        named = ClientKeys.of(self.functions).plans
        if not named:
            return Unseen("cloudformation:DescribeStacks", "there is no output …UsagePlanId")
        return {platform: self._plan(plan) for platform, plan in named.items()}

    def _plan(self, plan: str) -> Plan | Unseen:
        def look() -> Plan:
            found = self._clients["apigateway"].get_usage_plan(usagePlanId=plan)
            ours = [each for each in found.get("apiStages", []) if each["apiId"] == self._api]
            return Plan(
                on_stage=bool(ours),
                rate=found.get("throttle", {}).get("rateLimit"),
                quota=found.get("quota", {}).get("limit"),
                routes=frozenset(route for each in ours for route in each.get("throttle", {})),
            )

        return _looked("apigateway:GET", look)

    def _client_keys(self) -> Mapping[str, Any] | Unseen:
        return _looked(
            "apigateway:GET, lambda:InvokeFunction",
            lambda: {key.key_id: key for key in ClientKeys.of(self.functions).read()},
        )

    # ── functions ────────────────────────────────────────────────────────

    def _function(self, name: str) -> tuple[Function, Mapping[str, str]] | Unseen:
        """The function, and the environment of its live version: names and settings, no secret."""
        functions = self._clients["lambda"]

        def look() -> tuple[Function, Mapping[str, str]]:
            latest = functions.get_function_configuration(FunctionName=name)
            live = functions.get_function_configuration(FunctionName=name, Qualifier=_LIVE)
            alias = functions.get_alias(FunctionName=name, Name=_LIVE)
            reserved = functions.get_function_concurrency(FunctionName=name)
            weights = alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
            function = Function(
                differs=tuple(
                    word
                    for part, word in _COMPARED.items()
                    if _compared(latest, part) != _compared(live, part)
                ),
                changing_over=bool(weights),
                reserved=reserved.get("ReservedConcurrentExecutions"),
                public=self._is_public(name),
                tracing=live.get("TracingConfig", {}).get("Mode", "PassThrough"),
            )
            return function, live.get("Environment", {}).get("Variables", {})

        return _looked(
            "lambda:GetFunctionConfiguration, GetAlias, GetFunctionConcurrency, GetPolicy", look
        )

    def _is_public(self, name: str) -> bool:
        functions = self._clients["lambda"]
        for qualifier in ({}, {"Qualifier": _LIVE}):
            try:
                policy = functions.get_policy(FunctionName=name, **qualifier)["Policy"]
            except functions.exceptions.ResourceNotFoundException:
                continue  # no policy: IAM alone decides
            if any(map(policies.lets_anybody_in, json.loads(policy)["Statement"])):
                return True
        return False

    def _account(self, parameters: Mapping[str, str]) -> Account | Unseen:
        def look() -> Account:
            limit = self._clients["lambda"].get_account_settings()["AccountLimit"]
            watched = int(parameters.get("AccountConcurrency", "0"))
            return Account(int(limit["ConcurrentExecutions"]), watched)

        return _looked("lambda:GetAccountSettings", look)

    # ── state ────────────────────────────────────────────────────────────

    def _table(self, name: str) -> Table | Unseen:
        dynamodb = self._clients["dynamodb"]

        def look() -> Table:
            table = dynamodb.describe_table(TableName=name)["Table"]
            backups = dynamodb.describe_continuous_backups(TableName=name)
            recovery = backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
            expiry = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
            most = table.get("OnDemandThroughput", {})
            return Table(
                point_in_time_recovery=recovery["PointInTimeRecoveryStatus"] == "ENABLED",
                deletion_protection=table.get("DeletionProtectionEnabled", False),
                time_to_live=expiry["TimeToLiveStatus"] in ("ENABLED", "ENABLING"),
                max_units=all(
                    most.get(each, -1) > 0
                    for each in ("MaxReadRequestUnits", "MaxWriteRequestUnits")
                ),
            )

        return _looked(
            "dynamodb:DescribeTable, DescribeContinuousBackups, DescribeTimeToLive", look
        )

    def _kms_key(self, key: str) -> KmsKey | Unseen:
        kms = self._clients["kms"]

        def look() -> KmsKey:
            found = kms.describe_key(KeyId=key)["KeyMetadata"]
            deleted = found.get("DeletionDate")
            # KMS does not answer for a key that is to be deleted.
            asks = found["KeyState"] == "Enabled"
            policy = json.loads(kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
            denials = [
                each for each in policy["Statement"] if policies.denies_everybody_to_decrypt(each)
            ]
            return KmsKey(
                state=found["KeyState"],
                rotates=asks and kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"],
                needs_context=any(map(policies.is_about_no_context, denials)),
                ours_only=any(
                    policies.is_about_others(each, self.functions.stack) for each in denials
                ),
                deleted_at=f"{deleted:%Y-%m-%d}" if deleted else "",
            )

        return _looked("kms:DescribeKey, GetKeyPolicy, GetKeyRotationStatus", look)

    def _log_group(self, name: str) -> LogGroup | Unseen:
        def look() -> LogGroup:
            found = self._clients["logs"].describe_log_groups(logGroupNamePrefix=name)
            for group in found["logGroups"]:
                if group["logGroupName"] == name:
                    return LogGroup(True, group.get("retentionInDays"))
            return LogGroup(False, None)

        return _looked("logs:DescribeLogGroups", look)

    def _alarms(self) -> Mapping[str, Alarm] | Unseen:
        if isinstance(self._resources, Unseen):
            return self._resources
        # The physical id is the alarm's name.
        names = list(self._resources.get("AWS::CloudWatch::Alarm", {}).values())

        def look() -> Mapping[str, Alarm]:
            cloudwatch = self._client("cloudwatch")
            found = dict.fromkeys(names, Alarm(tells=False, state="gone"))
            for start in range(0, len(names), _ALARMS_AT_ONCE):
                some = names[start : start + _ALARMS_AT_ONCE]
                for each in cloudwatch.describe_alarms(AlarmNames=some)["MetricAlarms"]:
                    tells = each.get("ActionsEnabled", True) and bool(each.get("AlarmActions"))
                    found[each["AlarmName"]] = Alarm(tells, each.get("StateValue", ""))
            return found

        return _looked("cloudwatch:DescribeAlarms", look)

    def _topic(self, arn: str) -> Topic | Unseen:
        def look() -> Topic:
            pages = self._clients["sns"].get_paginator("list_subscriptions_by_topic")
            arns = [
                each["SubscriptionArn"]
                for page in pages.paginate(TopicArn=arn)
                for each in page["Subscriptions"]
            ]
            confirmed = [each for each in arns if each.startswith("arn:")]
            return Topic(len(confirmed), arns.count("PendingConfirmation"))

        return _looked("sns:ListSubscriptionsByTopic", look)

    def _schedule(self, rule: str) -> Schedule | Unseen:
        def look() -> Schedule:
            return Schedule(self._clients["events"].describe_rule(Name=rule)["State"] == "ENABLED")

        return _looked("events:DescribeRule", look)

    # ── what the stack's own functions tell ──────────────────────────────

    def _keyring(self) -> Mapping[str, KeyringKey] | Unseen:
        return _looked(
            "lambda:InvokeFunction",
            lambda: {
                key["kid"]: KeyringKey(key["purpose"], key["standing"], key["since"])
                for key in self.functions.keep_keyring("keyring.show")["keys"]
            },
        )

    def _keys(self) -> Mapping[str, ApiKey] | Unseen:
        return _looked(
            "lambda:InvokeFunction",
            lambda: {
                key["name"]: _api_key(key) for key in self.functions.operate("keys.list")["keys"]
            },
        )

    def _providers(self) -> Mapping[str, Provider] | Unseen:
        return _looked(
            "lambda:InvokeFunction",
            lambda: {
                each["name"]: Provider(each["first_login"])
                for each in self.functions.operate("providers.list")["providers"]
            },
        )


def _looked(right: str, look: Callable[[], _T]) -> _T | Unseen:
    try:
        return look()
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        return Unseen(right, f"{error.operation_name}: {code or 'refused'}")
    except CommandFailed as failure:
        return Unseen(right, str(failure))
    except (aws.BotoCoreError, ResponseParserError, KeyError) as error:
        # Also an answer that is not of the form that AWS describes.
        return Unseen(right, f"no answer that is understood ({type(error).__name__})")


def _spread(found: Mapping[str, _T | Unseen] | Mapping[str, _T] | Unseen) -> Mapping[str, Any]:
    return {EVERY: found} if isinstance(found, Unseen) else found


def _settings(
    found: Mapping[str, tuple[Function, Mapping[str, str]] | Unseen],
) -> Settings | Unseen:
    values: dict[str, set[str]] = {}
    for part in found.values():
        if isinstance(part, Unseen):
            # One function that is not seen may be the one that is set otherwise.
            return part
        for variable, value in part[1].items():
            values.setdefault(variable, set()).add(value)
    missing = sorted(set(SETTINGS) - values.keys())
    if missing:
        return Unseen(
            "lambda:GetFunctionConfiguration", f"no function has the variable {missing[0]}"
        )
    return Settings({variable: frozenset(each) for variable, each in values.items()})


def _compared(configuration: Mapping[str, Any], part: str) -> Any:
    value = configuration.get(part)
    return [layer["Arn"] for layer in value] if part == "Layers" and value else value


def _api_key(key: Mapping[str, Any]) -> ApiKey:
    policy = key["policy"]
    return ApiKey(
        policy=Policy(
            roles=frozenset(policy["roles"]),
            attested=policy["attested"],
            second_factor=policy["second_factor"],
            minimum_version=policy["min_app_version"] is not None,
        )
        if policy is not None
        else None,
        current_since=key["current"]["created_at"] if key["current"] is not None else None,
        pending_since=key["pending"]["created_at"] if key["pending"] is not None else None,
        cache_seconds=key["cache_seconds"],
        proxied=key["upstream"] is not None,
    )
