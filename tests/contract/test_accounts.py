"""Invitations, registrations, changed passwords and imports on DynamoDB semantics."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from keyferry.attestation import app_check as attestation
from keyferry.attestation.app_check import HEADER, JWKS_URI, AppCheck
from keyferry.config import TokenPolicy
from keyferry.edge.request import Headers, Request
from keyferry.errors import RequestRefused, Unavailable
from keyferry.jose import base64url
from keyferry.operator.user_import import ImportUsers, UserImport
from keyferry.sessions.model import Status
from keyferry.sessions.opening import CredentialChanged, SessionOpening
from keyferry.sessions.store import SessionStore
from keyferry.single_use import SingleUse
from keyferry.users import accounts, passwords, stored_hashes
from keyferry.users.accounts import Accounts
from keyferry.users.guessing import REDEEM, REGISTER, GuessStore
from keyferry.users.imported_hashes import (
    MAX_KINDS,
    ImportedKinds,
    ImportedKindsStore,
    TooManyKinds,
)
from keyferry.users.invitation import Invitation, InvitationStore, hash_code, new_code
from keyferry.users.model import User, UserStatus
from keyferry.users.new_password import NewPasswordPolicy
from keyferry.users.password_change import PasswordChange
from keyferry.users.store import PasswordCredential, UserStore
from tests.contract.conftest import Cloud, random
from tests.unit.identity_provider import NOW as PROVIDER_NOW
from tests.unit.identity_provider import Issuer, jwk, jwk_set, rsa_key, token
from tests.unit.test_app_check import CLAIMS
from tests.unit.test_app_check import make as app_check
from tests.unit.test_rotation import NOW, ROW
from tests.unit.test_stored_hashes import django

if TYPE_CHECKING:
    from keyferry.sessions.model import Session

CODE = new_code(random)
INVITATION = Invitation("Ana", ("analyst",), hash_code(CODE), NOW + 60)
CREDENTIAL = PasswordCredential("ana", "sub", "old hash")


def invitations(cloud: Cloud) -> InvitationStore:
    return InvitationStore(cloud.users)


def newcomer(sub: str = "sub") -> tuple[User, PasswordCredential]:
    user = User(sub, "Ana", UserStatus.ACTIVE, ("analyst",), NOW)
    return user, PasswordCredential("ana", sub, f"hash of {sub}")


class TestInvitations:
    def test_round_trip(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        assert store.find("ana") is None
        store.put("ana", INVITATION)
        assert store.find("ana") == INVITATION
        assert INVITATION.is_opened_by(CODE, NOW)
        assert not INVITATION.is_opened_by(new_code(random), NOW)
        assert not INVITATION.is_opened_by(CODE, NOW + 60)

    def test_the_code_is_not_in_the_table(self, cloud: Cloud) -> None:
        invitations(cloud).put("ana", INVITATION)
        rows = cloud.dynamodb.scan(TableName=cloud.tables["CredentialsTable"])["Items"]
        assert CODE not in str(rows)
        assert CODE.replace("-", "") not in str(rows)

    def test_redeemed_once(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        store.put("ana", INVITATION)
        assert store.redeem(INVITATION, *newcomer(), now=NOW)
        assert store.find("ana") is None
        user, credential = cloud.users.user("sub"), cloud.users.password_credential("ana")
        assert user is not None
        assert credential is not None
        assert (user.username, user.roles, credential.phc) == ("Ana", ("analyst",), "hash of sub")
        assert not store.redeem(INVITATION, *newcomer("other"), now=NOW)
        assert cloud.users.user("other") is None

    def test_two_at_once_one_wins(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        for attempt in range(5):
            name = f"ana{attempt}"
            store.put(name, INVITATION)

            def redeem(number: int, name: str = name) -> bool:
                user, credential = newcomer(f"{name}-{number}")
                try:
                    return store.redeem(
                        INVITATION, user, replace(credential, username=name), now=NOW
                    )
                except Unavailable:
                    return False

            with ThreadPoolExecutor(8) as pool:
                won = list(pool.map(redeem, range(8)))
            assert won.count(True) == 1
            credential = cloud.users.password_credential(name)
            assert credential is not None
            assert credential.sub == f"{name}-{won.index(True)}"
            made = [cloud.users.user(f"{name}-{number}") for number in range(8)]
            assert len([user for user in made if user]) == 1, "no user without a password is left"

    def test_expired_between_the_look_and_the_write(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        store.put("ana", INVITATION)
        assert not store.redeem(INVITATION, *newcomer(), now=NOW + 60)

    def test_a_new_one_replaces_the_old(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        store.put("ana", INVITATION)
        store.put("ana", replace(INVITATION, code_hash=hash_code(new_code(random))))
        assert not store.redeem(INVITATION, *newcomer(), now=NOW)
        assert cloud.users.user("sub") is None

    def test_over_a_user_who_came_to_be_meanwhile(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        store.put("ana", INVITATION)
        assert cloud.users.add(*newcomer("first"))
        assert not store.redeem(INVITATION, *newcomer("second"), now=NOW)
        credential = cloud.users.password_credential("ana")
        assert credential is not None
        assert credential.sub == "first"


class TestRegistration:
    def test_once(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        assert store.register(*newcomer(), now=NOW)
        assert not store.register(*newcomer("other"), now=NOW)
        assert cloud.users.user("other") is None

    def test_an_invited_name_is_kept_for_who_was_invited(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        store.put("ana", INVITATION)
        assert not store.register(*newcomer("squatter"), now=NOW)
        assert store.redeem(INVITATION, *newcomer(), now=NOW)

    def test_until_the_invitation_expires(self, cloud: Cloud) -> None:
        store = invitations(cloud)
        store.put("ana", INVITATION)
        assert store.register(*newcomer(), now=NOW + 60)
        assert store.find("ana") is None


@dataclass
class Ana:
    """A user with three sessions, who changes her password in the middle one."""

    cloud: Cloud

    def __post_init__(self) -> None:
        user = User("sub", "Ana", UserStatus.ACTIVE, (), NOW)
        assert self.cloud.users.add(user, CREDENTIAL)
        self.sessions = [self.login() for _ in range(3)]
        self.own = self.sessions[1]

    @property
    def change(self) -> PasswordChange:
        return PasswordChange(self.cloud.users, self.cloud.sessions)

    def login(self, phc: str = CREDENTIAL.phc) -> str:
        session: Session = replace(ROW, sid=base64url.encode(random(16)), created_at=NOW)
        user = self.cloud.users.user("sub")
        assert user is not None
        opening = SessionOpening(self.cloud.users, self.cloud.sessions, 10)
        same = self.cloud.users.same_password(replace(CREDENTIAL, phc=phc))
        opening.open(session, user, still_so=same)
        return session.sid

    def read(self) -> Any:
        return self.change.caller("sub", self.own, now=NOW)

    def write(self, read: Any, phc: str = "new hash", also: Any = None) -> int:
        user, own, others = read
        return self.change.write(user, own, others, CREDENTIAL, phc, now=NOW, also=also or {})

    @property
    def alive(self) -> set[str]:
        return {row.sid for row in self.cloud.sessions.living("sub", now=NOW)}

    @property
    def phc(self) -> str:
        credential = self.cloud.users.password_credential("ana")
        assert credential is not None
        return credential.phc


@pytest.fixture
def ana(cloud: Cloud) -> Ana:
    return Ana(cloud)


class TestPasswordChange:
    def test_ends_the_others(self, ana: Ana) -> None:
        assert ana.write(ana.read()) == 2
        assert (ana.alive, ana.phc) == ({ana.own}, "new hash")
        user = ana.cloud.users.user("sub")
        assert user is not None
        assert user.sessions == (ana.own,)

    def test_a_login_between_the_two_looks_is_ended_too(
        self, ana: Ana, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whichever of the two is the first."""
        looks = [(UserStore, "user"), (SessionStore, "living")]
        plain = {name: getattr(store, name) for store, name in looks}

        def look_and_then_a_login(name: str) -> Any:
            def look(store: Any, *arguments: Any, **options: Any) -> Any:
                found = plain[name](store, *arguments, **options)
                for kind, each in looks:
                    monkeypatch.setattr(kind, each, plain[each])
                ana.login()
                return found

            return look

        for kind, name in looks:
            monkeypatch.setattr(kind, name, look_and_then_a_login(name))
        assert ana.write(ana.read()) == 3
        assert ana.alive == {ana.own}

    def test_a_login_after_the_look_is_ended_too(self, ana: Ana) -> None:
        read = ana.read()
        late = ana.login()
        assert ana.write(read) == 3
        assert late not in ana.alive
        assert ana.alive == {ana.own}

    def test_a_login_that_was_checked_before_and_written_after_does_not_open(
        self, ana: Ana
    ) -> None:
        ana.write(ana.read())
        with pytest.raises(CredentialChanged):
            ana.login()
        assert ana.alive == {ana.own}
        ana.login("new hash")

    def test_a_session_that_ended_meanwhile_holds_nothing_up(self, ana: Ana) -> None:
        read = ana.read()
        ana.cloud.sessions.end("sub", ana.sessions[0], request_id="r")
        assert ana.write(read) == 1
        assert ana.alive == {ana.own}

    def test_a_theft_stays_one(self, ana: Ana) -> None:
        read = ana.read()
        stolen = next(row for row in read[2] if row.sid == ana.sessions[0])
        assert ana.cloud.sessions._compromise(stolen, request_id="r")
        ana.write(read)
        items = ana.cloud.dynamodb.scan(TableName=ana.cloud.tables["SessionsTable"])["Items"]
        statuses = {item["sid"]["S"]: item["status"]["S"] for item in items}
        assert statuses[stolen.sid] == Status.COMPROMISED

    @pytest.mark.parametrize("event", ["ended", "disabled"])
    def test_whoever_was_ended_meanwhile_changes_nothing(self, ana: Ana, event: str) -> None:
        read = ana.read()
        if event == "ended":
            ana.cloud.sessions.end("sub", ana.own, request_id="r")
        else:
            ana.cloud.users.set_status("sub", UserStatus.DISABLED)
        with pytest.raises(RequestRefused) as refused:
            ana.write(read)
        assert (refused.value.code, ana.phc) == ("invalid_token", "old hash")
        assert ana.sessions[0] in ana.alive

    def test_of_two_changes_at_once_one_wins(self, ana: Ana) -> None:
        read = ana.read()

        def change(phc: str) -> str | None:
            try:
                ana.write(read, phc)
            except Unavailable:
                return None
            return phc

        with ThreadPoolExecutor(4) as pool:
            written = [each for each in pool.map(change, ("a", "b", "c", "d")) if each]
        assert written == [ana.phc]

    def test_the_operators_new_password_is_not_written_over(self, ana: Ana) -> None:
        read = ana.read()
        ana.cloud.users.set_password("ana", "the operator's", now=NOW)
        with pytest.raises(Unavailable):
            ana.write(read)
        assert ana.phc == "the operator's"
        assert len(ana.alive) == 3, "both or neither"

    def test_logins_beside_it_leave_no_session_of_the_old_password(self, ana: Ana) -> None:
        def login(_: int) -> str | None:
            try:
                return ana.login()
            except (CredentialChanged, Unavailable, RequestRefused):
                return None

        with ThreadPoolExecutor(6) as pool:
            logins = [pool.submit(login, number) for number in range(5)]
            changed = pool.submit(ana.write, ana.read())
            [each.result() for each in logins]
            try:
                changed.result()
            except Unavailable:
                ana.write(ana.read())
        assert ana.alive == {ana.own}


