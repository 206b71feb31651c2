"""``POST /v1/login``: who somebody is and on which device, in; a session, out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from keyferry import aws, clock
from keyferry.attestation.app_check import HEADER, AppCheck
from keyferry.config import Deployment, TokenPolicy, allows_rsa_oaep
from keyferry.edge import authentication
from keyferry.edge.request import Request
from keyferry.edge.response import Response
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused, Unavailable
from keyferry.federation.cache import ConfiguredProviders
from keyferry.federation.jwks import Jwks
from keyferry.federation.store import FederatedStore
from keyferry.jose.recipient import Recipient
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.login.by_password import PasswordLogin
from keyferry.login.by_provider import ProviderLogin
from keyferry.login.proof import Origin, Proved
from keyferry.login.request import LoginRequest, read
from keyferry.sessions import encryption_key
from keyferry.sessions.grant import Grants
from keyferry.sessions.model import Device
from keyferry.sessions.opening import CredentialChanged, SessionOpening
from keyferry.sessions.store import SessionStore
from keyferry.users.guessing import GuessStore
from keyferry.users.imported_hashes import ImportedHashes
from keyferry.users.invitation import InvitationStore
from keyferry.users.second_factor import SecondFactors
from keyferry.users.store import UserStore

_CHECKS: Final = 3
"""How often a credential may change under a login."""


@dataclass(frozen=True, slots=True)
class Login:
    keyring: UnwrappedKeyring
    app_check: AppCheck
    by_password: PasswordLogin
    by_provider: ProviderLogin
    opening: SessionOpening
    grants: Grants
    policy: TokenPolicy
    allow_rsa_oaep: bool
    now: Callable[[], int]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        keyring = UnwrappedKeyring.from_environ(dynamodb, kms, environ)
        policy = TokenPolicy.from_environ(environ)
        users = UserStore.from_environ(dynamodb, environ)
        guesses = GuessStore(dynamodb, environ["KEYFERRY_GUESSES_TABLE"], policy.absolute_seconds)
        factors = SecondFactors(
            dynamodb,
            users.credentials_table,
            users.users_table,
            kms,
            environ["KEYFERRY_KEYRING_KEY_ARN"],
            Deployment.from_environ(environ),
        )
        jwks = Jwks(clock.now)
        return cls(
            keyring=keyring,
            app_check=AppCheck.from_environ(jwks, dynamodb, environ),
            by_password=PasswordLogin(
                keyring,
                users,
                guesses,
                factors,
                ImportedHashes.from_environ(dynamodb, environ),
                clock.now,
                clock.random,
            ),
            by_provider=ProviderLogin(
                ConfiguredProviders.from_environ(dynamodb, environ),
                jwks,
                FederatedStore.from_environ(dynamodb, environ),
                users,
                InvitationStore(users),
                guesses,
                factors,
                clock.now,
                clock.random,
            ),
            opening=SessionOpening(
                users,
                SessionStore(dynamodb, environ["KEYFERRY_SESSIONS_TABLE"]),
                limit=int(environ["KEYFERRY_MAX_SESSIONS"]),
            ),
            grants=Grants(keyring, policy, clock.now, clock.random),
            policy=policy,
            allow_rsa_oaep=allows_rsa_oaep(environ),
            now=clock.now,
        )

    def __call__(self, request: Request) -> Response:
        body = read(request)
        recipient = encryption_key.read(body.device.encryption_key, allow_rsa=self.allow_rsa_oaep)
        origin = self._origin(request, body, recipient)
        checked = self.app_check.check(
            request.headers.one(HEADER), invocation_id=request.invocation_id
        )
        attested = self.app_check.admit(checked)
        self.grants.unwrap_keys()
        for _ in range(_CHECKS):
            proved = self._prove(body, origin)
            session, token = self.grants.begin(
                proved.user,
                client_id=origin.client_id,
                jkt=origin.jkt,
                amr=proved.amr,
                device=Device(
                    name=body.device.name,
                    platform=body.device.platform,
                    app_version=body.device.app_version,
                ),
                encryption_key=recipient,
                attested=attested,
                request_id=origin.invocation_id,
            )
            try:
                opened = self.opening.open(
                    session, proved.user, still_so=proved.still_so, also=proved.also
                )
            except CredentialChanged:
                continue  # changed, or only hashed anew by another login: the next check tells
            logger.info(
                "login",
                extra={
                    "outcome": "succeeded",
                    "sid": session.sid,
                    "displaced": opened.displaced,
                    "app_check": checked.result,
                },
            )
            count(Metric.LOGIN_SUCCEEDED)
            return self.grants.respond(opened.session, token)
        raise Unavailable("login: the credential kept changing")

    def _origin(self, request: Request, body: LoginRequest, recipient: Recipient) -> Origin:
        client_id = authentication.client_id(request, self.keyring)
        if body.device.platform != client_id:
            raise RequestRefused(
                "invalid_request",
                "platform of another client",
                description="device.platform must be the platform of the client key.",
            )
        proof = authentication.device_key(
            request.call(self.keyring.issuer),
            self.keyring,
            now=self.now(),
            required=self.policy.require_dpop,
        )
        encryption_key.require_signed_for(recipient, proof)
        return Origin(
            client_id=client_id,
            jkt=proof.jkt if proof else "",
            source_ip=request.source_ip,
            invocation_id=request.invocation_id,
        )

    def _prove(self, body: LoginRequest, origin: Origin) -> Proved:
        if body.id_token is not None:
            return self.by_provider.prove(body, origin)
        return self.by_password.prove(body, origin)
