"""Opening sessions in one transaction: the limit, and what changes under it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keyferry.errors import RequestRefused, Unavailable
from keyferry.jose import base64url
from keyferry.sessions.model import Status
from keyferry.sessions.opening import CredentialChanged, SessionOpening
from keyferry.users.model import User, UserStatus
from keyferry.users.store import PasswordCredential
from tests.contract.conftest import Cloud, random
from tests.unit.test_rotation import NOW, ROW

if TYPE_CHECKING:
    from keyferry.sessions.model import Session

CREDENTIAL = PasswordCredential("ana", "sub", "hash")
LIMIT = 3


def add_user(cloud: Cloud) -> User:
    user = User("sub", "ana", UserStatus.ACTIVE, ("user",), NOW)
    assert cloud.users.add(user, CREDENTIAL)
    return user


def new_session() -> Session:
    return replace(ROW, sid=base64url.encode(random(16)), created_at=NOW)


def opening(cloud: Cloud) -> SessionOpening:
    return SessionOpening(cloud.users, cloud.sessions, LIMIT)


def same(cloud: Cloud, stronger_phc: str | None = None) -> Any:
    return cloud.users.same_password(CREDENTIAL, stronger_phc=stronger_phc)


def open_one(cloud: Cloud) -> tuple[str, int]:
    """Log in as a login does: read the user, open a session. Return its id and how many ended."""
    session, user = new_session(), cloud.users.user("sub")
    assert user is not None
    return session.sid, opening(cloud).open(session, user, still_so=same(cloud)).displaced


def alive(cloud: Cloud) -> list[str]:
    return [row.sid for row in cloud.sessions.living("sub", now=NOW)]


def test_oldest_first_even_within_one_second(cloud: Cloud) -> None:
    add_user(cloud)
    opened = [open_one(cloud) for _ in range(LIMIT + 2)]
    assert [ended for _, ended in opened] == [0] * LIMIT + [1, 1]
    assert sorted(alive(cloud)) == sorted(sid for sid, _ in opened[2:])
    user = cloud.users.user("sub")
    assert user is not None
    assert list(user.sessions) == [sid for sid, _ in opened[2:]]


def test_dead_sessions_go_before_living_ones(cloud: Cloud) -> None:
    add_user(cloud)
    first, second, third = (open_one(cloud)[0] for _ in range(3))
    cloud.sessions.end("sub", second, request_id="r")
    fourth, ended = open_one(cloud)
    assert ended == 0
    assert sorted(alive(cloud)) == sorted([first, third, fourth])


def test_a_compromised_session_is_not_rewritten_as_logged_out(cloud: Cloud) -> None:
    add_user(cloud)
    first, *_ = (open_one(cloud)[0] for _ in range(LIMIT))
    row = next(row for row in cloud.sessions.living("sub", now=NOW) if row.sid == first)
    assert cloud.sessions._compromise(row, request_id="r")
    open_one(cloud)
    items = cloud.dynamodb.scan(TableName=cloud.tables["SessionsTable"])["Items"]
    statuses = {item["sid"]["S"]: item["status"]["S"] for item in items}
    assert statuses[first] == Status.COMPROMISED


def test_a_stale_view_of_the_user_is_read_again(cloud: Cloud) -> None:
    stale = add_user(cloud)
    for _ in range(LIMIT):
        open_one(cloud)
    opened = opening(cloud).open(new_session(), stale, still_so=same(cloud))
    assert opened.displaced == 1
    assert len(alive(cloud)) == LIMIT


def test_disabled_meanwhile(cloud: Cloud) -> None:
    user = add_user(cloud)
    cloud.users.set_status("sub", UserStatus.DISABLED)
    with pytest.raises(RequestRefused) as refused:
        opening(cloud).open(new_session(), user, still_so=same(cloud))
    assert (refused.value.code, alive(cloud)) == ("invalid_grant", [])


def test_password_changed_meanwhile(cloud: Cloud) -> None:
    user = add_user(cloud)
    assert cloud.users.set_password("ana", "another hash", now=NOW) == "sub"
    for stronger in (None, "stronger hash"):
        with pytest.raises(CredentialChanged):
            opening(cloud).open(new_session(), user, still_so=same(cloud, stronger))
    assert alive(cloud) == []
    credential = cloud.users.password_credential("ana")
    assert credential is not None
    assert credential.phc == "another hash", "a stronger hash does not undo a new password"


def test_a_stronger_hash_is_written_with_the_session(cloud: Cloud) -> None:
    user = add_user(cloud)
    opening(cloud).open(new_session(), user, still_so=same(cloud, "stronger hash"))
    credential = cloud.users.password_credential("ana")
    assert credential is not None
    assert (credential.phc, len(alive(cloud))) == ("stronger hash", 1)


def test_logins_at_once_never_exceed_the_limit(cloud: Cloud) -> None:
    add_user(cloud)

    def login(_: int) -> str | None:
        try:
            return open_one(cloud)[0]
        except Unavailable:
            return None  # told to come back; nothing was written

    with ThreadPoolExecutor(6) as pool:
        opened = {sid for sid in pool.map(login, range(12)) if sid is not None}
    living = alive(cloud)
    assert len(living) == LIMIT
    assert set(living) <= opened


def test_unknown_users_are_not_made(cloud: Cloud) -> None:
    assert cloud.users.set_password("nobody", "hash", now=NOW) is None
    assert not cloud.users.set_status("nobody", UserStatus.DISABLED)
    assert cloud.users.user("nobody") is None
    assert cloud.users.password_credential("nobody") is None


def test_a_user_name_is_taken_once(cloud: Cloud) -> None:
    add_user(cloud)
    other = User("other", "ANA", UserStatus.ACTIVE, (), NOW)
    assert not cloud.users.add(other, replace(CREDENTIAL, sub="other"))
    assert cloud.users.user("other") is None, "both rows or neither"


def test_roles_that_were_taken_away_before_the_write_are_not_in_the_session(cloud: Cloud) -> None:
    stale = add_user(cloud)
    session = new_session()
    assert cloud.users.set_roles("sub", ("guest",)) == replace(stale, roles=("guest",))
    opened = opening(cloud).open(session, stale, still_so=same(cloud))
    assert opened.session == replace(session, roles=("guest",))
    (row,) = cloud.sessions.living("sub", now=NOW)
    assert row.roles == ("guest",)


def test_a_session_is_told_of_new_roles_and_of_nothing_else(cloud: Cloud) -> None:
    add_user(cloud)
    sid, _ = open_one(cloud)
    (before,) = cloud.sessions.living("sub", now=NOW)
    assert cloud.sessions.set_roles("sub", sid, ("guest", "x"))
    (after,) = cloud.sessions.living("sub", now=NOW)
    assert after == replace(before, roles=("guest", "x"))
    cloud.sessions.end("sub", sid, request_id="r")
    assert not cloud.sessions.set_roles("sub", sid, ())
    assert not cloud.sessions.set_roles("sub", "another", ())


def test_nobody_has_no_roles(cloud: Cloud) -> None:
    assert cloud.users.set_roles("nobody", ()) is None
    assert cloud.users.user("nobody") is None
