"""The interface's document as a stack serves it: to whom IAM lets in, and where it is switched on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from keyferry_cli.local.emulator import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from tests.conftest import ROOT
from tests.described import hold

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack

PATH = "/openapi.json"


def signed(url: str) -> dict[str, str]:
    request = AWSRequest("GET", url)
    credentials = Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    SigV4Auth(credentials, "execute-api", REGION).add_auth(request)
    return dict(request.headers.items())


def test_an_operator_gets_it_with_the_url_of_the_stack(
    stack: LocalStack, http: httpx.Client
) -> None:
    response = http.get(stack.api_url + PATH, headers=signed(stack.api_url + PATH))
    hold("GET", PATH, response)
    assert response.headers["cache-control"] == "no-store"
    document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert response.json() == {**document, "servers": [{"url": stack.api_url}]}


def test_nobody_else_learns_that_it_is_there(stack: LocalStack, http: httpx.Client) -> None:
    key = {"x-api-key": stack.client_keys["ios"]}
    response = http.get(stack.api_url + PATH, headers=key)
    hold("GET", PATH, response)
    assert (response.status_code, response.json()["error"]) == (404, "not_found")


def test_where_it_is_switched_off_there_is_none(
    bearer_stack: LocalStack, http: httpx.Client
) -> None:
    url = f"{bearer_stack.api_url}{PATH}"
    response = http.get(url, headers=signed(url))
    assert (response.status_code, response.json()["error"]) == (404, "not_found")
