"""The built refresh function as a WSGI application: what API Gateway does between HTTP and the event,
and no more. Run by the environment `peers`, with the built layers and the function on its path.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import handler

_numbers = itertools.count()


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    sent = {
        name[5:].replace("_", "-").lower(): [value]
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    number = next(_numbers)
    event = {
        "httpMethod": environ["REQUEST_METHOD"],
        "resource": environ["PATH_INFO"],
        "path": environ["PATH_INFO"],
        "pathParameters": None,
        "multiValueHeaders": {**sent, "content-type": [environ.get("CONTENT_TYPE", "")]},
        "multiValueQueryStringParameters": None,
        "requestContext": {
            "requestId": f"request {number}",
            "identity": {
                "apiKeyId": environ.get("HTTP_X_API_KEY"),
                "sourceIp": environ["REMOTE_ADDR"],
            },
        },
        "body": body.decode(),
        "isBase64Encoded": False,
    }
    context = SimpleNamespace(
        function_name="refresh",
        memory_limit_in_mb=1024,
        invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:refresh",
        aws_request_id=f"invocation {number}",
    )
    answer = handler.lambda_handler(event, context)
    octets = answer["body"].encode()
    headers = [*answer["headers"].items(), ("Content-Length", str(len(octets)))]
    start_response(f"{answer['statusCode']} Answered", headers)
    return [octets]
