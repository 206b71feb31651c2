"""The examples of docs/: what a reader deploys is valid and does what the page says."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from keyferry_cli.local.environments import ROOT, environment_program, make_environments
from tests.template.conftest import transformed

EXAMPLE = ROOT / "docs" / "examples" / "authorizer" / "template.yaml"


def test_sam_validate_lint_is_clean() -> None:
    make_environments(("sam",), root=ROOT)
    done = subprocess.run(
        [environment_program("sam", "sam"), "validate", "--lint", "--template", EXAMPLE],
        cwd=ROOT,
        env={**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    variants: dict[str, Any] = {"example": {"parameters": {}, "artifacts": {}}}
    found: dict[str, dict[str, Any]] = transformed(variants, EXAMPLE)["example"]["Resources"]
    return found


def test_every_method_asks_the_authorizer_without_caching(
    resources: dict[str, dict[str, Any]],
) -> None:
    body = resources["Api"]["Properties"]["Body"]
    (scheme,) = body["components"]["securitySchemes"].values()
    authorizer = scheme["x-amazon-apigateway-authorizer"]
    assert (authorizer["type"], authorizer["authorizerResultTtlInSeconds"]) == ("request", 0)
    sources = "method.request.header.Authorization, method.request.header.DPoP"
    assert authorizer["identitySource"] == sources
    assert {"Ref": "KeyferryAuthorizerArn"} in authorizer["authorizerUri"]["Fn::Sub"][1].values()
    methods = [method for path in body["paths"].values() for method in path.values()]
    assert methods
    assert all(method["security"] == [{"Keyferry": []}] for method in methods)


def test_an_outage_is_not_a_401(resources: dict[str, dict[str, Any]]) -> None:
    responses = resources["Api"]["Properties"]["Body"]["x-amazon-apigateway-gateway-responses"]
    assert responses["UNAUTHORIZED"]["statusCode"] == "401"
    failure = responses["AUTHORIZER_FAILURE"]
    assert failure["statusCode"] == "503"
    assert failure["responseParameters"] == {"gatewayresponse.header.Retry-After": "'2'"}
    for response in responses.values():
        answer = json.loads(response["responseTemplates"]["application/json"])
        assert set(answer) == {"error", "error_description", "request_id"}


def test_the_function_of_another_stack_is_left_alone(
    resources: dict[str, dict[str, Any]],
) -> None:
    permissions = [
        each["Properties"]["FunctionName"]
        for each in resources.values()
        if each["Type"] == "AWS::Lambda::Permission"
    ]
    assert permissions == [{"Ref": "GreetFunction"}]


@pytest.mark.parametrize(("roles", "status"), [('["analyst"]', 200), ('["user"]', 403)])
def test_the_example_reads_what_the_authorizer_gives(
    resources: dict[str, dict[str, Any]], roles: str, status: int
) -> None:
    module: dict[str, Any] = {}
    exec(resources["GreetFunction"]["Properties"]["Code"]["ZipFile"], module)  # noqa: S102
    event = {"requestContext": {"authorizer": {"sub": "u", "roles": roles}}}
    assert module["lambda_handler"](event, None)["statusCode"] == status
