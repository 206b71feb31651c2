"""POST /v1/proxy/{key}"""

from keyferry.edge.endpoint import Route, endpoint
from keyferry.proxy.proxy import MAX_BODY_BYTES, Proxy

proxy = Proxy.from_environ()

lambda_handler = endpoint(
    {("POST", "/v1/proxy/{key}"): Route(proxy, protected=True, max_body_bytes=MAX_BODY_BYTES)},
    keyring=proxy.keyring,
)
