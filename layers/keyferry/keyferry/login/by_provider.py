"""By an ID token of a configured provider: Firebase Auth, Google, Apple, any OpenID Connect issuer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keyferry.edge.telemetry import Metric, count
from keyferry.errors import RequestRefused
from keyferry.federation import id_token
from keyferry.federation.cache import ConfiguredProviders
from keyferry.federation.id_token import Identity
from keyferry.federation.jwks import Jwks
from keyferry.federation.providers import Provider
from keyferry.federation.store import FederatedCredential, FederatedStore, new_user
from keyferry.jose import base64url
from keyferry.login.proof import FEDERATED, MFA, OTP, Origin, Proved, refused
from keyferry.login.request import LoginRequest
from keyferry.tokens.refresh import ID_BYTES
from keyferry.users.guessing import Attempt, GuessStore
from keyferry.users.model import User, UserStatus
from keyferry.users.second_factor import SecondFactors
from keyferry.users.store import UserStore


@dataclass(frozen=True, slots=True)
class ProviderLogin:
    providers: ConfiguredProviders
    jwks: Jwks
    federated: FederatedStore
    users: UserStore
    guesses: GuessStore
    factors: SecondFactors
    now: Callable[[], int]
    random: Callable[[int], bytes]

    def prove(self, body: LoginRequest, origin: Origin) -> Proved:
        """Raise `RequestRefused` (``invalid_grant``, ``mfa_required``, ``too_many_attempts``), and
        `Unavailable` when the provider's keys cannot be had."""
        provider = self.providers.get(body.provider or "")
        if provider is None or body.id_token is None:
            raise refused("no such provider")
        # Bound to the device key where there is one: the token is then of use to it alone.
        expected_nonce = body.nonce if body.nonce is not None else origin.jkt or None
        identity = id_token.verify(
            body.id_token, provider, now=self.now(), jwks=self.jwks, expected_nonce=expected_nonce
        )
        credential = self._credential(provider, identity)
        user = self.users.user(credential.sub)
        if user is None or user.status is not UserStatus.ACTIVE:
            raise refused("federated user disabled or deleted")
        still_so = self.federated.still_linked(credential)
        if not user.second_factor:
            return Proved(user=user, amr=(FEDERATED,), still_so=still_so)
        attempt = self._second_factor(body.otp, user, origin)
        return Proved(
            user=user,
            amr=(FEDERATED, OTP, MFA),
            still_so=still_so,
            also=self.guesses.forgive(attempt, jkt=origin.jkt),
        )

    def _credential(self, provider: Provider, identity: Identity) -> FederatedCredential:
        credential = self.federated.credential(identity)
        if credential is not None:
            return credential
        if not provider.auto_provision:
            raise refused("identity not linked")
        user = new_user(
            provider, identity, sub=base64url.encode(self.random(ID_BYTES)), now=self.now()
        )
        credential = FederatedCredential.of(identity, user.sub)
        if self.federated.add(user, credential):
            count(Metric.USER_PROVISIONED)
            return credential
        found = self.federated.credential(identity)  # another login of the same person was faster
        if found is None:
            raise refused("identity unlinked meanwhile")
        return found

    def _second_factor(self, otp: str | None, user: User, origin: Origin) -> Attempt:
        if otp is None:
            count(Metric.SECOND_FACTOR_REQUIRED)
            raise RequestRefused("mfa_required", "federated login")
        attempt = self.factors.use_counted(
            self.guesses,
            user.sub,
            otp,
            jkt=origin.jkt,
            source_ip=origin.source_ip,
            now=self.now,
            invocation_id=origin.invocation_id,
        )
        if attempt is None:
            raise refused("code wrong or used")
        return attempt
