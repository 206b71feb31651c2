"""On a schedule, and as the stack's custom resource"""

from keyferry.edge.telemetry import logger
from keyferry.keyring.rotate import RotateKeyring

lambda_handler = logger.inject_lambda_context(RotateKeyring.from_environ())
