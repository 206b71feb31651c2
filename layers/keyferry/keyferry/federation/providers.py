"""Which issuers' ID tokens open a session, and under which conditions: configuration, no secret.

`firebase`, `google` and `apple` know what those issuers do; `oidc` takes any other that follows
OpenID Connect Core 1.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final, Self

from keyferry.federation.jwks import checked_uri
from keyferry.federation.signature import ALGORITHMS

DEFAULT_MAX_AGE: Final = 600
"""Seconds. A login follows its sign-in at once; apps ask for a new ID token before it (Firebase:
``getIdToken(true)``)."""

MAX_PROVIDERS: Final = 16

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ROLE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_FIREBASE_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9.:-]{2,62}[a-z0-9]")
_MAX_LISTED: Final = 32


class Kind(StrEnum):
    FIREBASE = "firebase"
    GOOGLE = "google"
    APPLE = "apple"
    OIDC = "oidc"


class Nonce(StrEnum):
    """See `keyferry.federation.id_token`. `NONE` is for issuers that put none into ID tokens."""

    NONE = "none"
    REQUIRED = "required"


class FirstLogin(StrEnum):
    """What becomes of whoever signs in for the first time."""

    CLOSED = "closed"
    """Only identities that the operator has linked open a user."""

    INVITATION = "invitation"
    """An invitation makes a user, with its name and roles."""

    OPEN = "open"
    """Anybody who can get an account at that issuer becomes a user. An invitation is good here too,
    for its name and roles."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One issuer, and what an ID token of its must look like.

    ``issuer`` is the spelling that accounts are linked under; ``issuer_aliases`` are others that
    the same issuer uses. ``audiences`` are our client ids there. ``authorized_parties`` are further
    client ids that may have asked for a token (``azp``); None leaves that to the issuer, as long as
    there is one audience.

    ``first_login`` says what becomes of an identity that opens no user yet, and ``roles`` are those
    of the users that `FirstLogin.OPEN` makes. ``tenant`` and ``anonymous`` are Firebase's.

    Raise `ValueError` for what can not be right.
    """

    name: str
    kind: Kind
    issuer: str
    audiences: tuple[str, ...]
    jwks_uri: str
    algorithms: tuple[str, ...] = ("RS256",)
    issuer_aliases: tuple[str, ...] = ()
    authorized_parties: tuple[str, ...] | None = ()
    nonce: Nonce = Nonce.REQUIRED
    max_age: int = DEFAULT_MAX_AGE
    first_login: FirstLogin = FirstLogin.CLOSED
    roles: tuple[str, ...] = ()
    tenant: str | None = None
    anonymous: bool = False

    def __post_init__(self) -> None:
        lists = (self.audiences, self.algorithms, self.issuer_aliases, self.roles)
        if not all(isinstance(each, tuple) for each in (*lists, self.authorized_parties or ())):
            raise ValueError("a list is expected, not a text")  # `in` would look for a part of it
        if not isinstance(self.anonymous, bool):
            raise ValueError("anonymous: true or false")
        if not _NAME.fullmatch(self.name):
            raise ValueError("name: lower-case letters, digits, - and _, at most 32")
        # The hash that accounts are linked by joins issuer and subject with a NUL.
        if not _are_texts((self.issuer, *self.issuer_aliases)):
            raise ValueError("issuer: printable ASCII, at most 255 characters")
        if not self.audiences or not _are_texts(self.audiences):
            raise ValueError("audiences: one to 32 client ids")
        if not _are_texts(self.authorized_parties or ()):
            raise ValueError("authorized parties: at most 32 client ids")
        checked_uri(self.jwks_uri)
        if not self.algorithms or not set(self.algorithms) <= set(ALGORITHMS):
            raise ValueError(f"algorithms: of {', '.join(ALGORITHMS)}")
        if not 60 <= self.max_age <= 86_400:
            raise ValueError("max age: 60 to 86400 seconds")
        if len(self.roles) > _MAX_LISTED or not all(map(_ROLE.fullmatch, self.roles)):
            raise ValueError("roles")
        if self.kind is not Kind.FIREBASE and (self.tenant is not None or self.anonymous):
            raise ValueError("tenant and anonymous are for Firebase")
        if self.tenant is not None and not _are_texts((self.tenant,)):
            raise ValueError("tenant")

    @property
    def issuers(self) -> frozenset[str]:
        return frozenset({self.issuer, *self.issuer_aliases})

    def members(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Self:
        """Read what `members` wrote; a member of a later version is left out. An earlier version
        had a flag ``auto_provision`` in the place of ``first_login``."""
        known = {each.name for each in fields(cls)}
        if members.get("auto_provision"):
            members = {"first_login": FirstLogin.OPEN, **members}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in members.items()
            if name in known
        }
        values["kind"], values["nonce"] = Kind(values["kind"]), Nonce(values["nonce"])
        values["first_login"] = FirstLogin(values.get("first_login", FirstLogin.CLOSED))
        return cls(**values)


def firebase(
    project_id: str,
    *,
    name: str = "firebase",
    tenant: str | None = None,
    anonymous: bool = False,
    max_age: int = DEFAULT_MAX_AGE,
    first_login: FirstLogin = FirstLogin.CLOSED,
    roles: tuple[str, ...] = (),
) -> Provider:
    """Firebase Auth, or one tenant of Identity Platform. Its anonymous users have shown nothing to
    anybody, so they are refused unless ``anonymous``."""
    if not _FIREBASE_PROJECT.fullmatch(project_id):
        raise ValueError("project id")
    return Provider(
        name=name,
        kind=Kind.FIREBASE,
        issuer=f"https://securetoken.google.com/{project_id}",
        audiences=(project_id,),
        jwks_uri="https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com",
        nonce=Nonce.NONE,
        max_age=max_age,
        first_login=first_login,
        roles=roles,
        tenant=tenant,
        anonymous=anonymous,
    )


def google(
    client_ids: tuple[str, ...],
    *,
    name: str = "google",
    nonce: Nonce = Nonce.REQUIRED,
    max_age: int = DEFAULT_MAX_AGE,
    first_login: FirstLogin = FirstLogin.CLOSED,
    roles: tuple[str, ...] = (),
) -> Provider:
    """Sign in with Google. On Android the token is for the server's client id and ``azp`` is the
    app's; that the two belong together is what Google checks before it issues one."""
    return Provider(
        name=name,
        kind=Kind.GOOGLE,
        issuer="https://accounts.google.com",
        issuer_aliases=("accounts.google.com",),
        audiences=client_ids,
        authorized_parties=None,
        jwks_uri="https://www.googleapis.com/oauth2/v3/certs",
        nonce=nonce,
        max_age=max_age,
        first_login=first_login,
        roles=roles,
    )


