"""One Lambda function behind the REST API: routes in, responses out, errors in one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from keyferry.edge import response as responses
from keyferry.edge.request import MAX_BODY_BYTES, Request
from keyferry.edge.response import Response
from keyferry.edge.telemetry import logger, report_failure, report_unavailable
from keyferry.errors import RequestRefused, Unavailable
from keyferry.keyring.unwrapped import UnwrappedKeyring

Handler = Callable[[dict[str, Any], LambdaContext], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a method and resource, and whether that is a protected resource (RFC 6749 §7)
    rather than the token endpoint: the two spell DPoP errors with different statuses.
    ``max_body_bytes`` is for the request."""

    answer: Callable[[Request], Response]
    protected: bool = False
    max_body_bytes: int = MAX_BODY_BYTES


def endpoint(
    routes: Mapping[tuple[str, str], Route], *, keyring: UnwrappedKeyring | None = None
) -> Handler:
    """The Lambda handler for ``routes``, by method and API Gateway resource.

    With a ``keyring``, it is read before the route runs, and every response carries a DPoP nonce:
    a client that always has a fresh one is never challenged.
    """

    # No clear_state: the one key that is appended here is set anew for every request, and building
    # the formatter's state again takes as long as half a line.
    @logger.inject_lambda_context
    def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        request_id = event["requestContext"]["requestId"]
        route = routes.get((event["httpMethod"], event["resource"]))
        logger.append_keys(api_request_id=request_id)
        nonce: dict[str, str] = {}
        try:
            if keyring is not None:
                keyring.refresh()
                nonce["DPoP-Nonce"] = keyring.dpop_nonce()
            if route is None:
                raise RequestRefused("not_found", "no such route")
            request = Request.from_event(
                event,
                invocation_id=context.aws_request_id,
                max_body_bytes=route.max_body_bytes,
            )
            response = route.answer(request)
        except RequestRefused as refused:
            logger.info("refused", extra={"error": refused.code, "reason": refused.reason})
            response = responses.of_refusal(
                refused, request_id=request_id, protected=route is not None and route.protected
            )
        except Unavailable as unavailable:
            report_unavailable(unavailable.operation)
            response = responses.of_unavailable(unavailable, request_id=request_id)
        except Exception as error:  # noqa: BLE001 -- the last line before API Gateway
            # A stack trace must not reach a client, nor an exception's text a log.
            report_failure(error)
            response = responses.of_failure(request_id=request_id)
        return response.to_proxy(nonce)

    return lambda_handler
