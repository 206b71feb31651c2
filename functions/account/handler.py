"""POST /v1/invitations/redeem, POST /v1/register, POST /v1/password"""

from keyferry.edge.endpoint import Route, endpoint
from keyferry.users.accounts import Accounts

accounts = Accounts.from_environ()

lambda_handler = endpoint(
    {
        ("POST", "/v1/invitations/redeem"): Route(accounts.redeem),
        ("POST", "/v1/register"): Route(accounts.register),
        ("POST", "/v1/password"): Route(accounts.change_password, protected=True),
    },
    keyring=accounts.keyring,
)
