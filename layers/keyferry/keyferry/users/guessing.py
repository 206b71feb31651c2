"""Limits on guessing passwords and codes (OWASP ASVS 5.0 §6.3.1), without a way to lock an owner out.

Three counters of failures, each with an exponential back-off that ends by itself:

    account   strangers guessing at one account, from wherever they come
    device    a device that has logged in to that account before: it has a budget of its own, and
              neither of the other two holds it up
    network   one source address guessing at many accounts; an IPv6 address counts by its /64

A device that was known before the password was changed shares a budget with all others of its kind,
so that nobody who has had the old password can make devices to guess with; strangers can not use it:

    former    devices that have logged in to that account, but not since its password was set

Two more are of networks only, for what nobody has an account for yet:

    redeem    failures to redeem an invitation, counted as logins count theirs
    register  registrations, good or bad: each of them is a user more

An attempt is counted **before** the password is looked at, under the condition that nobody has
counted since: however many guesses go on at once, only so many are ever checked. A network's
failures are counted after the fact, since many people can stand behind one address and their
successes must cost nothing; so guesses in flight at one moment can exceed that one limit. That of
registrations is exact.

A name that nobody has is counted like any other, or the limit itself would tell which ones exist.
When the counters can not be read or written, nobody logs in: 503, and the phones that are logged in
go on refreshing.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from keyferry.aws import batch_get, write_if
from keyferry.config import DAY
from keyferry.errors import RequestRefused

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

HOUR: Final = 3_600

KNOWN_DEVICE_SECONDS: Final = 90 * DAY
"""How long a device stays known to an account, beyond the longest session that its last login there
can have opened: whoever has to log in again because it has ended does so from a known device."""

_RESERVATIONS: Final = 4

SAME_COUNT: Final = "failures = :seen AND last_at = :seen_at"
NO_COUNT: Final = "attribute_not_exists(failures)"


@dataclass(frozen=True, slots=True)
class Limit:
    """``free`` failures cost nothing. The next one costs ``first_wait`` seconds, each one after it
    twice as many, ``longest_wait`` at the most; after ``forget`` seconds of quiet all is forgotten.
    """

    free: int
    first_wait: int
    longest_wait: int
    forget: int

    def wait_after(self, failures: int) -> int:
        """Seconds from the last failure until the next attempt."""
        surplus = failures - self.free
        if surplus <= 0:
            return 0
        # The exponent is bounded: nobody needs to compute 2 ** 1000 to find it too long.
        return min(self.first_wait << min(surplus - 1, 32), self.longest_wait)


ACCOUNT: Final = Limit(free=5, first_wait=2, longest_wait=15 * 60, forget=DAY)
FORMER: Final = ACCOUNT
DEVICE: Final = Limit(free=10, first_wait=1, longest_wait=60, forget=HOUR)
NETWORK: Final = Limit(free=50, first_wait=1, longest_wait=5 * 60, forget=HOUR)
REDEEM: Final = NETWORK
REGISTER: Final = Limit(free=20, first_wait=1, longest_wait=60, forget=HOUR)
"""A short longest wait: a mobile network puts thousands of honest people behind one address."""


@dataclass(frozen=True, slots=True)
class Counter:
    """Failures in a row, and the time of the last one in seconds since the epoch."""

    id: str
    limit: Limit
    failures: int = 0
    last_at: int = 0
    exists: bool = False
    known_at: int = 0
    known_until: int = 0
    """Of a device that has logged in to the account: when it did last, and until when it counts as
    known for that."""

    def current(self, now: int) -> int:
        """The failures that still count."""
        return self.failures if now - self.last_at <= self.limit.forget else 0

    def wait(self, now: int) -> int:
        """Seconds until an attempt is allowed; 0 when it is."""
        until = self.last_at + self.limit.wait_after(self.current(now))
        # A clock that was set back must not lengthen a wait beyond the longest.
        return min(max(until - now, 0), self.limit.longest_wait)


def network(source_ip: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 that an IPv6 customer is given."""
    try:
        address = ipaddress.ip_address(source_ip)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A guess that may be made: what was counted for it, and the row that was read beside it."""

    own: Counter
    device: Counter
    network: Counter
    now: int
    beside: Mapping[str, Any] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Redemption:
    """An invitation that may be tried: the counter of its network, and the row read beside it."""

    network: Counter
    now: int
    beside: Mapping[str, Any] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class GuessStore:
    """``longest_session`` is in seconds; 0 where no login is counted."""

    client: DynamoDBClient
    table: str
    longest_session: int = 0

    def reserve(
        self,
        username: str,
        *,
        jkt: str,
        source_ip: str,
        now: int,
        invocation_id: str,
        beside: tuple[str, Item],
    ) -> Attempt:
        """Count one attempt at ``username`` (canonical) and allow it.

        ``jkt`` is the thumbprint of the device key that the request has proved, or "". ``beside``
        is the table and key of one more row to read in the same call, which may say since when the
        present secret is in force (``set_at``).

        Raise `RequestRefused` (``too_many_attempts``) with the seconds to wait.
        """
        account = Counter(_id("account", username), ACCOUNT)
        device = Counter(_id("device", username, jkt), DEVICE)
        source = Counter(_id("network", network(source_ip)), NETWORK)
        for _ in range(_RESERVATIONS):
            counters, row = self._read((account, device, source), beside)
            account, device, source = counters
            if jkt and now < device.known_until:
                own = device
                if device.known_at < int((row or {}).get("set_at", {"N": "0"})["N"]):
                    (own,), _ = self._read((Counter(_id("former", username), FORMER),))
                wait = own.wait(now)
            else:
                own, wait = account, max(account.wait(now), source.wait(now))
            if wait > 0:
                raise RequestRefused("too_many_attempts", "guess limit", retry_after=wait)
            if self._count(own, now=now, invocation_id=invocation_id):
                return Attempt(own=own, device=device, network=source, now=now, beside=row)
        # Others are guessing at the same account at this very moment.
        raise RequestRefused("too_many_attempts", "guess limit: contention", retry_after=1)

    def failed(self, attempt: Attempt) -> None:
        """Charge the failure of a stranger to the network that it came from."""
        if attempt.own.id != attempt.device.id:
            self._charge(attempt.network, attempt.now)

    def redeeming(self, source_ip: str, *, now: int, beside: tuple[str, Item]) -> Redemption:
        """Allow one try at an invitation; ``beside`` as in `reserve`. Nothing is counted yet.

        Raise `RequestRefused` (``too_many_attempts``) with the seconds to wait.
        """
        counter = Counter(_id("redeem", network(source_ip)), REDEEM)
        (counter,), row = self._read((counter,), beside)
        _require_no_wait(counter, now)
        return Redemption(counter, now, row)

    def redemption_failed(self, redemption: Redemption) -> None:
        self._charge(redemption.network, redemption.now)

    def register(self, source_ip: str, *, now: int, invocation_id: str) -> None:
        """Count one registration and allow it.

        Raise `RequestRefused` (``too_many_attempts``) with the seconds to wait.
        """
        counter = Counter(_id("register", network(source_ip)), REGISTER)
        for _ in range(_RESERVATIONS):
            (counter,), _row = self._read((counter,))
            _require_no_wait(counter, now)
            if self._count(counter, now=now, invocation_id=invocation_id):
                return
        raise RequestRefused("too_many_attempts", "registrations: contention", retry_after=1)

    def _charge(self, source: Counter, now: int) -> None:
        forgotten = source.exists and source.current(now) == 0
        update = "SET failures = :one, last_at = :now, expires_at = :expires_at"
        if not forgotten:
            update = "SET last_at = :now, expires_at = :expires_at ADD failures :one"
        write_if(
            self.client.update_item,
            "dynamodb:UpdateItem network guesses",
            TableName=self.table,
            Key={"id": {"S": source.id}},
            UpdateExpression=update,
            ExpressionAttributeValues={
                ":one": {"N": "1"},
                ":now": {"N": str(now)},
                ":expires_at": {"N": str(now + source.limit.forget)},
            },
        )

    def forgive(self, attempt: Attempt, *, jkt: str) -> dict[str, TransactWriteItemTypeDef]:
        """The writes that belong to a success: what was counted is forgotten, and the device is
        known from now on."""
        writes: dict[str, TransactWriteItemTypeDef] = {}
        if attempt.own.id != attempt.device.id:
            key: Item = {"id": {"S": attempt.own.id}}
            writes["guesses"] = {"Delete": {"TableName": self.table, "Key": key}}
        if jkt:
            known_until = attempt.now + self.longest_session + KNOWN_DEVICE_SECONDS
            writes["device"] = {
                "Put": {
                    "TableName": self.table,
                    "Item": {
                        "id": {"S": attempt.device.id},
                        "known": {"BOOL": True},
                        "failures": {"N": "0"},
                        "last_at": {"N": str(attempt.now)},
                        "known_at": {"N": str(attempt.now)},
                        "expires_at": {"N": str(known_until)},
                    },
                }
            }
        return writes

    def _read(
        self, counters: tuple[Counter, ...], beside: tuple[str, Item] | None = None
    ) -> tuple[tuple[Counter, ...], Mapping[str, Any] | None]:
        wanted: dict[str, list[Item]] = {
            self.table: [{"id": {"S": counter.id}} for counter in counters]
        }
        if beside is not None:
            wanted[beside[0]] = [beside[1]]
        rows = batch_get(self.client, wanted)
        found = {row["id"]["S"]: row for row in rows[self.table]}
        read = tuple(_counter(counter, found.get(counter.id)) for counter in counters)
        return read, next(iter(rows[beside[0]]), None) if beside is not None else None

    def _count(self, counter: Counter, *, now: int, invocation_id: str) -> bool:
        """Count one failure in advance, if nobody has counted since ``counter`` was read. The row
        of a known device stays for as long as its last login said: failures make none known."""
        kept_until = counter.known_until or now + counter.limit.forget
        values: Item = {
            ":failures": {"N": str(counter.current(now) + 1)},
            ":now": {"N": str(now)},
            ":expires_at": {"N": str(kept_until)},
            ":invocation": {"S": invocation_id},
        }
        condition = NO_COUNT
        if counter.exists:
            condition = SAME_COUNT
            values |= {
                ":seen": {"N": str(counter.failures)},
                ":seen_at": {"N": str(counter.last_at)},
            }
        counted, row = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem guesses",
            TableName=self.table,
            Key={"id": {"S": counter.id}},
            ConditionExpression=condition,
            UpdateExpression=(
                "SET failures = :failures, last_at = :now, expires_at = :expires_at,"
                " counted_by = :invocation"
            ),
            ExpressionAttributeValues=values,
        )
        return counted or (row is not None and row.get("counted_by", {}).get("S") == invocation_id)


def _require_no_wait(counter: Counter, now: int) -> None:
    wait = counter.wait(now)
    if wait > 0:
        raise RequestRefused("too_many_attempts", "network limit", retry_after=wait)


def _counter(counter: Counter, row: Mapping[str, Any] | None) -> Counter:
    if row is None:
        return Counter(counter.id, counter.limit)
    return Counter(
        counter.id,
        counter.limit,
        failures=int(row["failures"]["N"]),
        last_at=int(row["last_at"]["N"]),
        exists=True,
        known_at=int(row.get("known_at", {"N": "0"})["N"]),
        known_until=int(row["expires_at"]["N"]) if "known" in row else 0,
    )


def _id(kind: str, *parts: str) -> str:
    """Hashed: a table of who was guessed at, from where, is nobody's business."""
    digest = hashlib.sha256("\0".join((kind, *parts)).encode("utf-8")).hexdigest()
    return f"{kind}#{digest}"
