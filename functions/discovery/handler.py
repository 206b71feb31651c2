"""GET /.well-known/…"""

from keyferry.edge.endpoint import Route, endpoint
from keyferry.keyring.discovery import Discovery

discovery = Discovery.from_environ()

lambda_handler = endpoint(
    {
        ("GET", "/.well-known/jwks.json"): Route(discovery.jwks),
        ("GET", "/.well-known/openid-configuration"): Route(discovery.metadata),
        ("GET", "/.well-known/oauth-authorization-server"): Route(discovery.metadata),
    }
)
