"""The local run deploys the template that AWS gets, but for one list of what the emulator refuses."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from botocore.exceptions import WaiterError

from keyferry_cli.local.environments import ROOT
from keyferry_cli.local.sam import Sam
from keyferry_cli.local.template import (
    PACKED,
    UNSUPPORTED_PROPERTIES,
    UNSUPPORTED_RESOURCES,
    for_emulator,
)

if TYPE_CHECKING:
    from pathlib import Path

    from keyferry_cli.local.stack import LocalStack

REFUSED: dict[str, dict[str, Any]] = {
    "AWS::WAFv2::WebACLAssociation": {
        "ResourceArn": "arn:aws:apigateway:us-east-1::/restapis/a/stages/b",
        "WebACLArn": "arn:aws:wafv2:us-east-1:000000000000:regional/webacl/a/b",
    },
    "AWS::WAFv2::LoggingConfiguration": {
        "ResourceArn": "arn:aws:wafv2:us-east-1:000000000000:regional/webacl/a/b",
        "LogDestinationConfigs": ["arn:aws:logs:us-east-1:000000000000:log-group:aws-waf-logs-a"],
    },
    "AWS::CloudWatch::Alarm": {
        "Metrics": [{"Id": "a", "Expression": "1 + 1"}],
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": 1,
        "EvaluationPeriods": 1,
    },
    "AWS::Serverless::Function": {
        "Runtime": "python3.13",
        "Handler": "index.handler",
        "InlineCode": "def handler(event, context): pass",
        "AutoPublishAlias": "live",
        "DeploymentPreference": {"Type": "AllAtOnce"},
    },
}
"""For each entry of the list the smallest resource that it is there for."""


def test_there_is_an_example_for_each_entry() -> None:
    assert set(REFUSED) == set(WHY) == {*UNSUPPORTED_RESOURCES, *UNSUPPORTED_PROPERTIES}


WHY = {
    "AWS::WAFv2::WebACLAssociation": "Unrecognized resource types: [AWS::WAFv2::WebACLAssociation]",
    "AWS::WAFv2::LoggingConfiguration": "Unrecognized resource types: [AWS::WAFv2::LoggingConfig",
    "AWS::CloudWatch::Alarm": "Properties.Metrics (metric math) is not supported",
    "AWS::Serverless::Function": "AWS::CodeDeploy::",
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_each_entry_is_needed(stack: LocalStack, kind: str) -> None:
    """Once the emulator takes one, this fails, and the list gets shorter."""
    assert WHY[kind] in refusal(stack, kind, REFUSED[kind])


@pytest.mark.parametrize("kind", sorted(UNSUPPORTED_PROPERTIES))
def test_without_the_property_it_is_taken(stack: LocalStack, kind: str) -> None:
    kept = {
        name: each for name, each in REFUSED[kind].items() if name != UNSUPPORTED_PROPERTIES[kind]
    }
    assert refusal(stack, kind, kept) == ""


def refusal(stack: LocalStack, kind: str, properties: dict[str, Any]) -> str:
    """Why the emulator does not make a stack of this one resource; empty when it does."""
    client = stack.boto3_client("cloudformation")
    name = f"probe-{uuid.uuid4().hex[:8]}"
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Transform": "AWS::Serverless-2016-10-31",
        "Resources": {"Probe": {"Type": kind, "Properties": properties}},
    }
    try:
        client.create_stack(
            StackName=name,
            TemplateBody=json.dumps(template),
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
        client.get_waiter("stack_create_complete").wait(
            StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
    except client.exceptions.ClientError as error:
        return str(error)
    except WaiterError:
        events = client.describe_stack_events(StackName=name)["StackEvents"]
        return "\n".join(each.get("ResourceStatusReason", "") for each in events)
    finally:
        client.delete_stack(StackName=name)
        client.close()
    return ""


@pytest.fixture(scope="session")
def built(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built template; the running stack was made of the same build."""
    log = tmp_path_factory.mktemp("sam") / "sam.log"
    return Sam(ROOT, log, lambda _: None).build().with_name("template.yaml")


def test_nothing_else_is_removed(built: Path) -> None:
    template = yaml.safe_load(built.read_text(encoding="utf-8"))
    local = yaml.safe_load(built.with_name("template-local.yaml").read_text(encoding="utf-8"))
    assert {name: each for name, each in template.items() if name != "Resources"} == {
        name: each for name, each in local.items() if name != "Resources"
    }
    removed = template["Resources"].keys() - local["Resources"].keys()
    assert {template["Resources"][name]["Type"] for name in removed} == {*UNSUPPORTED_RESOURCES}
    for name in removed:
        kind, properties = (template["Resources"][name][key] for key in ("Type", "Properties"))
        needed = UNSUPPORTED_RESOURCES[kind]
        assert needed is None or needed in properties
    for name, resource in local["Resources"].items():
        whole = template["Resources"][name]
        changed = {
            key
            for key in whole["Properties"]
            if whole["Properties"][key] != resource["Properties"].get(key)
        }
        assert changed <= {*PACKED, UNSUPPORTED_PROPERTIES.get(whole["Type"], "")}, name
        assert whole.keys() == resource.keys()


def test_it_is_this_code_that_removed_it(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "template.yaml"
    copy.write_text(built.read_text(encoding="utf-8"), encoding="utf-8")
    resources = yaml.safe_load(for_emulator(copy).read_text(encoding="utf-8"))["Resources"]
    local = yaml.safe_load(built.with_name("template-local.yaml").read_text(encoding="utf-8"))
    assert resources.keys() == local["Resources"].keys()


def test_production_deploys_too(bearer_stack: LocalStack) -> None:
    """With the firewall, every alarm that is not of metric math, and a domain."""
    client = bearer_stack.boto3_client("cloudformation")
    pages = client.get_paginator("list_stack_resources").paginate(StackName=bearer_stack.stack_name)
    made = {
        each["LogicalResourceId"]: each["ResourceStatus"]
        for page in pages
        for each in page["StackResourceSummaries"]
    }
    client.close()
    assert {
        made[name] for name in ("WebAcl", "WebAclLogs", "CustomDomain", "CustomDomainMapping")
    } == {"CREATE_COMPLETE"}
    for name in (
        "AlarmTopic",
        "AlarmKey",
        "Dashboard",
        "RefreshForgedAlarm",
        "KeyringNotRotatedAlarm",
    ):
        assert made[name] == "CREATE_COMPLETE"
    assert bearer_stack.outputs["CustomDomainTarget"]
    assert bearer_stack.outputs["AlarmTopic"]
    assert bearer_stack.api_url.endswith("/prod/_user_request_")
