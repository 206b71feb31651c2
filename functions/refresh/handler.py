"""POST /v1/token"""

from keyferry.edge.endpoint import Route, endpoint
from keyferry.sessions.refresh import Refresh

refresh = Refresh.from_environ()

lambda_handler = endpoint({("POST", "/v1/token"): Route(refresh)}, keyring=refresh.keyring)
