"""The whole stack on this machine, without AWS and without Docker."""

from keyferry_cli.local.calls import Call, CallCount
from keyferry_cli.local.emulator import termination_as_exit
from keyferry_cli.local.stack import LocalStack, LocalStackError

__all__ = ["Call", "CallCount", "LocalStack", "LocalStackError", "termination_as_exit"]
