"""The functions of a stack that an operator invokes, the logs that they write, and the API Gateway
in front of them, with the caller's own AWS credentials.

There is no administration endpoint on the internet: whoever may invoke these functions, by IAM, is
an operator. Every way in which that fails becomes a `CommandFailed` with one line to read.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import boto3
from botocore import exceptions as aws
from botocore.config import Config

# One attempt: the commands are not idempotent, and "already exists" after a silent retry would
# mislead.
_INVOKE = Config(connect_timeout=5, read_timeout=35, retries={"total_max_attempts": 1})
_DESCRIBE = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2})
# API Gateway takes few control calls at a time. All that are made of it do no harm when done twice.
_GATEWAY = Config(
    connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 5}
)
# Nothing depends on who is asking, so nobody waits long for it.
_WHO = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 1})

_QUERY_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.5

_OPERATOR: Final = re.compile(r"[\x21-\x7e]{1,512}")
"""What the operator function takes for a name (`keyferry.operator.commands.Invocation`)."""

_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_UNKNOWN_CREDENTIALS = {
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
}


class CommandFailed(Exception):
    """Refused or failed; the text is meant for the operator and holds no secret."""


@dataclass(frozen=True)  # without slots, for the cached properties
class StackFunctions:
    """Runs commands on one stack, and reads what its functions have logged.

    ``anonymous`` commands do not ask AWS who the caller is; those that only look need not.
    """

    session: boto3.Session
    stack: str
    anonymous: bool = False

    def operate(self, command: str, **arguments: object) -> dict[str, Any]:
        """The result of one command about users, keys or sessions."""
        members = {"arguments": arguments, "operator": self.operator}
        return self._run("operator", "OperatorFunction", command, members)

    def keep_keyring(self, command: str, **members: object) -> dict[str, Any]:
        """The result of one command about the keyring."""
        return self._run("keyring", "KeyringFunction", command, members)

    def outputs(self) -> dict[str, str]:
        """The stack's outputs, by their names."""
        with _readable_errors(self.stack, "keyring"):
            return {
                output["OutputKey"]: str(output["OutputValue"])
                for output in self._described.get("Outputs", [])
            }

    @contextmanager
    def gateway(self) -> Iterator[Any]:
        """A client of API Gateway. What fails in the block fails as a command does."""
        with _readable_errors(self.stack, "keyring"):
            yield self.session.client("apigateway", config=_GATEWAY)

    def log_lines(
        self, output: str, query: str, *, since: int, until: int, limit: int
    ) -> list[str]:
        """The ``@message`` of each row that a CloudWatch Logs Insights query finds, in its order.

        ``output`` is the stack's output that names the log groups. ``since`` and ``until`` are
        seconds since the epoch.
        """
        with _readable_errors(self.stack, "operator"):
            groups = self._output(output).split(",")
            logs = self.session.client("logs", config=_DESCRIBE)
            started = logs.start_query(
                logGroupNames=groups,
                startTime=since,
                endTime=until,
                queryString=query,
                limit=limit,
            )
            deadline = time.monotonic() + _QUERY_SECONDS
            while True:
                found = logs.get_query_results(queryId=started["queryId"])
                if found["status"] == "Complete":
                    return [
                        field["value"]
                        for row in found["results"]
                        for field in row
                        if field["field"] == "@message"
                    ]
                if found["status"] not in ("Scheduled", "Running"):
                    raise CommandFailed(f"the logs cannot be read: the query is {found['status']}")
                if time.monotonic() >= deadline:
                    with suppress(aws.ClientError):
                        logs.stop_query(queryId=started["queryId"])
                    raise CommandFailed(
                        f"the logs were not read within {_QUERY_SECONDS} seconds: ask for less time"
                    )
                time.sleep(_POLL_SECONDS)

    def reading(self) -> AbstractContextManager[None]:
        """For calls of AWS about the stack itself: what fails in the block fails as a command
        does."""
        return _readable_errors(self.stack, "API's")

    def _run(
        self, what: str, output: str, command: str, members: Mapping[str, object]
    ) -> dict[str, Any]:
        """``output`` is the stack's output that names the function, ``what`` the word for it."""
        with _readable_errors(self.stack, what):
            name = self._output(output)
            response = self.session.client("lambda", config=_INVOKE).invoke(
                FunctionName=name, Payload=json.dumps({"command": command, **members}).encode()
            )
            return _result(what, name, response)

    def _output(self, key: str) -> str:
        for output in self._described.get("Outputs", []):
            if output["OutputKey"] == key:
                return str(output["OutputValue"])
        raise CommandFailed(
            f"stack {self.stack} has no output {key} (status {self._described['StackStatus']}):"
            " is it a Keyferry stack?"
        )

    @cached_property
    def _described(self) -> Mapping[str, Any]:
        cloudformation = self.session.client("cloudformation", config=_DESCRIBE)
        return cloudformation.describe_stacks(StackName=self.stack)["Stacks"][0]

    @cached_property
    def operator(self) -> str:
        """Who gives the commands, for the audit trail: the ARN that AWS knows the caller by. Empty
        where it cannot be had; no command fails for that."""
        if self.anonymous:
            return ""
        try:
            arn = self.session.client("sts", config=_WHO).get_caller_identity()["Arn"]
        except (aws.ClientError, aws.BotoCoreError):
            return ""
        return arn if _OPERATOR.fullmatch(arn) else ""


