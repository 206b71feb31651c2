"""By direct invocation, for whoever IAM lets in"""

from keyferry.edge.telemetry import logger
from keyferry.operator.commands import Operator

lambda_handler = logger.inject_lambda_context(Operator.from_environ())
