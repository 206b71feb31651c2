"""A REQUEST authorizer for the team's own APIs"""

from keyferry.authorizer.authorize import Authorizer
from keyferry.edge.telemetry import logger

lambda_handler = logger.inject_lambda_context(Authorizer.from_environ())
