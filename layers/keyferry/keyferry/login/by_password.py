"""By user name and password, with a second factor where the user has one."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from keyferry.aws import write_all
from keyferry.edge.telemetry import Metric, count
from keyferry.errors import RequestRefused
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.login import auth_session
from keyferry.login.auth_session import AuthSession, credential_digest
from keyferry.login.proof import Origin, Proved, refused
from keyferry.login.request import LoginRequest
from keyferry.sessions.model import MFA, OTP, PASSWORD
from keyferry.users.guessing import Attempt, GuessStore
from keyferry.users.imported_hashes import ImportedHashes
from keyferry.users.model import User, UserStatus, canonical_username
from keyferry.users.passwords import Typed, stronger
from keyferry.users.second_factor import SecondFactors
from keyferry.users.store import (
    PasswordCredential,
    UserStore,
    credential_from_item,
    credential_key,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """Who somebody says to be, and what is to prove it: a password now, or an earlier note of one."""

    username: str
    password: Typed | None = field(repr=False)
    auth_session: AuthSession | None

    def is_proved_by(self, credential: PasswordCredential | None) -> bool:
        """Whether the password is right, now or a moment ago. The work is the same for nobody."""
        if self.password is not None:
            return self.password.opens(credential.phc if credential else None)
        if credential is None or self.auth_session is None:
            return False
        return hmac.compare_digest(
            credential_digest(credential).encode(), self.auth_session.credential.encode()
        )


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    keyring: UnwrappedKeyring
    users: UserStore
    guesses: GuessStore
    factors: SecondFactors
    imported: ImportedHashes
    now: Callable[[], int]
    random: Callable[[int], bytes]

    def prove(self, body: LoginRequest, origin: Origin) -> Proved:
        """Raise `RequestRefused`: ``invalid_grant``, ``mfa_required``, ``too_many_attempts``."""
        claim = self._claim(body, origin)
        attempt = self._reserve(claim.username, origin)
        credential = credential_from_item(claim.username, attempt.beside)
        user, credential = self._user(credential, claim, attempt)
        amr: tuple[str, ...] = (PASSWORD,)
        if user.second_factor:
            if body.otp is None:
                credential = self._strengthened(credential, claim.password)
            self._second_factor(body.otp, user, credential, attempt, origin)
            amr = (PASSWORD, OTP, MFA)
        return Proved(
            user=user,
            amr=amr,
            still_so=self.users.same_password(
                credential, stronger_phc=self._stronger(credential, claim.password)
            ),
            also=self.guesses.forgive(attempt, jkt=origin.jkt),
        )

    def _claim(self, body: LoginRequest, origin: Origin) -> Claim:
        if body.auth_session is not None:
            session = auth_session.verify(body.auth_session, self.keyring, now=self.now())
            if (session.client_id, session.jkt) != (origin.client_id, origin.jkt):
                raise RequestRefused("invalid_grant", "auth session: of another device or client")
            return Claim(session.username, None, session)
        if body.username is None or body.password is None:
            raise RequestRefused("invalid_request", "neither password nor auth session")
        try:
            password = Typed.read(body.password)
            return Claim(canonical_username(body.username), password, None)
        except ValueError:
            raise RequestRefused("invalid_request", "user name or password: form") from None

    def _reserve(self, username: str, origin: Origin) -> Attempt:
        try:
            return self.guesses.reserve(
                username,
                jkt=origin.jkt,
                source_ip=origin.source_ip,
                now=self.now(),
                invocation_id=origin.invocation_id,
                beside=(self.users.credentials_table, credential_key(username)),
            )
        except RequestRefused:
            count(Metric.LOGIN_THROTTLED)
            raise

    def _user(
        self, credential: PasswordCredential | None, claim: Claim, attempt: Attempt
    ) -> tuple[User, PasswordCredential]:
        """The user that the claim opens, and the credential that it was proved by. One answer and
        one amount of work for every failure: an unknown name, a wrong password, a disabled user and
        one with another system's hash can not be told apart."""
        right = claim.is_proved_by(credential)
        # Read for an unknown name as well, so that the calls do not tell.
        user = self.users.user(credential.sub if credential else "-")
        if credential is None or user is None or not right or user.status is not UserStatus.ACTIVE:
            if claim.password is not None:
                phc = credential.phc if credential else None
                claim.password.spend_the_rest(phc, self.imported.decoys())
            self.guesses.failed(attempt)
            raise refused("unknown, wrong or disabled")
        return user, credential

    def _second_factor(
        self,
        otp: str | None,
        user: User,
        credential: PasswordCredential,
        attempt: Attempt,
        origin: Origin,
    ) -> None:
        """A code counts as an attempt like a password does, so codes are guessed at no faster."""
        if otp is None:
            count(Metric.SECOND_FACTOR_REQUIRED)
            note = AuthSession(
                username=credential.username,
                client_id=origin.client_id,
                jkt=origin.jkt,
                credential=credential_digest(credential),
            )
            issued = auth_session.issue(note, self.keyring, now=self.now())
            raise RequestRefused("mfa_required", "login", members={"auth_session": issued})
        if not self.factors.use(user.sub, otp, now=self.now(), invocation_id=origin.invocation_id):
            self.guesses.failed(attempt)
            count(Metric.SECOND_FACTOR_REFUSED)
            raise refused("code wrong or used")

    def _strengthened(
        self, credential: PasswordCredential, password: Typed | None
    ) -> PasswordCredential:
        """The credential under a hash at today's parameters: the login goes on without the password,
        which is at hand here alone."""
        phc = self._stronger(credential, password)
        if phc is None:
            return credential
        write = {"credential": self.users.same_password(credential, stronger_phc=phc)}
        if write_all(self.users.client, "dynamodb:TransactWriteItems rehash", write):
            return credential  # changed meanwhile, so what is issued for the old one opens nothing
        return replace(credential, phc=phc)

    def _stronger(self, credential: PasswordCredential, password: Typed | None) -> str | None:
        return None if password is None else stronger(password, credential.phc, random=self.random)
