"""By an ID token of a configured provider: Firebase Auth, Google, Apple, any OpenID Connect issuer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused
from keyferry.federation import id_token
from keyferry.federation.cache import ConfiguredProviders
from keyferry.federation.id_token import Identity
from keyferry.federation.jwks import Jwks
from keyferry.federation.providers import FirstLogin, Provider
from keyferry.federation.store import FederatedCredential, FederatedStore, new_user
from keyferry.jose import base64url
from keyferry.login.proof import Origin, Proved, refused
from keyferry.login.request import InvitationRequest, LoginRequest
from keyferry.sessions.model import FEDERATED, MFA, OTP
from keyferry.tokens.refresh import ID_BYTES
from keyferry.users.guessing import Attempt, GuessStore
from keyferry.users.invitation import InvitationStore
from keyferry.users.model import User, UserStatus, canonical_username
from keyferry.users.second_factor import SecondFactors
from keyferry.users.store import UserStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class ProviderLogin:
    providers: ConfiguredProviders
    jwks: Jwks
    federated: FederatedStore
    users: UserStore
    invitations: InvitationStore
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
        expected_nonce = _expected_nonce(body.nonce, origin.jkt)
        try:
            identity = id_token.verify(
                body.id_token,
                provider,
                now=self.now(),
                jwks=self.jwks,
                expected_nonce=expected_nonce,
            )
        except RequestRefused:
            count(Metric.LOGIN_FAILED)
            raise
        credential = self.federated.credential(identity)
        if credential is None:
            user, credential = self._newcomer(provider, identity, body.invitation)
        else:
            user = self._known(credential)
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

    def _known(self, credential: FederatedCredential) -> User:
        user = self.users.user(credential.sub)
        if user is None or user.status is not UserStatus.ACTIVE:
            raise refused("federated user disabled or deleted")
        return user

    def _newcomer(
        self, provider: Provider, identity: Identity, invitation: InvitationRequest | None
    ) -> tuple[User, FederatedCredential]:
        """Make a user of an identity that opens none yet, if it may have one."""
        if invitation is not None and provider.first_login is not FirstLogin.CLOSED:
            (user, also), made = self._invited(invitation), Metric.ACCOUNT_REDEEMED
        elif provider.first_login is FirstLogin.OPEN:
            sub = base64url.encode(self.random(ID_BYTES))
            user, also = new_user(provider, identity, sub=sub, now=self.now()), {}
            made = Metric.USER_PROVISIONED
        else:
            raise refused("identity not linked")
        credential = FederatedCredential.of(identity, user.sub)
        if self.federated.add(user, credential, also=also):
            count(made)
            if made is Metric.ACCOUNT_REDEEMED:
                logger.info("account", extra={"outcome": "redeemed", "sub": user.sub})
            return user, credential
        found = self.federated.credential(identity)  # another login of the same person was faster
        if found is None:
            raise refused("identity unlinked, or invitation spent, meanwhile")
        return self._known(found), found

    def _invited(
        self, invitation: InvitationRequest
    ) -> tuple[User, dict[str, TransactWriteItemTypeDef]]:
        """The user that an invitation is for, and the writes that spend it and take the name. One
        answer for a name that is not invited, a wrong code, one that has expired, one that is
        spent."""
        try:
            username = canonical_username(invitation.username)
        except ValueError:
            raise refused("invitation") from None
        found, now = self.invitations.find(username), self.now()
        if found is None or not found.is_opened_by(invitation.code, now):
            raise refused("invitation")
        user = User.new(found.username, found.roles, now=now, random=self.random)
        return user, {
            "invitation": self.invitations.spending(username, found, now=now),
            "name": self.users.naming(username, user.sub),
        }

    def _second_factor(self, otp: str | None, user: User, origin: Origin) -> Attempt:
        if otp is None:
            count(Metric.SECOND_FACTOR_REQUIRED)
            raise RequestRefused("mfa_required", "federated login")
        try:
            attempt = self.factors.use_counted(
                self.guesses,
                user.sub,
                otp,
                jkt=origin.jkt,
                source_ip=origin.source_ip,
                now=self.now,
                invocation_id=origin.invocation_id,
            )
        except RequestRefused:
            count(Metric.LOGIN_THROTTLED)
            raise
        if attempt is None:
            count(Metric.SECOND_FACTOR_REFUSED)
            raise refused("code wrong or used")
        return attempt


def _expected_nonce(sent: str | None, jkt: str) -> str | None:
    """The thumbprint of the device key that this login has proved, or the text that the app sent.

    A token that is bound to a device key is of use to that key alone. Thumbprints are no secret, so
    nobody may name one, by which a token is bound to another key, as a text of their own. Raise
    `RequestRefused` (``invalid_grant``).
    """
    if sent is None:
        return jkt or None
    if sent != jkt and _THUMBPRINT.fullmatch(sent):
        raise refused("nonce in the form of a thumbprint")
    return sent
