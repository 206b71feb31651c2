"""What an app is built with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Config:
    """What is built into the app. None of it is a secret: anybody can read it in the package."""

    issuer: str
    """The stack's output `ApiUrl`, for example
    `https://abc123.execute-api.eu-central-1.amazonaws.com/prod`.
    """

    client_id: str
    """`ios` or `android`: the audience that delivered keys are signed for."""

    client_key: str = field(repr=False)
    """The `x-api-key` of the platform's usage plan. It names and throttles the app; it protects
    nothing.
    """

    timeout: float = 10.0
    attempts: int = 3
    """How often a refresh is sent when replies are lost, before the app hears `Retryable`."""

    hpke: bool = False
    """Whether to ask for deliveries as HPKE (RFC 9180) and not as JWE: where the platform has the one
    and not the other. An RSA key can not receive them.
    """

    longest_wait: float = 5.0
    """A `Retry-After` beyond this is the app's business: it is raised, not slept. A wait of up to this is
    slept, and a little more.
    """
