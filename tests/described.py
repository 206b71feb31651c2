"""Holds real answers against docs/openapi.json, as strictly as the code that it is made of."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

from keyferry_cli.openapi.document import document, model_of
from keyferry_cli.openapi.operations import OPERATIONS, Operation
from keyferry_cli.openapi.responses import KeyDelivery


@cache
def _document() -> dict[str, Any]:
    return document()


@cache
def _routes() -> dict[tuple[str, re.Pattern[str]], tuple[str, str]]:
    return {
        (method, re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))): (method, path)
        for method, path in OPERATIONS
    }


@cache
def _validator(schema: str) -> Any:
    components = {"components": _document()["components"]}
    return jsonschema_rs.Draft202012Validator({**json.loads(schema), **components})


def _valid(schema: dict[str, Any], value: Any) -> None:
    _validator(json.dumps(schema)).validate(value)


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = _document()
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def hold(method: str, path: str, response: httpx.Response) -> None:
    """Raise `AssertionError` for an answer that the document does not describe. ``path`` is without
    the server's URL; other routes than ours are left alone."""
    route = next(
        (
            route
            for (verb, pattern), route in _routes().items()
            if verb == method and pattern.fullmatch(path)
        ),
        None,
    )
    if route is None:
        return
    operation = OPERATIONS[route]
    described = _document()["paths"][route[1]][method.lower()]["responses"]
    status = str(response.status_code)
    assert status in described, f"{method} {route[1]}: status {status} is not described"
    answer = _resolved(described[status])
    for name, reference in answer.get("headers", {}).items():
        header = _resolved(reference)
        value = response.headers.get(name)
        assert value is not None or not header.get("required"), f"{method} {path} {status}: {name}"
        if value is not None:
            integer = header["schema"].get("type") == "integer"
            _valid(header["schema"], int(value) if integer else value)
    content = answer.get("content")
    if content is None:
        assert response.content == b"", f"{method} {path} {status}: a body"
        return
    media_type = response.headers["content-type"].partition(";")[0]
    assert media_type in content, f"{method} {path} {status}: {media_type} is not described"
    value = response.json() if media_type == "application/json" else response.text
    _valid(content[media_type]["schema"], value)
    _strictly(operation, response, media_type)


def _strictly(operation: Operation, response: httpx.Response, media_type: str) -> None:
    success = operation.success.get(response.status_code)
    model = model_of(success, media_type) if success else None
    if model is not None:
        model.model_validate_json(response.content)


def hold_delivery(claims: dict[str, Any]) -> None:
    """The same for what is inside of a delivery."""
    KeyDelivery.model_validate_json(json.dumps(claims))
    _valid({"$ref": "#/components/schemas/KeyDelivery"}, claims)
