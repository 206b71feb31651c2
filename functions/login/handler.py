"""POST /v1/login"""

from keyferry.edge.endpoint import Route, endpoint
from keyferry.login.login import Login

login = Login.from_environ()

lambda_handler = endpoint({("POST", "/v1/login"): Route(login)}, keyring=login.keyring)
