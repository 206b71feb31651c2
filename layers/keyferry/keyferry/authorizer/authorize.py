"""The authorizer function: access token, proof, one use of it, and on request the session itself.

Attach it as a REQUEST authorizer **without result caching**: a cached answer is given without
asking, and with it the replay of a proof.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

from aws_lambda_powertools.utilities.typing import LambdaContext

from keyferry import aws, clock
from keyferry.config import TokenPolicy
from keyferry.dpop.replay import ReplayGuard
from keyferry.edge import authentication
from keyferry.edge.request import Call, Headers
from keyferry.edge.telemetry import Metric, count, logger, report_failure
from keyferry.errors import RequestRefused
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.live import LiveSessions
from keyferry.single_use import SingleUse
from keyferry.tokens.access import AccessToken


@dataclass(frozen=True, slots=True)
class Authorizer:
    keyring: UnwrappedKeyring
    replays: ReplayGuard
    live: LiveSessions | None
    policy: TokenPolicy
    now: Callable[[], int]
    base_url: str
    """Of the emulator, where an API has no domain name of its own; empty on AWS."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        live = LiveSessions(
            dynamodb, environ["KEYFERRY_SESSIONS_TABLE"], environ["KEYFERRY_USERS_TABLE"]
        )
        return cls(
            keyring=UnwrappedKeyring.from_environ(dynamodb, kms, environ),
            replays=ReplayGuard(SingleUse(dynamodb, environ["KEYFERRY_PROOFS_TABLE"])),
            live=live if environ["KEYFERRY_AUTHORIZER_CHECKS_SESSION"] != "false" else None,
            policy=TokenPolicy.from_environ(environ),
            now=clock.now,
            base_url=environ.get("KEYFERRY_EMULATOR_ENDPOINT", ""),
        )

    def __call__(self, event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        """Answer with an IAM policy for the whole of the calling API's stage, or raise the one word
        that API Gateway turns into 401. Any other failure is a 500 of API Gateway's: an outage must
        not read like a logout."""
        try:
            self.keyring.refresh()
            token = self._authorize(event, context.aws_request_id)
        except RequestRefused as refused:
            logger.info("refused", extra={"error": refused.code, "reason": refused.reason})
            count(Metric.AUTHORIZER_REFUSED)
            _unauthorized()
        except Exception as error:
            report_failure(error)
            raise
        return _allow(event["methodArn"], token)

    def _authorize(self, event: Mapping[str, Any], invocation_id: str) -> AccessToken:
        now = self.now()
        call = Call(event["httpMethod"], self._url(event), Headers.from_event(event))
        token, proof = authentication.authenticate(
            call, self.keyring, now=now, require_dpop=self.policy.require_dpop
        )
        if self.live is not None:
            _, user = self.live.require(token, now=now)
            token = replace(token, roles=user.roles)
        # Last, so that a request refused for another reason does not use up its proof.
        if proof is not None:
            self.replays.reserve(
                proof, call, good_until=token.expires_at, invocation_id=invocation_id
            )
        return token

    def _url(self, event: Mapping[str, Any]) -> str:
        """What the client called. The domain is API Gateway's word, not a header's: the event names
        the domain that the request came in at, and the path as the client wrote it."""
        context = event["requestContext"]
        if self.base_url:
            stage = f"/restapis/{context['apiId']}/{context['stage']}/_user_request_"
            return f"{self.base_url}{stage}{event['path']}"
        return f"https://{context['domainName']}{context['path']}"


def _unauthorized() -> NoReturn:
    # The exact text is API Gateway's contract: it answers 401 with it, and 500 with any other.
    raise Exception("Unauthorized") from None  # noqa: TRY002


def _allow(method_arn: str, token: AccessToken) -> dict[str, Any]:
    """A policy for every method and path of the stage, not for this one alone: should somebody
    cache it after all, it must not refuse the next path."""
    arn, _, rest = method_arn.partition("/")
    stage = rest.partition("/")[0]
    return {
        "principalId": token.sub,
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": "execute-api:Invoke",
                    "Resource": f"{arn}/{stage}/*",
                }
            ],
        },
        # API Gateway takes texts, numbers and booleans here; lists go in as JSON.
        "context": {
            "sub": token.sub,
            "sid": token.sid,
            "client_id": token.client_id,
            "scope": token.scope,
            "roles": json.dumps(token.roles),
            "amr": json.dumps(token.amr),
        },
    }
