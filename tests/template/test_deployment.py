"""What a deployment may do and what it may replace, held against AWS's own schemas of the resources.

docs/examples/deployment/template.yaml has the roles: they may do what CloudFormation does for the
resources of template.yaml, by the permissions that the schemas name, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from keyferry_cli.local.environments import ROOT, environment_program, make_environments
from tests.template.conftest import transformed
from tests.template.test_template import FIXED_PARAMETERS, of_type, references

Resources = dict[str, dict[str, Any]]

EXAMPLE = ROOT / "docs" / "examples" / "deployment" / "template.yaml"

NOT_HERE = {
    "nothing of this kind is in the template": (
        *("amplify:*", "apprunner:*", "appsync:*", "bedrock-agentcore:*", "cognito-idp:*"),
        *("ec2:*", "elasticfilesystem:*", "elasticloadbalancing:*", "firehose:*", "kinesis:*"),
        *("payments:*", "s3files:*", "codedeploy:RegisterOnPremisesInstance"),
        *("dynamodb:*Replica", "dynamodb:*ableKinesisStreamingDestination"),
        *("dynamodb:UpdateKinesisStreamingDestination", "dynamodb:*Import*"),
        *("lambda:*CodeSigningConfig", "lambda:PassCapacityProvider", "lambda:PutFunctionScaling*"),
        *("lambda:PutProvisionedConcurrencyConfig", "lambda:AssociateRuntimeAlias"),
        *("logs:PutBearerTokenAuthentication", "logs:PutLogGroupDeletionProtection"),
        *("logs:*IndexPolicy", "sns:PutDataProtectionPolicy", "wafv2:*PermissionPolicy"),
        "iam:*PermissionsBoundary",
    ),
    "no resource has a policy that is set by this call": (
        *("apigateway:UpdateRestApiPolicy", "dynamodb:*ResourcePolicy"),
        *("logs:*DataProtectionPolicy", "logs:DeleteResourcePolicy"),
    ),
    "rows, which a deployment neither reads nor writes": (
        *("dynamodb:*Item", "dynamodb:Query", "dynamodb:Scan"),
        *("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
    ),
    "no function, table or log group has a KMS key of its own": (
        *("kms:CreateGrant", "kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"),
        *("kms:RevokeGrant", "logs:*ssociateKmsKey"),
    ),
    "the firewall logs to CloudWatch, and nothing here is in a bucket but code": (
        *("s3:*BucketPolicy", "s3:ListBucket", "s3:GetObjectMetadata", "s3:REST.PUT.OBJECT"),
        "iam:DescribeOrganization",
    ),
    "a zone is named by its identifier": ("route53:ListHostedZones",),
}
"""Of the permissions in the schemas, those that the template has no need of."""

MORE = {
    "lambda:InvokeFunction": "the custom resource Keyring",
    "apigateway:AddCertificateToDomain": "TruststoreUri",
    "apigateway:RemoveCertificateFromDomain": "TruststoreUri",
}
"""Permissions that the schemas do not name, and what they are for."""


def described(kinds: set[str]) -> dict[str, dict[str, list[str]]]:
    make_environments(("sam",), root=ROOT)
    done = subprocess.run(
        [environment_program("sam", "python"), Path(__file__).with_name("resource_schemas.py")],
        input=json.dumps(sorted(kinds)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def schemas(resources: Resources) -> dict[str, dict[str, list[str]]]:
    kinds = {each["Type"] for each in resources.values()}
    return described({kind for kind in kinds if not kind.startswith("Custom::")})


@pytest.fixture(scope="module")
def roles() -> Resources:
    variants: dict[str, Any] = {"example": {"parameters": {}, "artifacts": {}}}
    return of_type(transformed(variants, EXAMPLE)["example"]["Resources"], "AWS::IAM::Role")


def statements(role: dict[str, Any]) -> list[dict[str, Any]]:
    (policy,) = role["Properties"]["Policies"]
    found: list[dict[str, Any]] = policy["PolicyDocument"]["Statement"]
    return found


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def actions(role: dict[str, Any]) -> set[str]:
    return {action for each in statements(role) for action in listed(each["Action"])}


class TestExecutionRole:
    @pytest.fixture
    def role(self, roles: Resources) -> dict[str, Any]:
        return roles["ExecutionRole"]

    def test_it_may_do_what_cloudformation_does(
        self, role: dict[str, Any], schemas: dict[str, dict[str, list[str]]]
    ) -> None:
        needed = {each for schema in schemas.values() for each in schema["permissions"]}
        assert len(needed) > 200, "the schemas have been read"
        patterns = {pattern for group in NOT_HERE.values() for pattern in group}
        unneeded = {each for each in needed if any(fnmatchcase(each, p) for p in patterns)}
        # Some of the wide patterns also meet calls that only read; those may be allowed all the same.
        assert needed - unneeded <= actions(role)
        assert actions(role) - needed == set(MORE)
        assert {p for p in patterns if not any(fnmatchcase(each, p) for each in needed)} == set()

    def test_it_reads_no_row_and_uses_no_key(self, role: dict[str, Any]) -> None:
        data = r"dynamodb:(\w*Item|Query|Scan)|kms:(\w*crypt\w*|Generate\w*|CreateGrant)|logs:Get\w*Event"
        assert not [each for each in actions(role) if re.match(data, each)]

    def test_every_resource_is_of_the_stack_where_it_has_a_name(self, role: dict[str, Any]) -> None:
        whole = {s["Sid"] for s in statements(role) if listed(s["Resource"]) == ["*"]}
        assert whole == {"MakeKeys", "LogsOfApiAndFirewall", "Subscriptions"}
        for statement in statements(role):
            if statement["Sid"] in {"Functions", "Tables", "Schedule", "Alarms", "AlarmTopic"}:
                for arn in listed(statement["Resource"]):
                    assert re.search(r"[:/]\$\{StackName\}-\*$", arn["Fn::Sub"]), arn

    def test_names_of_the_template_are_among_them(
        self, role: dict[str, Any], resources: Resources
    ) -> None:
        by_sid = {each["Sid"]: listed(each["Resource"]) for each in statements(role)}
        groups = [arn["Fn::Sub"].split(":log-group:")[1] for arn in by_sid["Logs"]]
        for group in of_type(resources, "AWS::Logs::LogGroup").values():
            name = group["Properties"]["LogGroupName"]["Fn::Sub"]
            name = name.replace("${AWS::StackName}", "${StackName}")
            assert any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in groups), name
        layers = {arn["Fn::Sub"].split(":layer:")[1] for arn in by_sid["Layers"]}
        for layer in of_type(resources, "AWS::Lambda::LayerVersion").values():
            assert {
                layer["Properties"]["LayerName"],
                f"{layer['Properties']['LayerName']}:*",
            } <= layers
        for name, made in of_type(resources, "AWS::IAM::Role").items():
            path = made["Properties"].get("Path")
            pattern = "${StackName}/*" if path else f"${{StackName}}-{name}-*"
            for sid in ("Roles", "ManagedPoliciesOfRoles", "GiveRolesToServices"):
                assert pattern in {arn["Fn::Sub"].split(":role/")[1] for arn in by_sid[sid]}, name

    def test_roles_get_no_other_managed_policy_and_go_to_no_other_service(
        self, role: dict[str, Any], resources: Resources
    ) -> None:
        by_sid = {each["Sid"]: each for each in statements(role)}
        attachable = {
            arn["Fn::Sub"].replace("${AWS::Partition}", "aws")
            for arn in by_sid["ManagedPoliciesOfRoles"]["Condition"]["ArnEquals"]["iam:PolicyARN"]
        }
        services = by_sid["GiveRolesToServices"]["Condition"]["StringEquals"]["iam:PassedToService"]
        attached, takers = set(), set()
        for made in of_type(resources, "AWS::IAM::Role").values():
            for arn in made["Properties"].get("ManagedPolicyArns", []):
                text = arn if isinstance(arn, str) else arn["Fn::Sub"]
                attached.add(text.replace("${AWS::Partition}", "aws"))
            for statement in made["Properties"]["AssumeRolePolicyDocument"]["Statement"]:
                takers.update(listed(statement["Principal"]["Service"]))
        assert attached == attachable
        assert takers == set(services)


class TestDeployRole:
    @pytest.fixture
    def role(self, roles: Resources) -> dict[str, Any]:
        return roles["DeployRole"]

    def test_it_is_for_one_environment_of_one_repository(self, role: dict[str, Any]) -> None:
        (trust,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
        host = "token.actions.githubusercontent.com"
        subject = {"Fn::Sub": "repo:${Repository}:environment:${Environment}"}
        equal = {f"{host}:aud": "sts.amazonaws.com", f"{host}:sub": subject}
        assert trust["Condition"] == {"StringEquals": equal}

    def test_it_does_nothing_but_hand_over(self, role: dict[str, Any]) -> None:
        assert {each.split(":")[0] for each in actions(role)} == {"cloudformation", "iam", "s3"}
        (hand_over,) = [each for each in statements(role) if each["Action"] == "iam:PassRole"]
        assert hand_over["Resource"] == {"Fn::GetAtt": ["ExecutionRole", "Arn"]}
        service = {"iam:PassedToService": "cloudformation.amazonaws.com"}
        assert hand_over["Condition"] == {"StringEquals": service}
        whole = [each["Sid"] for each in statements(role) if each["Resource"] == "*"]
        assert whole == ["ReadTheSummaryOfATemplate"]


def test_a_role_has_room_for_its_policy(roles: Resources) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html"""
    longest = {
        "AWS::Partition": "aws-us-gov",
        "AWS::Region": "ap-southeast-2",
        "AWS::AccountId": "123456789012",
        "StackName": 29 * "k",
    }
    for role in roles.values():
        text = json.dumps([each["PolicyDocument"] for each in role["Properties"]["Policies"]])
        text = re.sub(r'\{"Fn::Sub": ("[^"]*")\}', r"\1", text)
        text = re.sub(r"\$\{([A-Za-z:]+)\}", lambda name: longest[name[1]], text)
        assert len(re.sub(r"\s", "", text)) < 10_240


