"""Who fails to log in learns nothing from how long that took.

In one process, with the database and KMS answered by a stub, so that what is compared is the work
that the login function does: CPU time of its thread, which waiting and other processes are not in.
Argon2id runs at a hundredth of its real cost here. That makes the test stricter and not laxer: the
real one takes some fifty times as long as all the rest, and would hide a difference in that.

**Statistics.** In every turn each kind of caller fails once, in shuffled order, and each is compared
with the unknown user of its own turn, as a share of what that one took in the turns around; so a
machine that grows slower half way moves both. The interval for the median of these shares comes
from the order statistics (the sign test, turned round): it supposes nothing about how times are
distributed. Kinds count as alike when the interval lies within 5 % on either side of nothing. While
it does not, 1,000 more turns are taken, up to six times in all. With `Z` = 4.2 a look is wrong on the
side that matters once in 70,000 times, so a difference of 5 % or more is found with a confidence of
99.99 %; not less, as a busy machine makes neighbouring turns less independent than that supposes. A
planted one is, below.
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from types import MappingProxyType
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keyferry import aws, clock
from keyferry.edge.endpoint import Handler, Route, endpoint
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.login.login import Login
from keyferry.sessions.grant import Grants
from keyferry.users import passwords, stored_hashes
from keyferry.users.model import User, UserStatus
from keyferry.users.store import credential_key, user_to_item

TURNS = 1_000
LOOKS = 6
DIFFERENCE = 0.05
Z = 4.2
NEAR = 12
ARGON2_KIB, ARGON2_ITERATIONS = 64, 6

NOW = 1_790_000_000
ISSUER = "https://api.example.com/prod"
RIGHT, WRONG = "right-password-1", "wrong-password-1"
KINDS = {
    "unknown user": ("nobody", WRONG),
    "wrong password": ("active", WRONG),
    "disabled user, right password": ("locked", RIGHT),
    "disabled user, wrong password": ("locked", WRONG),
    "federated user, who has no password": ("google", WRONG),
    "user with a second factor, wrong password": ("secure", WRONG),
}
BASELINE = "unknown user"

IMPORTED = {
    "django": stored_hashes.parse(f"pbkdf2_sha256$400$salt${'A' * 43}=").decoy,
    "bcrypt": "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    "scrypt": f"$scrypt$ln=7,r=8,p=1$c2FsdHNhbHQ${'A' * 43}",
}
"""Users with the hashes of other systems, who have not logged in yet."""

OTHERS = {
    **{f"imported, {name}": (name, WRONG) for name in IMPORTED},
    **{kind: KINDS[kind] for kind in (BASELINE, "wrong password", "disabled user, right password")},
}
DECOYS = {
    *(stored_hashes.parse(stored).decoy for stored in IMPORTED.values()),
    # and of others of the same two systems, at higher costs
    stored_hashes.parse(f"pbkdf2_sha256$900$salt${'A' * 43}=").decoy,
    "$2b$06$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
}


def cheap_hash(password: str) -> str:
    return Argon2id(
        salt=b"0123456789abcdef",
        length=32,
        iterations=ARGON2_ITERATIONS,
        lanes=1,
        memory_cost=ARGON2_KIB,
    ).derive_phc_encoded(password.encode())


def rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Password credentials and users, by their keys."""
    users = {
        name: User(f"sub-of-{name}", name, UserStatus.ACTIVE, ("user", "analyst"), 1, ("s1", "s2"))
        for name in ("active", "locked", "google", "secure")
    }
    users["locked"] = replace(users["locked"], status=UserStatus.DISABLED)
    users["secure"] = replace(users["secure"], second_factor=True)
    credentials = {
        f"password#{name}": {
            **credential_key(name),
            "sub": {"S": user.sub},
            "phc": {"S": cheap_hash(RIGHT)},
        }
        for name, user in users.items()
        if name != "google"
    }
    for name, stored in IMPORTED.items():
        users[name] = replace(users["active"], sub=f"sub-of-{name}", username=name)
        sub, phc = {"S": users[name].sub}, {"S": stored}
        credentials[f"password#{name}"] = {**credential_key(name), "sub": sub, "phc": phc}
    return credentials, {user.sub: user_to_item(user) for user in users.values()}


