"""GET /v1/keys and GET /v1/keys/{name}"""

from keyferry.edge.endpoint import Route, endpoint
from keyferry.vault.delivery import Delivery

delivery = Delivery.from_environ()

lambda_handler = endpoint(
    {
        ("GET", "/v1/keys"): Route(delivery.all, protected=True),
        ("GET", "/v1/keys/{name}"): Route(delivery.one, protected=True),
    },
    keyring=delivery.keyring,
)
