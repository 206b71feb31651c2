"""Log lines and metrics: every name in one place, and nothing personal or secret in any of them.

A line may carry identifiers that mean something only inside the stack (``sid``, ``sub``, ``kid``,
the request id) and constants of ours. It never carries what a caller sent, but for the version that
an app says to have, once it has the form of one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from enum import StrEnum
from typing import Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.formatter import BasePowertoolsFormatter

NAMESPACE: Final = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "Keyferry")
"""``Keyferry/<stack>`` when deployed: two stacks of one account must not trip each other's alarms."""

# What no line shows is not looked up for every line (Python's "Logging HOWTO", Optimization).
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False

# Once; `json.dumps` would make one for every line.
_encode: Final = json.JSONEncoder(ensure_ascii=False, default=str, separators=(",", ":")).encode

_RECORD: Final = frozenset(vars(logging.makeLogRecord({})))
"""What every record of `logging` has; whatever else one has, came by ``extra``."""

_TRACE: Final = "_X_AMZN_TRACE_ID"
"""Where Lambda puts ``Root=…;Parent=…;Sampled=…`` for each request, if it is traced."""


class LineFormatter(BasePowertoolsFormatter):
    """Lines as Powertools' own formatter writes them, in half the time: messages are words, keys are
    no templates, and no line has a stack trace (`failure` says what may be told of an exception)."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, Any] = {}

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
        line = {
            "level": record.levelname,
            "message": record.getMessage(),
            "timestamp": f"{moment},{int(record.msecs):03d}+0000",
            **self._keys,
        }
        for name, value in vars(record).items():
            if name not in _RECORD:
                line[name] = value
        trace = os.environ.get(_TRACE)
        if trace is not None:
            line["xray_trace_id"] = trace.partition(";")[0].removeprefix("Root=")
        return _encode(line)

    def append_keys(self, **additional_keys: Any) -> None:
        """For every line from here on. None takes a key away."""
        for name, value in additional_keys.items():
            if value is None:
                self._keys.pop(name, None)
            else:
                self._keys[name] = value

    def clear_state(self) -> None:
        self._keys.clear()

    def thread_safe_clear_keys(self) -> None:
        """There are none: an instance answers one request at a time."""


logger = Logger(logger_formatter=LineFormatter())


class Metric(StrEnum):
    """Counts in the CloudWatch namespace `NAMESPACE`, by the dimension ``service``."""

    LOGIN_SUCCEEDED = "LoginSucceeded"
    LOGIN_FAILED = "LoginFailed"
    ACCOUNT_REDEEMED = "AccountRedeemed"
    ACCOUNT_REGISTERED = "AccountRegistered"
    ACCOUNT_REFUSED = "AccountRefused"
    ACCOUNT_THROTTLED = "AccountThrottled"
    APP_CHECK_VALID = "AppCheckValid"
    APP_CHECK_MISSING = "AppCheckMissing"
    APP_CHECK_INVALID = "AppCheckInvalid"
    APP_CHECK_UNAVAILABLE = "AppCheckUnavailable"
    USER_PROVISIONED = "UserProvisioned"
    SECOND_FACTOR_ENROLLED = "SecondFactorEnrolled"
    SECOND_FACTOR_REQUIRED = "SecondFactorRequired"
    SECOND_FACTOR_REFUSED = "SecondFactorRefused"
    LOGIN_THROTTLED = "LoginThrottled"
    SESSION_ENDED = "SessionEnded"
    ENCRYPTION_KEY_REPLACED = "EncryptionKeyReplaced"
    REFRESH_ROTATED = "RefreshRotated"
    REFRESH_RETRIED = "RefreshRetried"
    REFRESH_REUSE_DETECTED = "RefreshReuseDetected"
    SESSION_FOLLOWED = "SessionFollowed"
    REFRESH_WRONG_KEY = "RefreshWrongDeviceKey"
    REFRESH_FORGED = "RefreshForged"
    REFRESH_HEALED = "RefreshHealed"
    REFRESH_REFUSED = "RefreshRefused"
    KEYS_DELIVERED = "KeysDelivered"
    KEYS_NOT_MODIFIED = "KeysNotModified"
    KEYS_THROTTLED = "KeysThrottled"
    DELIVERY_REFUSED = "DeliveryRefused"
    VAULT_UNDECIPHERABLE = "VaultUndecipherable"
    REQUEST_PROXIED = "RequestProxied"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    UPSTREAM_FAILED = "UpstreamFailed"
    AUTHORIZER_REFUSED = "AuthorizerRefused"
    KEYRING_CHANGED = "KeyringChanged"
    KEYRING_MAINTAINED = "KeyringMaintained"
    REQUEST_FAILED = "RequestFailed"
    UNAVAILABLE = "Unavailable"
    KMS_UNAVAILABLE = "KmsUnavailable"


def count(metric: Metric, times: int = 1) -> None:
    """One line in CloudWatch's embedded metric format (Amazon CloudWatch User Guide, "Specification:
    Embedded metric format"), as Powertools' ``single_metric`` writes it, in a fraction of its time."""
    service = os.environ.get("POWERTOOLS_SERVICE_NAME")
    described = {
        "Namespace": NAMESPACE,
        "Dimensions": [["service"] if service else []],
        "Metrics": [{"Name": metric, "Unit": "Count"}],
    }
    line: dict[str, Any] = {
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [described]}
    }
    if service:
        line["service"] = service
    line[metric] = [float(times)]
    sys.stdout.write(f"{_encode(line)}\n")


def report_failure(error: BaseException) -> None:
    """Of a request: Lambda's own metric counts only what escapes a handler, and nothing does."""
    logger.error("failed", extra=failure(error))
    count(Metric.REQUEST_FAILED)


def report_unavailable(operation: str) -> None:
    """``operation`` is one of AWS, as in ``kms:Decrypt``, or says what else could not be had."""
    logger.warning("unavailable", extra={"operation": operation})
    count(Metric.KMS_UNAVAILABLE if operation.startswith("kms:") else Metric.UNAVAILABLE)


def failure(error: BaseException) -> dict[str, object]:
    """What may be logged of an unforeseen exception: its type and where it was, not its text.

    An exception's text can quote the value that it choked on.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "exception": type(error).__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