def _result(what: str, name: str, response: Mapping[str, Any]) -> dict[str, Any]:
    payload = response["Payload"].read()
    try:
        reply = json.loads(payload)
    except ValueError:
        reply = None
    if "FunctionError" in response:
        # The function's own error message could quote its input, so only its kind is shown.
        kind = reply.get("errorType") if isinstance(reply, dict) else None
        kind = kind or response["FunctionError"]
        raise CommandFailed(f"the {what} function failed ({kind}): see the logs of {name}")
    match reply:
        case {"ok": True, "result": dict(result)}:
            return result
        case {"ok": False, "error": {"error": str(code), "error_description": str(description)}}:
            raise CommandFailed(f"{code}: {description}")
        case _:
            raise CommandFailed(f"the {what} function gave an answer that is not understood")


@contextmanager
def _readable_errors(stack: str, what: str) -> Iterator[None]:
    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError):
        raise CommandFailed(
            "no AWS credentials: set AWS_PROFILE or give --profile, or sign in again"
        ) from None
    except aws.NoRegionError:
        raise CommandFailed("no AWS region: set AWS_DEFAULT_REGION or give --region") from None
    except (aws.ReadTimeoutError, aws.ConnectTimeoutError):
        raise CommandFailed(
            "no answer in time: the command may or may not have been carried out"
        ) from None
    except (aws.EndpointConnectionError, aws.HTTPClientError) as error:
        raise CommandFailed(f"AWS cannot be reached: {_one_line(error)}") from None
    except aws.ClientError as error:
        raise CommandFailed(_client_error(stack, what, error)) from None
    except aws.BotoCoreError as error:
        raise CommandFailed(_one_line(error)) from None


def _client_error(stack: str, what: str, error: aws.ClientError) -> str:
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "")
    if error.operation_name == "DescribeStacks" and "does not exist" in message:
        return f"there is no stack {stack} in this account and region"
    if code in _DENIED:
        return f"access denied: these AWS credentials may not do {error.operation_name}"
    if code in _EXPIRED:
        return "the AWS credentials have expired: sign in again"
    if code in _UNKNOWN_CREDENTIALS:
        return "AWS does not accept these credentials"
    if code == "ResourceNotFoundException" and error.operation_name == "StartQuery":
        return f"a log group of stack {stack} is gone: deploy the stack again"
    if code == "ResourceNotFoundException":
        return f"the {what} function of stack {stack} is gone: deploy the stack again"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
