"""A complete Keyferry stack on this machine: emulator, `sam build`, `sam deploy`.

with LocalStack.start(progress=print) as stack:
    httpx.get(f"{stack.api_url}/.well-known/jwks.json")
    with stack.count_calls() as calls:
        ...
    assert calls.dynamodb == {"UpdateItem": 1}
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from keyferry_cli.local.calls import AuditLog, CallCount
from keyferry_cli.local.emulator import (
    ACCESS_KEY_ID,
    REGION,
    SECRET_ACCESS_KEY,
    Emulator,
    EmulatorError,
)
from keyferry_cli.local.environments import ROOT, EnvironmentFailedError, make_environments
from keyferry_cli.local.sam import Sam, SamFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

STACK_NAME = "keyferry-local"
PLATFORMS = {"ios": "IosClientKeyId", "android": "AndroidClientKeyId"}
RUNS_KEPT = 5
_BUCKET = "keyferry-local-artifacts"


class LocalStackError(Exception):
    """The local stack could not be brought up; the message says which step failed and why."""


class LocalStack:
    """A deployed stack; `stop` it, or use it in a `with` block."""

    def __init__(self, emulator: Emulator, root: Path, folder: Path) -> None:
        self._emulator = emulator
        self._root = root
        self.folder = folder
        """Logs of this run: `emulator.log` and `sam.log`."""
        self.stack_name = STACK_NAME
        self.outputs: dict[str, str] = {}
        """The outputs of the stack, as in the template."""
        self.client_keys: dict[str, str] = {}
        """Platform (`ios`, `android`) to the value for `x-api-key`."""

    @classmethod
    def start(
        cls,
        progress: Callable[[str], None] = print,
        *,
        parameters: Mapping[str, str] | None = None,
        root: Path = ROOT,
    ) -> Self:
        """Bring the stack up. `parameters` are template parameters, such as `{"RequireDPoP": "false"}`."""
        folder = _run_folder(root)
        try:
            make_environments(("emulator", "sam"), root=root, report=progress)
            progress("emulator: starting")
            emulator = Emulator.start(folder / "emulator.log")
        except (EnvironmentFailedError, EmulatorError) as failure:
            raise LocalStackError(str(failure)) from failure
        stack = cls(emulator, root, folder)
        try:
            stack.boto3_client("s3").create_bucket(Bucket=_BUCKET)
            stack.deploy(progress, parameters=parameters)
        except BaseException:
            stack.stop()
            raise
        progress(f"stack: ready at {stack.api_url}")
        return stack

    def deploy(
        self,
        progress: Callable[[str], None] = print,
        *,
        parameters: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        """Build a source tree, by default the one of `start`, and deploy it over what is there.

        Parameters that are not named keep their values. Raise `LocalStackError`.
        """
        sam = Sam(root or self._root, self.folder / "sam.log", progress)
        try:
            self._deploy(sam, sam.build(), parameters or {})
        except SamFailedError as failure:
            reason = self._failure()
            raise LocalStackError(f"{reason or failure}\nLogs: {self.folder}") from failure

    def _deploy(self, sam: Sam, template: Path, parameters: Mapping[str, str]) -> None:
        overrides = {**parameters, "EmulatorEndpoint": self.endpoint_url}
        sam.deploy(
            template,
            stack=self.stack_name,
            bucket=_BUCKET,
            endpoint=self.endpoint_url,
            parameters=overrides,
        )
        described = self.boto3_client("cloudformation").describe_stacks(StackName=self.stack_name)
        self.outputs = {
            output["OutputKey"]: output["OutputValue"]
            for output in described["Stacks"][0]["Outputs"]
        }
        gateway = self.boto3_client("apigateway")
        for platform, output in PLATFORMS.items():
            key = gateway.get_api_key(apiKey=self.outputs[output], includeValue=True)
            self.client_keys[platform] = key["value"]
        self._wait_for_versions()

    def _wait_for_versions(self) -> None:
        """With SnapStart (Stage=prod) a version is still being made when CloudFormation is done."""
        functions = self.boto3_client("lambda")
        active = functions.get_waiter("published_version_active")
        for page in functions.get_paginator("list_functions").paginate():
            for function in page["Functions"]:
                active.wait(
                    FunctionName=function["FunctionName"],
                    Qualifier="live",
                    WaiterConfig={"Delay": 1, "MaxAttempts": 60},
                )

    def _failure(self) -> str:
        """Why CloudFormation gave a deployment up; empty when `sam` failed before that."""
        client = self.boto3_client("cloudformation")
        lines: list[str] = []
        try:
            pages = client.get_paginator("describe_stack_events").paginate(
                StackName=self.stack_name
            )
            for event in (event for page in pages for event in page["StackEvents"]):
                if event["ResourceStatus"].endswith("_FAILED"):
                    reason = event.get("ResourceStatusReason", "no reason given")
                    name, kind = event["LogicalResourceId"], event["ResourceType"]
                    lines.insert(0, f"sam deploy: {name} ({kind}): {reason}")
            if any("Custom::" in line for line in lines):
                lines += [
                    "The log of rotate_keyring:",
                    *self.logs("rotate_keyring").splitlines()[-30:],
                ]
        except client.exceptions.ClientError:
            pass  # no stack yet, or no log: what `sam` printed has to do
        return "\n".join(lines)

    @property
    def endpoint_url(self) -> str:
        """Where the emulator answers AWS calls (`AWS_ENDPOINT_URL`)."""
        return self._emulator.endpoint_url

    @property
    def api_url(self) -> str:
        """The issuer, and the base of every route."""
        return self.outputs["ApiUrl"]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point an AWS SDK or the `keyferry` command at this stack."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def boto3_client(self, service: str) -> Any:
        """A client of the emulator, with the rights of the account's owner."""
        session = boto3.Session(
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
            region_name=REGION,
        )
        config = Config(retries={"total_max_attempts": 2}, s3={"addressing_style": "path"})
        return session.client(service, endpoint_url=self.endpoint_url, config=config)  # type: ignore[call-overload]

    @property
    def audit_log(self) -> AuditLog:
        """Every AWS call since the start, refused ones too."""
        return AuditLog(self.endpoint_url, REGION, ACCESS_KEY_ID, SECRET_ACCESS_KEY)

    @contextmanager
    def count_calls(self) -> Iterator[CallCount]:
        """Count the AWS calls made while the block runs; read the counts after it."""
        mark = self.audit_log.latest()
        count = CallCount()
        yield count
        count.calls = self.audit_log.since(mark)

    def logs(self, function: str) -> str:
        """Everything that a function (`login`, `refresh`, …) has written to its log group since the start."""
        pages = self.boto3_client("logs").get_paginator("filter_log_events")
        group = f"/aws/lambda/{self.stack_name}-{function}"
        return "\n".join(
            event["message"]
            for page in pages.paginate(logGroupName=group)
            for event in page["events"]
        )

    def stop(self) -> None:
        """End the emulator and every process of it; the stack and its data are gone."""
        self._emulator.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _run_folder(root: Path) -> Path:
    runs = root / ".cache" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for old in sorted(path for path in runs.iterdir() if path.is_dir())[: -RUNS_KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)
    folder = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return folder