def test_the_example_is_clean() -> None:
    make_environments(("sam", "scan"), root=ROOT)
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1"}
    for command in (
        [environment_program("sam", "cfn-lint"), EXAMPLE],
        [environment_program("scan", "checkov"), "--skip-download", "--compact", "--quiet"]
        + ["--framework=cloudformation", "--file", EXAMPLE],
    ):
        done = subprocess.run(
            [str(each) for each in command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


KEPT = (
    "AWS::DynamoDB::Table",
    "AWS::KMS::Key",
    "AWS::ApiGateway::RestApi",
    "AWS::ApiGateway::Stage",
    "AWS::ApiGateway::ApiKey",
    "AWS::ApiGateway::UsagePlan",
    "AWS::ApiGateway::UsagePlanKey",
)
"""What holds data, or is known to apps: its address, its keys."""


@pytest.mark.parametrize("kind", KEPT)
def test_no_parameter_replaces_it(
    template: dict[str, Any],
    resources: Resources,
    schemas: dict[str, dict[str, list[str]]],
    kind: str,
) -> None:
    found = of_type(resources, kind)
    assert found
    changeable = set(template["Parameters"]) - FIXED_PARAMETERS
    for name, resource in found.items():
        for path in schemas[kind]["replaced_by"]:
            value = resource["Properties"].get(path.split("/")[0])
            assert not set(references(value)) & changeable, f"{name}: {path}"
            assert "Fn::If" not in json.dumps(value), f"{name}: {path}"
            assert "Fn::FindInMap" not in json.dumps(value), f"{name}: {path}"


def test_a_table_and_a_key_of_data_have_no_name(resources: Resources) -> None:
    """With one, a replacement would fail half-way, and a restored table could not take its place."""
    for table in of_type(resources, "AWS::DynamoDB::Table").values():
        assert "TableName" not in table["Properties"]
