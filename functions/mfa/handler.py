"""POST /v1/mfa/totp, /v1/mfa/totp/confirm, /v1/mfa/totp/remove"""

from keyferry.edge.endpoint import Route, endpoint
from keyferry.users.enrolment import TotpEnrolment

enrolment = TotpEnrolment.from_environ()

lambda_handler = endpoint(
    {
        ("POST", "/v1/mfa/totp"): Route(enrolment.begin, protected=True),
        ("POST", "/v1/mfa/totp/confirm"): Route(enrolment.confirm, protected=True),
        ("POST", "/v1/mfa/totp/remove"): Route(enrolment.remove, protected=True),
    },
    keyring=enrolment.keyring,
)