def apple(
    client_ids: tuple[str, ...],
    *,
    name: str = "apple",
    nonce: Nonce = Nonce.REQUIRED,
    max_age: int = DEFAULT_MAX_AGE,
    first_login: FirstLogin = FirstLogin.CLOSED,
    roles: tuple[str, ...] = (),
) -> Provider:
    """Sign in with Apple; client ids are bundle ids, and service ids for Android and the web."""
    return Provider(
        name=name,
        kind=Kind.APPLE,
        issuer="https://appleid.apple.com",
        audiences=client_ids,
        jwks_uri="https://appleid.apple.com/auth/keys",
        nonce=nonce,
        max_age=max_age,
        first_login=first_login,
        roles=roles,
    )


def oidc(
    name: str,
    issuer: str,
    client_ids: tuple[str, ...],
    jwks_uri: str,
    *,
    algorithms: tuple[str, ...] = ("RS256",),
    authorized_parties: tuple[str, ...] = (),
    nonce: Nonce = Nonce.REQUIRED,
    max_age: int = DEFAULT_MAX_AGE,
    first_login: FirstLogin = FirstLogin.CLOSED,
    roles: tuple[str, ...] = (),
) -> Provider:
    """Any issuer of OpenID Connect. ``issuer`` is exactly as its tokens spell it."""
    if checked_uri(issuer).query:
        raise ValueError("issuer: OpenID Connect Core 1.0 §2 allows no query")
    return Provider(
        name=name,
        kind=Kind.OIDC,
        issuer=issuer,
        audiences=client_ids,
        jwks_uri=jwks_uri,
        algorithms=algorithms,
        authorized_parties=authorized_parties,
        nonce=nonce,
        max_age=max_age,
        first_login=first_login,
        roles=roles,
    )


@dataclass(frozen=True, slots=True)
class Providers:
    """All providers by name. ``revision`` counts writes."""

    revision: int
    by_name: Mapping[str, Provider]

    def having(self, provider: Provider) -> Self:
        """These with ``provider`` among them, in the place of the one called the same.

        Raise `ValueError` when another one has its issuer: accounts are linked by the issuer, so
        two sets of keys or of rules must not speak for one.
        """
        others = {name: other for name, other in self.by_name.items() if name != provider.name}
        if any(other.issuers & provider.issuers for other in others.values()):
            raise ValueError("another provider has this issuer")
        if len(others) >= MAX_PROVIDERS:
            raise ValueError(f"at most {MAX_PROVIDERS} providers")
        return type(self)(self.revision + 1, {**others, provider.name: provider})

    def without(self, name: str) -> Self:
        """These but for ``name``. Raise `KeyError` when it is not among them."""
        others = dict(self.by_name)
        del others[name]
        return type(self)(self.revision + 1, others)

    def to_json(self) -> str:
        ordered = [self.by_name[name].members() for name in sorted(self.by_name)]
        return json.dumps(ordered, separators=(",", ":"))

    @classmethod
    def from_json(cls, document: str, *, revision: int) -> Self:
        found = (Provider.from_members(members) for members in json.loads(document))
        return cls(revision, {provider.name: provider for provider in found})


NO_PROVIDERS: Final = Providers(revision=0, by_name={})


def _are_texts(texts: tuple[str, ...]) -> bool:
    return len(texts) <= _MAX_LISTED and all(
        0 < len(text) <= 255 and text.isascii() and text.isprintable() for text in texts
    )