GOOD = "$2b$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui"


class TestImport:
    def run(self, cloud: Cloud, *users: dict[str, Any], dry_run: bool = False) -> list[Any]:
        request = ImportUsers(users=list(users), dry_run=dry_run)
        results = UserImport(cloud.users, lambda: NOW, random)(request)["results"]
        return [result.get("reason") or result["outcome"] for result in results]

    def test_each_by_itself(self, cloud: Cloud) -> None:
        assert self.run(
            cloud,
            {"username": "Ana", "password_hash": GOOD, "roles": ["a", "a"]},
            {"username": "bad", "password_hash": "correct horse"},
            {"username": "t\nwo", "password_hash": GOOD},
            {"username": "three", "password": "plain"},
            {"username": "four", "password_hash": GOOD, GOOD: "mixed up"},
            {"username": "locked", "password_hash": GOOD, "disabled": True},
            {"username": "ANA ", "password_hash": GOOD},
        ) == [
            "imported",
            "not a supported password hash",
            "user name: control character",
            "password_hash: Field required",
            "an unknown member: Extra inputs are not permitted",
            "imported",
            "already_there",
        ]
        ana = cloud.users.password_credential("ana")
        locked = cloud.users.password_credential("locked")
        assert ana is not None
        assert locked is not None
        assert ana.phc == GOOD
        users = [cloud.users.user(ana.sub), cloud.users.user(locked.sub)]
        assert [(user.username, user.roles, user.status) for user in users if user] == [
            ("Ana", ("a",), UserStatus.ACTIVE),
            ("locked", (), UserStatus.DISABLED),
        ]

    def test_a_second_run_changes_nothing(self, cloud: Cloud) -> None:
        row = {"username": "ana", "password_hash": GOOD}
        assert self.run(cloud, row) == ["imported"]
        before = cloud.users.password_credential("ana")
        assert cloud.users.set_password("ana", "changed since", now=NOW) is not None
        assert self.run(cloud, row, {"username": "ben", "password_hash": GOOD}) == [
            "already_there",
            "imported",
        ]
        after = cloud.users.password_credential("ana")
        assert before is not None
        assert after == replace(before, phc="changed since")

    def test_a_dry_run_writes_nothing(self, cloud: Cloud) -> None:
        row = {"username": "ana", "password_hash": GOOD}
        assert self.run(cloud, row, dry_run=True) == ["imported"]
        assert cloud.users.password_credential("ana") is None
        self.run(cloud, row)
        assert self.run(cloud, row, dry_run=True) == ["already_there"]

    def kinds(self, cloud: Cloud) -> ImportedKinds:
        return ImportedKindsStore(cloud.dynamodb, cloud.tables["CredentialsTable"]).read()

    def test_kinds_of_hashes_are_noted_before_the_first_login(
        self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = passwords.hash_password(b"x", random=random)
        self.run(cloud, {"username": "dry", "password_hash": GOOD}, dry_run=True)
        self.run(cloud, {"username": "modern", "password_hash": ours})
        assert self.kinds(cloud) == ImportedKinds()

        def broken(**_: Any) -> None:
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(cloud.dynamodb, "transact_write_items", broken)
            with pytest.raises(AssertionError):
                self.run(cloud, {"username": "ana", "password_hash": GOOD})
        decoy = stored_hashes.parse(GOOD).decoy
        assert self.kinds(cloud) == ImportedKinds(frozenset({decoy}), 1)
        for _ in range(2):
            self.run(cloud, {"username": "ana", "password_hash": GOOD})
        assert self.kinds(cloud).revision == 1
        assert GOOD not in str(
            cloud.dynamodb.get_item(
                TableName=cloud.tables["CredentialsTable"], Key={"id": {"S": "IMPORTED_HASHES"}}
            )
        )

    def test_of_many_kinds_some_are_refused_by_row(self, cloud: Cloud) -> None:
        """And a file with users of many ages of one system is no such file."""
        ages = [django(b"x", "salt", count) for count in range(1, 20)]
        logs = range(8, 8 + MAX_KINDS)
        scrypts = [f"$scrypt$ln={log},r=8,p=1$c2FsdHNhbHQ${'A' * 43}" for log in logs]
        rows = [
            {"username": f"user {number}", "password_hash": stored}
            for number, stored in enumerate([*ages, *scrypts])
        ]
        answers = self.run(cloud, *rows)
        assert answers[:-1] == ["imported"] * (len(rows) - 1)
        assert answers[-1].startswith(f"hashes of more than {MAX_KINDS} kinds")
        assert self.run(cloud, rows[-1], dry_run=True) == answers[-1:]
        assert cloud.users.sub_of(str(rows[-1]["username"])) is None
        assert len(self.kinds(cloud).decoys) == MAX_KINDS

    def test_imports_at_once_note_all_of_their_kinds(self, cloud: Cloud) -> None:
        store = ImportedKindsStore(cloud.dynamodb, cloud.tables["CredentialsTable"])
        logs = range(8, 8 + MAX_KINDS)
        decoys = [f"$scrypt$ln={log},r=8,p=1$c2FsdHNhbHQ${'A' * 43}" for log in logs]
        with ThreadPoolExecutor(MAX_KINDS) as pool:
            list(pool.map(lambda decoy: store.note([decoy]), decoys))
        assert store.read().decoys == set(decoys)
        with pytest.raises(TooManyKinds):
            store.note([stored_hashes.parse(GOOD).decoy])
        assert store.read().decoys == set(decoys)

    def test_throttled(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        def throttled(**_: Any) -> None:
            error = {"Error": {"Code": "ThrottlingException", "Message": ""}}
            raise ClientError(error, "TransactWriteItems")  # type: ignore[arg-type]

        monkeypatch.setattr(cloud.dynamodb, "transact_write_items", throttled)
        with pytest.raises(Unavailable):
            self.run(cloud, {"username": "ana", "password_hash": GOOD})


@dataclass
class Door:
    """The two routes by which strangers become users, on real tables; App Check is enforced."""

    cloud: Cloud
    now: int = PROVIDER_NOW
    app_check: AppCheck = field(init=False)
    calls: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        google = Issuer({JWKS_URI: jwk_set(jwk(rsa_key()))})
        self.app_check = app_check(google)
        self.cloud.dynamodb.meta.events.register(
            "before-call.dynamodb.*", lambda model, **_: self.calls.append(model.name)
        )

    @property
    def accounts(self) -> Accounts:
        keyring: Any = SimpleNamespace(clients={"key-id": "ios"})
        return Accounts(
            keyring=keyring,
            invitations=invitations(self.cloud),
            change=PasswordChange(self.cloud.users, self.cloud.sessions),
            guesses=GuessStore(self.cloud.dynamodb, self.cloud.tables["GuessesTable"]),
            app_check=self.app_check,
            policy=TokenPolicy(),
            passwords=NewPasswordPolicy(15),
            self_registration=True,
            now=lambda: self.now,
            random=random,
        )

    def limited_use(self) -> None:
        used = SingleUse(self.cloud.dynamodb, self.cloud.tables["ProofsTable"])
        self.app_check = replace(self.app_check, used=used)

    def ask(self, route: str, token: str | None, ip: str = "192.0.2.1", **body: str) -> int:
        headers = {"content-type": ("application/json",)}
        if token is not None:
            headers[HEADER] = (token,)
        request = Request(
            method="POST",
            resource="",
            path_parameters={},
            query={},
            headers=Headers(headers),
            body=json.dumps({"password": "four words in a row", **body}).encode(),
            invocation_id=str(uuid.uuid4()),
            client_key_id="key-id",
            source_ip=ip,
        )
        self.calls.clear()
        try:
            return int(getattr(self.accounts, route)(request).status)
        except RequestRefused as refused:
            return refused.kind.status
        except Unavailable:
            return 503

    def register(self, username: str, token: str | None, ip: str = "192.0.2.1") -> int:
        return self.ask("register", token, ip, username=username)

    def redeem(self, code: str, token: str | None, ip: str = "192.0.2.1") -> int:
        return self.ask("redeem", token, ip, username="ana", code=code)

    def invite(self) -> None:
        invitations(self.cloud).put("ana", replace(INVITATION, expires_at=self.now + 60))


@pytest.fixture
def door(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Door:
    made = Door(cloud)
    for module in (accounts, attestation):
        monkeypatch.setattr(module, "count", made.counted.append)
    return made


class TestWhoMayBecomeAUser:
    @pytest.mark.parametrize(
        "bad",
        [None, "", "x", token({**CLAIMS, "sub": "another app"})],
        ids=["none", "empty", "no token", "another app"],
    )
    def test_only_with_a_genuine_app(self, door: Door, bad: str | None) -> None:
        door.invite()
        door.calls.clear()
        assert door.register("ben", bad) == 403
        assert door.redeem(CODE, bad) == 403
        assert door.calls == [], "and that costs nothing"
        result = "AppCheckInvalid" if bad else "AppCheckMissing"
        assert door.counted == [result, result]
        assert door.register("ben", token(CLAIMS)) == 200
        assert door.redeem(CODE, token(CLAIMS)) == 200
        registered, redeemed = "AccountRegistered", "AccountRedeemed"
        assert door.counted[2:] == ["AppCheckValid", registered, "AppCheckValid", redeemed]

    def test_where_keys_can_not_be_had(self, door: Door) -> None:
        door.app_check = app_check(Issuer({JWKS_URI: OSError()}))
        assert door.register("ben", token(CLAIMS)) == 503
        assert door.redeem(CODE, token(CLAIMS)) == 503
        assert door.counted == ["AppCheckUnavailable"] * 2

    def test_a_limited_use_token_is_good_for_one_of_them(self, door: Door) -> None:
        door.invite()
        assert door.register("ben", token(CLAIMS)) == 200
        without = list(door.calls)
        door.limited_use()
        one = token({**CLAIMS, "jti": "one"})
        assert door.register("cleo", one) == 200
        assert door.calls == ["PutItem", *without]
        assert door.redeem(CODE, one) == 403
        assert door.register("dora", one) == 403
        assert door.redeem(CODE, token({**CLAIMS, "jti": "two"})) == 200

    def test_what_is_malformed_uses_no_token_up(self, door: Door) -> None:
        door.limited_use()
        assert door.ask("register", token(CLAIMS), username="ben", password="short") == 400
        assert door.ask("register", token(CLAIMS), username="a\u200bb") == 400
        assert door.register("google:0123456789abcdef", token(CLAIMS)) == 400
        assert door.register("ben", token(CLAIMS)) == 200

    def test_a_network_that_fails_too_often_waits(self, door: Door) -> None:
        door.invite()
        good = token(CLAIMS)
        statuses = [door.redeem("wrong", good) for _ in range(REDEEM.free + 2)]
        assert statuses == [400] * (REDEEM.free + 1) + [429]
        assert door.counted.count("AccountRefused") == REDEEM.free + 1
        assert door.counted.count("AccountThrottled") == 1
        assert door.redeem(CODE, good) == 429, "not looked at"
        assert door.calls == ["BatchGetItem"]
        assert door.redeem(CODE, good, ip="192.0.2.2") == 200

    def test_a_network_registers_so_many(self, door: Door) -> None:
        good = token(CLAIMS)
        statuses = [door.register(f"user {n}", good) for n in range(REGISTER.free + 2)]
        assert statuses == [200] * (REGISTER.free + 1) + [429]
        assert door.counted.count("AccountThrottled") == 1
        assert door.register("user 1", good, ip="192.0.2.3") == 409
        assert door.counted.count("AccountRefused") == 1
        assert door.cloud.users.sub_of(f"user {REGISTER.free + 1}") is None
        assert door.register("another", good, ip="192.0.2.2") == 200

    def test_without_the_counters_nobody_does(
        self, door: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def throttled(**_: Any) -> None:
            error = {"Error": {"Code": "ThrottlingException", "Message": ""}}
            raise ClientError(error, "BatchGetItem")  # type: ignore[arg-type]

        door.invite()
        monkeypatch.setattr(door.cloud.dynamodb, "batch_get_item", throttled)
        assert door.register("ben", token(CLAIMS)) == 503
        assert door.redeem(CODE, token(CLAIMS)) == 503
        assert door.cloud.users.sub_of("ben") is None