class DynamoDb:
    """Answers with the rows above; nobody has ever guessed, and nobody was imported unless
    ``kinds`` says so."""

    def __init__(self) -> None:
        self.credentials, self.users = rows()
        self.kinds: dict[str, Any] = {}

    def batch_get_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        found: dict[str, list[Any]] = {}
        for table, request in RequestItems.items():
            keys = [key["id"]["S"] for key in request["Keys"]]
            found[table] = [self.credentials[key] for key in keys if key in self.credentials]
        return {"Responses": found}

    def get_item(self, *, Key: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        row = self.kinds if "id" in Key else self.users.get(Key["sub"]["S"])
        return {"Item": row} if row else {}

    def update_item(self, **_: Any) -> dict[str, Any]:
        return {}


class Keyring:
    issuer = ISSUER
    clients = MappingProxyType({"key-id": "ios"})

    def refresh(self) -> None: ...

    def dpop_nonce(self) -> str:
        return "nonce"

    def dpop_nonce_time(self, presented: str) -> None: ...

    def signing_key(self) -> None: ...

    def current_refresh_kid(self) -> str:
        return "kid"

    def refresh_mac_key(self, kid: str) -> bytes:
        return b"m" * 32


@dataclass
class Context:
    aws_request_id: str = "invocation"
    function_name: str = "login"
    memory_limit_in_mb: int = 1769
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:123456789012:function:login"


class Environment(dict[str, str]):
    """Whatever a function reads there: here it is one."""

    def __missing__(self, _: str) -> str:
        return "1"


def event(username: str, password: str) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    public = EcJwk.from_key(key.public_key()).members()
    proof = jwt.encode(
        {"jti": "j", "htm": "POST", "htu": f"{ISSUER}/v1/login", "iat": NOW},
        key,
        algorithm="ES256",
        headers={"typ": "dpop+jwt", "jwk": public},
    )
    device = {
        "name": "Phone",
        "platform": "ios",
        "app_version": "1.0",
        "encryption_key": public,
    }
    body = {"username": username, "password": password, "device": device}
    return {
        "httpMethod": "POST",
        "resource": "/v1/login",
        "headers": {"Content-Type": "application/json", "DPoP": proof},
        "body": json.dumps(body),
        "requestContext": {
            "requestId": "request",
            "identity": {"apiKeyId": "key-id", "sourceIp": "192.0.2.1"},
        },
    }


EVENTS = {kind: event(*typed) for kind, typed in {**KINDS, **OTHERS}.items()}


@pytest.fixture
def stub() -> DynamoDb:
    return DynamoDb()


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch, stub: DynamoDb) -> Handler:
    monkeypatch.setattr(aws, "dynamodb", lambda: stub)
    monkeypatch.setattr(aws, "kms", lambda: None)
    # All the passwords at one cost, today's or not: whoever is unknown pays what the others pay.
    monkeypatch.setattr(passwords, "_NOBODY", cheap_hash("nobody's"))
    keyring: Any = Keyring()
    login = Login.from_environ(Environment(KEYFERRY_APP_CHECK="off"))
    grants = Grants(keyring, login.policy, lambda: NOW, clock.random)
    by_password = replace(login.by_password, keyring=keyring, now=lambda: NOW)
    login = replace(login, keyring=keyring, grants=grants, by_password=by_password, now=lambda: NOW)
    return endpoint({("POST", "/v1/login"): Route(login)}, keyring=keyring)


def fail(handler: Handler, kind: str) -> dict[str, Any]:
    context: Any = Context()
    answer = handler(EVENTS[kind], context)
    assert answer["statusCode"] == 400
    return answer


@contextmanager
def undisturbed() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


Samples = dict[str, list[int]]


def take(attempts: Mapping[str, Callable[[], object]], samples: Samples) -> None:
    """Some more turns; CPU times in nanoseconds."""
    order = list(attempts)
    with undisturbed():
        for _ in range(TURNS):
            random.shuffle(order)
            for kind in order:
                started = time.thread_time_ns()
                attempts[kind]()
                samples[kind].append(time.thread_time_ns() - started)


