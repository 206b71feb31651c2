"""Identities and providers on DynamoDB: one identity opens one user, whoever is faster."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest

from keyferry.aws import write_all
from keyferry.errors import CommandRefused, Unavailable
from keyferry.federation.id_token import Identity
from keyferry.federation.providers import NO_PROVIDERS, FirstLogin, apple, firebase, google, oidc
from keyferry.federation.store import (
    FederatedCredential,
    FederatedStore,
    Link,
    ProviderStore,
    new_user,
)
from keyferry.users.invitation import Invitation, InvitationStore, hash_code, new_code
from keyferry.users.model import User
from keyferry.users.store import PasswordCredential
from tests.contract.conftest import random

if TYPE_CHECKING:
    from tests.contract.conftest import Cloud

NOW = 1_790_000_000
PROVIDER = oidc(
    "corp",
    "https://issuer.example",
    ("app",),
    "https://issuer.example/jwks",
    first_login=FirstLogin.OPEN,
    roles=("user",),
)
JANE = Identity(PROVIDER.issuer, "jane", "jane@example.com", True, "Jane")


@pytest.fixture
def store(cloud: Cloud) -> FederatedStore:
    tables = cloud.tables
    return FederatedStore(cloud.dynamodb, tables["UsersTable"], tables["CredentialsTable"])


@pytest.fixture
def providers(cloud: Cloud) -> ProviderStore:
    return ProviderStore(cloud.dynamodb, cloud.tables["CredentialsTable"])


def provision(store: FederatedStore, sub: str, identity: Identity = JANE) -> bool:
    user = new_user(PROVIDER, identity, sub=sub, now=NOW)
    return store.add(user, FederatedCredential.of(identity, sub))


def rows(cloud: Cloud, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.dynamodb.scan(TableName=cloud.tables[table])["Items"]
    return found


class TestProvisioning:
    def test_once(self, cloud: Cloud, store: FederatedStore) -> None:
        assert store.credential(JANE) is None
        assert provision(store, "s1")
        assert store.credential(JANE) == FederatedCredential(PROVIDER.issuer, "jane", "s1")
        user = cloud.users.user("s1")
        assert user is not None
        assert (user.sub, user.roles, user.created_at) == ("s1", ("user",), NOW)

    def test_many_logins_at_once_make_one_user(self, cloud: Cloud, store: FederatedStore) -> None:
        together = Barrier(8)

        def login(number: int) -> bool:
            together.wait()
            try:
                return provision(store, f"s{number}")
            except Unavailable:  # another transaction was on the same row
                return False

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(login, range(8)))
        assert made.count(True) == 1
        assert len(rows(cloud, "UsersTable")) == 1
        credential = store.credential(JANE)
        assert credential is not None
        assert credential.sub == f"s{made.index(True)}"

    def test_a_second_login_leaves_the_first_ones_user(
        self, cloud: Cloud, store: FederatedStore
    ) -> None:
        assert provision(store, "s1")
        assert not provision(store, "s2")
        assert cloud.users.user("s2") is None

    def test_a_sub_that_somebody_has(self, cloud: Cloud, store: FederatedStore) -> None:
        assert provision(store, "s1")
        other = replace(JANE, subject="john")
        assert not provision(store, "s1", other)
        assert store.credential(other) is None


class TestInvitation:
    """An invitation, redeemed by whoever logs in by a provider for the first time."""

    CODE = new_code(random)
    INVITATION = Invitation("Ana", ("analyst",), hash_code(CODE), NOW + 60)

    @pytest.fixture
    def invitations(self, cloud: Cloud) -> InvitationStore:
        store = InvitationStore(cloud.users)
        store.put("ana", self.INVITATION)
        return store

    def redeem(self, cloud: Cloud, store: FederatedStore, sub: str, now: int = NOW) -> bool:
        user = User.new("Ana", ("analyst",), now=now, random=random)
        user = replace(user, sub=sub)
        identity = replace(JANE, subject=f"subject of {sub}")
        invitations = InvitationStore(cloud.users)
        also = {
            "invitation": invitations.spending("ana", self.INVITATION, now=now),
            "name": cloud.users.naming("ana", sub),
        }
        return store.add(user, FederatedCredential.of(identity, sub), also=also)

    @pytest.mark.usefixtures("invitations")
    def test_spent_named_and_linked_together(self, cloud: Cloud, store: FederatedStore) -> None:
        assert self.redeem(cloud, store, "s1")
        assert InvitationStore(cloud.users).find("ana") is None
        assert cloud.users.sub_of("ana") == "s1"
        assert cloud.users.password_credential("ana") is None, "a name, and no password"
        assert store.credential(replace(JANE, subject="subject of s1")) is not None
        user = cloud.users.user("s1")
        assert user is not None
        assert (user.username, user.roles) == ("Ana", ("analyst",))

    def nothing_happened(self, cloud: Cloud, store: FederatedStore, sub: str) -> None:
        assert cloud.users.user(sub) is None
        assert store.credential(replace(JANE, subject=f"subject of {sub}")) is None
        assert cloud.users.sub_of("ana") != sub

    def test_all_or_nothing(
        self, cloud: Cloud, store: FederatedStore, invitations: InvitationStore
    ) -> None:
        assert not self.redeem(cloud, store, "late", now=NOW + 60)
        self.nothing_happened(cloud, store, "late")
        invitations.put("ana", replace(self.INVITATION, code_hash=hash_code(new_code(random))))
        assert not self.redeem(cloud, store, "replaced")
        self.nothing_happened(cloud, store, "replaced")
        assert invitations.find("ana") is not None
        invitations.put("ana", self.INVITATION)
        assert cloud.users.add(
            User.new("ana", (), now=NOW, random=random), PasswordCredential("ana", "first", "phc")
        )
        assert not self.redeem(cloud, store, "taken")
        self.nothing_happened(cloud, store, "taken")
        assert invitations.find("ana") == self.INVITATION

    def test_a_password_and_many_identities_at_once_and_one_wins(
        self, cloud: Cloud, store: FederatedStore, invitations: InvitationStore
    ) -> None:
        together = Barrier(8)

        def redeem(number: int) -> bool:
            together.wait()
            try:
                if number % 2:
                    return self.redeem(cloud, store, f"s{number}")
                user = replace(User.new("Ana", (), now=NOW, random=random), sub=f"s{number}")
                credential = PasswordCredential("ana", user.sub, "phc")
                return invitations.redeem(self.INVITATION, user, credential, now=NOW)
            except Unavailable:  # another transaction was on the same rows
                return False

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(redeem, range(8)))
        assert won.count(True) == 1
        assert [item["sub"]["S"] for item in rows(cloud, "UsersTable")] == [f"s{won.index(True)}"]
        assert cloud.users.sub_of("ana") == f"s{won.index(True)}"
        assert invitations.find("ana") is None

    @pytest.mark.usefixtures("invitations")
    def test_the_name_is_taken_from_then_on(self, cloud: Cloud, store: FederatedStore) -> None:
        assert self.redeem(cloud, store, "s1")
        other = replace(User.new("ana", (), now=NOW, random=random), sub="other")
        credential = PasswordCredential("ana", "other", "phc")
        assert not cloud.users.add(other, credential)
        assert not InvitationStore(cloud.users).register(other, credential, now=NOW)
        assert cloud.users.user("other") is None
        assert cloud.users.set_password("ana", "the operator's", now=NOW) == "s1"
        credential_now = cloud.users.password_credential("ana")
        assert credential_now == PasswordCredential("ana", "s1", "the operator's")


class TestTakeover:
    @pytest.fixture
    def owner(self, cloud: Cloud) -> str:
        """A user with a password whose name is an e-mail address."""
        user = replace(new_user(PROVIDER, JANE, sub="owner", now=NOW), username="jane@example.com")
        assert cloud.users.add(user, PasswordCredential("jane@example.com", "owner", "phc"))
        return user.sub

    @pytest.mark.parametrize("verified", [True, False])
    def test_an_address_opens_nothing(
        self, cloud: Cloud, store: FederatedStore, owner: str, verified: bool
    ) -> None:
        stranger = replace(JANE, subject="stranger", email_verified=verified)
        assert store.credential(stranger) is None
        assert provision(store, "new", stranger)
        credential = store.credential(stranger)
        assert credential is not None
        assert credential.sub != owner
        known = cloud.users.password_credential("jane@example.com")
        assert known is not None
        assert known.sub == owner

    def test_the_same_subject_at_another_issuer(self, store: FederatedStore) -> None:
        assert provision(store, "s1")
        assert store.credential(replace(JANE, issuer="https://other.example")) is None

    def test_a_subject_that_looks_like_another_row(
        self, cloud: Cloud, store: FederatedStore, owner: str
    ) -> None:
        for subject in ("password#jane@example.com", "PROVIDERS", "jane@example.com"):
            assert store.credential(replace(JANE, subject=subject)) is None


class TestLink:
    @pytest.fixture
    def user(self, store: FederatedStore) -> str:
        assert provision(store, "s1", replace(JANE, subject="first"))
        return "s1"

    def test_linked(self, store: FederatedStore, user: str) -> None:
        credential = FederatedCredential.of(JANE, user)
        assert store.link(credential, NOW) is Link.LINKED
        assert store.credential(JANE) == credential
        assert store.link(credential, NOW) is Link.LINKED, "again"

    def test_an_identity_that_opens_somebody_else(self, store: FederatedStore, user: str) -> None:
        assert provision(store, "s2")
        assert store.link(FederatedCredential.of(JANE, user), NOW) is Link.TAKEN
        assert store.credential(JANE) == FederatedCredential.of(JANE, "s2")

    def test_a_user_that_is_not_there(self, store: FederatedStore) -> None:
        assert store.link(FederatedCredential.of(JANE, "nobody"), NOW) is Link.NO_USER
        assert store.credential(JANE) is None

    def test_unlink(self, store: FederatedStore, user: str) -> None:
        credential = FederatedCredential.of(JANE, user)
        store.link(credential, NOW)
        assert not store.unlink(replace(credential, sub="s2")), "not somebody else's"
        assert store.unlink(credential)
        assert not store.unlink(credential)
        assert store.credential(JANE) is None

    def test_unlinked_between_the_check_and_the_session(
        self, cloud: Cloud, store: FederatedStore, user: str
    ) -> None:
        credential = FederatedCredential.of(JANE, user)
        store.link(credential, NOW)
        check = {"credential": store.still_linked(credential)}
        assert write_all(cloud.dynamodb, "test", check) == frozenset()
        store.unlink(credential)
        assert write_all(cloud.dynamodb, "test", check) == {"credential"}
        assert provision(store, "s2")
        assert write_all(cloud.dynamodb, "test", check) == {"credential"}


class TestProviders:
    def test_none(self, providers: ProviderStore) -> None:
        assert providers.read() == NO_PROVIDERS
        with pytest.raises(CommandRefused) as refused:
            providers.remove("corp")
        assert refused.value.code == "not_found"

    def test_put_replace_remove(self, providers: ProviderStore) -> None:
        providers.put(PROVIDER)
        providers.put(firebase("my-project"))
        changed = replace(PROVIDER, audiences=("app", "app2"))
        providers.put(changed)
        found = providers.read()
        assert found.by_name == {"corp": changed, "firebase": firebase("my-project")}
        assert found.revision == 3
        providers.remove("corp")
        assert set(providers.read().by_name) == {"firebase"}
        providers.remove("firebase")
        assert providers.read().by_name == {}
        providers.put(PROVIDER)
        assert providers.read().revision == 6, "it never goes back"

    def test_an_issuer_twice(self, providers: ProviderStore) -> None:
        providers.put(PROVIDER)
        with pytest.raises(CommandRefused) as refused:
            providers.put(replace(PROVIDER, name="corp2"))
        assert refused.value.code == "invalid_request"
        assert set(providers.read().by_name) == {"corp"}

    def test_operators_at_once_lose_nothing(self, providers: ProviderStore) -> None:
        wanted = [PROVIDER, firebase("my-project"), google(("g",)), apple(("a",))]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(providers.put, wanted))
        found = providers.read()
        assert found.by_name == {each.name: each for each in wanted}
        assert found.revision == 4

    def test_a_write_that_was_tried_twice(self, cloud: Cloud, providers: ProviderStore) -> None:
        """The second try meets the first one's row, and that is success."""

        class Twice:
            def __getattr__(self, name: str) -> Any:
                return getattr(cloud.dynamodb, name)

            def put_item(self, **request: Any) -> Any:
                cloud.dynamodb.put_item(**request)
                return cloud.dynamodb.put_item(**request)

        ProviderStore(Twice(), providers.table).put(PROVIDER)  # type: ignore[arg-type]
        assert providers.read().revision == 1
