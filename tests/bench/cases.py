"""What is measured: each case makes requests, has them answered, and checks every answer.

Only the answering is timed. No case passes on a broken handler: tokens are verified and used,
deliveries are opened, refusals have to be the right ones.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keyferry.users import passwords
from tests.bench.deployment import PASSWORD, Answer, Deployment, Event, Phone

Call = Callable[[Event, Any], Any]


@dataclass
class Case(ABC):
    """``batch`` requests are timed together, each of a phone of its own."""

    deployment: Deployment
    batch: int
    name: str = ""
    phones: list[Phone] = field(init=False)
    call: Call = field(init=False)
    function = "refresh"

    def __post_init__(self) -> None:
        self.phones = self.deployment.phones(self.batch)
        self.call = self.deployment.handler(self.function)

    @abstractmethod
    def events(self) -> list[Event]:
        """Make the requests of one batch, and whatever has to happen before them."""

    @abstractmethod
    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        """Raise `AssertionError` unless every answer is right."""

    def answered(self) -> list[Answer]:
        """One batch, not timed."""
        events = self.events()
        answers = [self.call(each, self.deployment.context(self.function)) for each in events]
        self.check(events, answers)
        return answers


@dataclass
class Refresh(Case):
    name: str = "refresh"

    def events(self) -> list[Event]:
        return [self.deployment.refresh_event(phone) for phone in self.phones]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        for phone, answer in zip(self.phones, answers, strict=True):
            self.deployment.check_tokens(phone, answer)


@dataclass
class RefreshByHand(Refresh):
    """The floor. Its answers are good for the product too: every other batch goes through the
    handler first, with the tokens that came from here, and the other way round."""

    name: str = "refresh, floor"
    bare = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shipped = self.call
        self.call = self.deployment.floor(bare=self.bare).refresh

    def events(self) -> list[Event]:
        by_handler = super().events()
        answers = [self.shipped(each, self.deployment.context("refresh")) for each in by_handler]
        self.check(by_handler, answers)
        return super().events()


@dataclass
class RefreshByHandBare(RefreshByHand):
    """Below the floor: without `http.client`, over a socket that understands one server alone."""

    name: str = "refresh, floor on a bare socket"
    bare = True


@dataclass
class Retry(Case):
    """The reply to a refresh was lost, and the phone asks again with the token that it has."""

    name: str = "refresh, the reply was lost"
    lost: list[str] = field(default_factory=list)
    tries_before: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.before = self.call
        """What answered the request whose reply was lost: this very instance."""

    def events(self) -> list[Event]:
        self.lost = []
        for phone in self.phones:
            # A phone that loses one reply now and then, and not one after each refresh.
            row = self.deployment.session(phone)
            row["suspicion"], row["suspected_at"] = {"N": "0"}, {"N": "0"}
            self.deployment.put_session(row)
            context = self.deployment.context(self.function)
            answer = self.before(self.deployment.refresh_event(phone), context)
            assert answer["statusCode"] == 200, answer
            self.lost.append(json.loads(answer["body"])["refresh_token"])
            for _ in range(self.tries_before):
                again = self.deployment.refresh_event(phone)
                assert self.deployment.invoke("refresh", again)["statusCode"] == 200
        return [self.deployment.refresh_event(phone) for phone in self.phones]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        for phone, answer, lost in zip(self.phones, answers, self.lost, strict=True):
            tokens = self.deployment.check_tokens(phone, answer)
            assert tokens["refresh_token"] == lost, "another successor than the lost one"


@dataclass
class RetryElsewhere(Retry):
    """Another instance answers than the one whose reply was lost."""

    name: str = "refresh, the reply was lost by another instance"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.before = self.deployment.load(self.function)


@dataclass
class RetryAgain(Retry):
    name: str = "refresh, it was lost again"
    tries_before: int = 1


@dataclass
class Forged(Case):
    """A refresh token whose MAC is not ours."""

    name: str = "refresh, forged token"

    def events(self) -> list[Event]:
        forged = []
        for phone in self.phones:
            token = phone.tokens["refresh_token"]
            swapped = "A" if token[-1] != "A" else "B"
            forged.append(self.deployment.refresh_event(phone, token[:-1] + swapped))
        return forged

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        for phone, answer in zip(self.phones, answers, strict=True):
            refused(answer, "invalid_grant")
            phone.hear(answer)
        # The session is as it was: the good token still works.
        phone = self.phones[0]
        good = self.deployment.invoke("refresh", self.deployment.refresh_event(phone))
        self.deployment.check_tokens(phone, good)


@dataclass
class Reuse(Case):
    """A token from before the last one, with a proof made now: the session ends."""

    name: str = "refresh, reuse of an old token"
    old: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for phone in self.phones:
            self.old.append(phone.tokens["refresh_token"])
            for _ in range(2):
                event = self.deployment.refresh_event(phone)
                self.deployment.check_tokens(phone, self.deployment.invoke("refresh", event))
            row = self.deployment.session(phone)
            # As if the phone had been away for a minute: a nonce of now is then newer.
            row["rotated_at"] = {"N": str(int(time.time()) - 60)}
            self.rows.append(row)

    def events(self) -> list[Event]:
        for row in self.rows:
            self.deployment.put_session(row)
        made = zip(self.phones, self.old, strict=True)
        return [self.deployment.refresh_event(phone, old) for phone, old in made]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        for phone, answer in zip(self.phones, answers, strict=True):
            refused(answer, "invalid_grant")
            assert self.deployment.session(phone)["status"]["S"] == "compromised"
            phone.hear(answer)


@dataclass
class Delivery(Case):
    function = "deliver_key"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = self.name or delivery_of(len(self.deployment.keys))

    def events(self) -> list[Event]:
        return [self.deployment.keys_event(phone) for phone in self.phones]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        for phone, event, answer in zip(self.phones, events, answers, strict=True):
            self.deployment.check_keys(phone, event, answer)


@dataclass
class DeliveryByHand(Delivery):
    name: str = "delivery, floor"
    bare = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.call = self.deployment.floor(bare=self.bare).deliver


@dataclass
class DeliveryByHandBare(DeliveryByHand):
    name: str = "delivery, floor on a bare socket"
    bare = True


@dataclass
class OneKey(Delivery):
    """One key by its name, out of all that there are."""

    def __post_init__(self) -> None:
        self.name = f"one key of {len(self.deployment.keys):,}"
        super().__post_init__()
        self.wanted = max(self.deployment.keys)

    def events(self) -> list[Event]:
        return [self.deployment.key_event(phone, self.wanted) for phone in self.phones]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        expected = {self.wanted: self.deployment.keys[self.wanted]}
        for phone, event, answer in zip(self.phones, events, answers, strict=True):
            self.deployment.check_keys(phone, event, answer, expected=expected)


@dataclass
class NothingNew(Delivery):
    def __post_init__(self) -> None:
        self.name = f"{delivery_of(len(self.deployment.keys))}, nothing new"
        super().__post_init__()
        self.etags = []
        for phone in self.phones:
            event = self.deployment.keys_event(phone)
            answer = self.deployment.invoke("deliver_key", event)
            self.deployment.check_keys(phone, event, answer)
            self.etags.append(answer["headers"]["ETag"])

    def events(self) -> list[Event]:
        made = zip(self.phones, self.etags, strict=True)
        return [
            self.deployment.keys_event(phone, **{"if-none-match": etag}) for phone, etag in made
        ]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        for phone, etag, answer in zip(self.phones, self.etags, answers, strict=True):
            assert (answer["statusCode"], answer["body"]) == (304, ""), answer
            assert answer["headers"]["ETag"] == etag
            phone.hear(answer)


@dataclass
class FirstDelivery(Delivery):
    """Of a new function instance: it reads the keyring, unwraps it with KMS and opens the value.
    Its modules are in memory already: what loading them costs is measured apart."""

    def __post_init__(self) -> None:
        self.name = f"{delivery_of(len(self.deployment.keys))}, the first of an instance"
        super().__post_init__()

    def events(self) -> list[Event]:
        fresh = [self.deployment.load(self.function) for _ in self.phones]
        self.call = lambda event, context: fresh.pop()(event, context)  # noqa: PLW0108
        return super().events()


@dataclass
class Authorizer(Case):
    name: str = "authorizer"
    function = "authorizer"

    def events(self) -> list[Event]:
        return [self.deployment.authorizer_event(phone) for phone in self.phones]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        for phone, answer in zip(self.phones, answers, strict=True):
            (statement,) = answer["policyDocument"]["Statement"]
            assert statement["Effect"] == "Allow"
            assert answer["context"]["sid"] == phone.tokens["session_id"]


@dataclass
class Login(Case):
    name: str = "login"
    function = "login"

    def events(self) -> list[Event]:
        return [self.deployment.login_event(phone) for phone in self.phones]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        for phone, answer in zip(self.phones, answers, strict=True):
            self.deployment.check_tokens(phone, answer)


@dataclass
class PasswordHash(Case):
    """Argon2id alone, at the product's parameters: the share of a login that is the hash's."""

    name: str = "Argon2id alone"

    def __post_init__(self) -> None:
        self.phones = []
        self.stored = passwords.hash_password(PASSWORD.encode(), random=lambda n: b"s" * n)
        self.call = lambda _event, _context: Argon2id.verify_phc_encoded(
            PASSWORD.encode(), self.stored
        )

    def events(self) -> list[Event]:
        return [{} for _ in range(self.batch)]

    def check(self, events: Sequence[Event], answers: Sequence[Answer]) -> None:
        # It raises for a wrong password, and returns nothing for the right one.
        assert not any(answers)


def delivery_of(keys: int) -> str:
    return f"delivery, {keys} key{'' if keys == 1 else 's'}"


def refused(answer: Answer, error: str) -> None:
    assert answer["statusCode"] == 400, answer
    assert json.loads(answer["body"])["error"] == error, answer