def difference(samples: Samples, kind: str) -> tuple[float, float]:
    """The interval for the median difference from the baseline, as shares of what the baseline took
    at that time: a machine that others use has fast and slow phases."""
    baseline = samples[BASELINE]
    around = [
        median(baseline[max(0, turn - NEAR) : turn + NEAR + 1]) for turn in range(len(baseline))
    ]
    shares = sorted(
        (ours - theirs) / then
        for ours, theirs, then in zip(samples[kind], baseline, around, strict=True)
    )
    n = len(shares)
    half = Z * n**0.5 / 2
    return shares[int(n / 2 - half)], shares[int(n / 2 + half)]


def is_alike(interval: tuple[float, float]) -> bool:
    return interval[0] > -DIFFERENCE and interval[1] < DIFFERENCE


def compare(attempts: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """The interval of each kind, of as many turns as it took to tell that all are alike."""
    samples: Samples = {kind: [] for kind in attempts}
    intervals: dict[str, tuple[float, float]] = {}
    for _ in range(LOOKS):
        take(attempts, samples)
        intervals = {kind: difference(samples, kind) for kind in attempts if kind != BASELINE}
        if all(map(is_alike, intervals.values())):
            break
    return intervals


def attempts_of(handler: Handler, kinds: Iterator[str] | list[str]) -> dict[str, Any]:
    return {kind: lambda kind=kind: fail(handler, kind) for kind in kinds}


def test_answers_are_alike_byte_for_byte(handler: Handler) -> None:
    answers = {json.dumps(fail(handler, kind), sort_keys=True) for kind in KINDS}
    assert len(answers) == 1
    assert json.loads(json.loads(answers.pop())["body"])["error"] == "invalid_grant"


def test_no_failure_takes_longer_than_another(
    handler: Handler, capsys: pytest.CaptureFixture[str]
) -> None:
    intervals = compare(attempts_of(handler, list(KINDS)))
    capsys.readouterr()  # thousands of log lines
    for kind, (low, high) in intervals.items():
        print(f"{kind}: {low:+.2%} … {high:+.2%}")  # noqa: T201
    assert {kind: each for kind, each in intervals.items() if not is_alike(each)} == {}


def test_nor_that_of_a_user_whose_hash_was_imported(
    handler: Handler, stub: DynamoDb, capsys: pytest.CaptureFixture[str]
) -> None:
    decoys = json.dumps(sorted(stored_hashes.together(DECOYS)))
    stub.kinds = {"decoys": {"S": decoys}, "revision": {"N": "1"}}
    intervals = compare(attempts_of(handler, list(OTHERS)))
    capsys.readouterr()
    for kind, (low, high) in intervals.items():
        print(f"{kind}: {low:+.2%} … {high:+.2%}")  # noqa: T201
    assert {kind: each for kind, each in intervals.items() if not is_alike(each)} == {}
    assert len({json.dumps(fail(handler, kind), sort_keys=True) for kind in OTHERS}) == 1


@pytest.mark.parametrize("share", [DIFFERENCE, -DIFFERENCE])
def test_a_difference_of_five_per_cent_would_be_found(
    handler: Handler, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    """Of two that are the same, one is made to work longer, by a share of what both have taken of
    late, as a machine that others use is not equally fast for long. What is 5 % is the difference
    from the baseline, so a baseline that is to seem slow has to take 1 / 0.95 of the other's time."""
    longer_by = share if share > 0 else 1 / (1 + share) - 1
    lately: deque[int] = deque(maxlen=2 * NEAR + 1)

    def plain() -> None:
        started = time.thread_time_ns()
        fail(handler, BASELINE)
        lately.append(time.thread_time_ns() - started)

    def longer() -> None:
        plain()
        until = time.thread_time_ns() + median(lately) * longer_by
        while time.thread_time_ns() < until:
            pass

    planted = (
        {"planted": longer, BASELINE: plain} if share > 0 else {"planted": plain, BASELINE: longer}
    )
    (interval,) = compare(planted).values()
    capsys.readouterr()
    print(f"planted: {interval[0]:+.2%} … {interval[1]:+.2%}")  # noqa: T201
    assert not is_alike(interval)
    assert interval[0] * interval[1] > 0, "and in which direction"
