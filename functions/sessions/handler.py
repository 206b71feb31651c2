"""POST /v1/revoke, GET and DELETE /v1/sessions, DELETE /v1/sessions/{id}, and
PUT /v1/device/encryption-key"""

from keyferry.edge.endpoint import Route, endpoint
from keyferry.sessions.management import SessionManagement

sessions = SessionManagement.from_environ()

lambda_handler = endpoint(
    {
        ("POST", "/v1/revoke"): Route(sessions.revoke),
        ("GET", "/v1/sessions"): Route(sessions.show, protected=True),
        ("DELETE", "/v1/sessions"): Route(sessions.end_all, protected=True),
        ("DELETE", "/v1/sessions/{id}"): Route(sessions.end_one, protected=True),
        ("PUT", "/v1/device/encryption-key"): Route(
            sessions.replace_encryption_key, protected=True
        ),
    },
    keyring=sessions.keyring,
)
