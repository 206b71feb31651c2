"""The exported authorizer in front of an API that is not Keyferry's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.device import Device, ath, new_key
from tests.e2e.test_attacks import thief_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator

PATHS = ("things", "others")


def attach_to_an_api(stack: LocalStack) -> str:
    """Make a REST API as another team would, guarded by the authorizer; return its URL."""
    gateway = stack.boto3_client("apigateway")
    api = gateway.create_rest_api(name="theirs")["id"]
    function = stack.outputs["AuthorizerArn"]
    uri = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{function}/invocations"
    authorizer = gateway.create_authorizer(
        restApiId=api,
        name="keyferry",
        type="REQUEST",
        authorizerUri=uri,
        identitySource="method.request.header.Authorization",
        authorizerResultTtlInSeconds=0,
    )["id"]
    (root,) = gateway.get_resources(restApiId=api)["items"]
    for path in PATHS:
        resource = gateway.create_resource(restApiId=api, parentId=root["id"], pathPart=path)["id"]
        for method in ("GET", "POST"):
            gateway.put_method(
                restApiId=api,
                resourceId=resource,
                httpMethod=method,
                authorizationType="CUSTOM",
                authorizerId=authorizer,
            )
            gateway.put_integration(
                restApiId=api,
                resourceId=resource,
                httpMethod=method,
                type="MOCK",
                requestTemplates={"application/json": '{"statusCode": 200}'},
            )
            gateway.put_method_response(
                restApiId=api, resourceId=resource, httpMethod=method, statusCode="200"
            )
            gateway.put_integration_response(
                restApiId=api,
                resourceId=resource,
                httpMethod=method,
                statusCode="200",
                responseTemplates={"application/json": '{"theirs": true}'},
            )
    gateway.create_deployment(restApiId=api, stageName="live")
    gateway.close()
    return f"{stack.endpoint_url}/restapis/{api}/live/_user_request_"


@pytest.fixture(scope="session")
def their_api(stack: LocalStack) -> str:
    return attach_to_an_api(stack)


@pytest.fixture
def phone(device: Device, their_api: str) -> Device:
    """A signed-in phone that talks to their API."""
    return replace(device, api_url=their_api)


def with_proof(phone: Device, proof: str, *, method: str = "GET", path: str = "/things") -> int:
    headers = {"Authorization": f"DPoP {phone.tokens['access_token']}"}
    return phone.call(method, path, headers=headers, proof=proof).status_code


def test_lets_the_device_in(phone: Device) -> None:
    for path in PATHS:
        response = phone.resource("GET", f"/{path}")
        assert (response.status_code, response.json()) == (200, {"theirs": True})


def test_a_proof_is_good_once(phone: Device) -> None:
    proof = phone.proof("POST", "/things", ath=ath(phone.tokens["access_token"]))
    assert with_proof(phone, proof, method="POST") == 200
    for _ in range(3):
        assert with_proof(phone, proof, method="POST") == 401
    assert phone.resource("POST", "/things").status_code == 200


def test_a_proof_is_used_up_by_the_key_that_made_it_alone(
    phone: Device, new_device: Callable[..., Device]
) -> None:
    proof = phone.proof("GET", "/things", ath=ath(phone.tokens["access_token"]))
    other = replace(phone, signing=new_key())
    stolen_jti = other.proof(
        "GET", "/things", jti=phone.last_jti, ath=ath(phone.tokens["access_token"])
    )
    assert with_proof(phone, stolen_jti) == 401
    assert with_proof(phone, proof) == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"htu": "https://api.example.com/things"},
        {"htm": "POST"},
        {"ath": "x"},
        {"iat": 1_700_000_000},
        {"nonce": "x"},
    ],
    ids=str,
)
def test_refuses_a_proof_about_something_else(phone: Device, claims: dict[str, Any]) -> None:
    good = {"ath": ath(phone.tokens["access_token"])}
    assert with_proof(phone, phone.proof("GET", "/things", **{**good, **claims})) == 401


def test_refuses_a_proof_made_for_keyferry(phone: Device, device: Device) -> None:
    proof = device.proof("GET", "/things", ath=ath(phone.tokens["access_token"]))
    assert with_proof(phone, proof) == 401


def test_refuses_thieves(phone: Device) -> None:
    thief = thief_of(phone, with_key=False)
    assert thief.resource("GET", "/things").status_code == 401
    headers = {"Authorization": f"Bearer {phone.tokens['access_token']}"}
    assert phone.call("GET", "/things", headers=headers, proof=None).status_code == 401
    assert phone.call("GET", "/things", proof=None).status_code == 401
    phone.tokens["access_token"] = phone.tokens["refresh_token"]
    assert phone.resource("GET", "/things").status_code == 401


def test_a_phone_with_a_wrong_clock_gets_in_with_a_nonce(phone: Device, device: Device) -> None:
    device.clock_offset = phone.clock_offset = -3 * 86_400
    nonce = device.keys().headers["dpop-nonce"]
    proof = phone.proof("GET", "/things", nonce=nonce, ath=ath(phone.tokens["access_token"]))
    assert with_proof(phone, proof) == 200


def test_an_ended_session_lives_on_for_its_access_token(phone: Device, device: Device) -> None:
    """Without the session check: the price of no read per request, said in the parameter."""
    device.resource("DELETE", "/v1/sessions")
    assert phone.resource("GET", "/things").status_code == 200


def test_costs_one_write(phone: Device, stack: LocalStack) -> None:
    assert phone.resource("GET", "/things").status_code == 200
    with stack.count_calls() as calls:
        assert phone.resource("GET", "/things").status_code == 200
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({"PutItem": 1}, {})


def invoke(stack: LocalStack, event: dict[str, Any]) -> dict[str, Any]:
    """Ask the authorizer itself, as API Gateway does."""
    client = stack.boto3_client("lambda")
    response = client.invoke(
        FunctionName=stack.outputs["AuthorizerArn"], Payload=json.dumps(event).encode()
    )
    answer: dict[str, Any] = json.loads(response["Payload"].read())
    client.close()
    return answer


def question(phone: Device, proof: str | None = None) -> dict[str, Any]:
    token = phone.tokens["access_token"]
    api = phone.api_url.split("/")[4]
    headers = {
        "Authorization": f"DPoP {token}",
        "DPoP": proof or phone.proof("GET", "/things", ath=ath(token)),
    }
    return {
        "type": "REQUEST",
        "methodArn": f"arn:aws:execute-api:us-east-1:000000000000:{api}/live/GET/things",
        "resource": "/things",
        "path": "/things",
        "httpMethod": "GET",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "requestContext": {"apiId": api, "stage": "live"},
    }


class TestAnswer:
    def test_policy_and_context(self, phone: Device, stack: LocalStack) -> None:
        event = question(phone)
        answer = invoke(stack, event)
        (statement,) = answer["policyDocument"]["Statement"]
        assert statement["Effect"] == "Allow"
        assert statement["Resource"] == event["methodArn"].removesuffix("GET/things") + "*"
        context = answer["context"]
        assert context["sub"] == answer["principalId"]
        assert context["sid"] == phone.tokens["session_id"]
        assert (context["client_id"], json.loads(context["roles"])) == ("ios", ["user"])
        assert json.loads(context["amr"]) == ["pwd"]
        assert all(isinstance(value, str) for value in context.values())

    def test_the_one_word(self, phone: Device, stack: LocalStack) -> None:
        answer = invoke(stack, question(phone, proof="x"))
        assert answer["errorMessage"] == "Unauthorized"

    def test_roles_are_those_of_the_token(
        self, phone: Device, stack: LocalStack, operator: Operator, username: str
    ) -> None:
        operator.do("users.set_roles", username=username, roles=["admin"])
        context = invoke(stack, question(phone))["context"]
        assert json.loads(context["roles"]) == ["user"]


class TestSessionCheck:
    """With ``AuthorizerChecksSession`` and bearer clients admitted: the other stack."""

    @pytest.fixture(scope="class")
    @classmethod
    def guarded(cls, bearer_stack: LocalStack) -> str:
        return attach_to_an_api(bearer_stack)

    def get(self, device: Device, guarded: str) -> httpx.Response:
        return replace(device, api_url=guarded).resource("GET", "/things")

    def test_an_ended_session_is_refused_at_once(
        self, checked_device: Device, guarded: str
    ) -> None:
        assert self.get(checked_device, guarded).status_code == 200
        checked_device.resource("DELETE", "/v1/sessions")
        assert self.get(checked_device, guarded).status_code == 401

    def test_a_disabled_user_is_refused_at_once(
        self, checked_device: Device, guarded: str, bearer_operator: Operator
    ) -> None:
        assert self.get(checked_device, guarded).status_code == 200
        bearer_operator.do("users.disable", username=checked_device.username)
        assert self.get(checked_device, guarded).status_code == 401

    def test_roles_are_those_of_the_user(
        self,
        checked_device: Device,
        guarded: str,
        bearer_stack: LocalStack,
        bearer_operator: Operator,
    ) -> None:
        bearer_operator.do("users.set_roles", username=checked_device.username, roles=["admin"])
        phone = replace(checked_device, api_url=guarded)
        context = invoke(bearer_stack, question(phone))["context"]
        assert json.loads(context["roles"]) == ["admin"]

    def test_bearer_tokens_are_taken_as_what_they_are(
        self, bearer_device: Device, checked_device: Device, guarded: str
    ) -> None:
        def status(device: Device, scheme: str) -> int:
            headers = {"Authorization": f"{scheme} {device.tokens['access_token']}"}
            theirs = replace(device, api_url=guarded)
            return theirs.call("GET", "/things", headers=headers, proof=None).status_code

        assert status(bearer_device, "Bearer") == 200
        assert status(bearer_device, "DPoP") == 401
        assert status(checked_device, "Bearer") == 401, "bound tokens stay bound"
