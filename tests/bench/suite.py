"""The shipped handlers beside the floor: the cases, the ratios and their targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Final

from tests.bench.cases import (
    Authorizer,
    Case,
    Delivery,
    DeliveryByHand,
    DeliveryByHandBare,
    FirstDelivery,
    Forged,
    Login,
    NothingNew,
    PasswordHash,
    Refresh,
    RefreshByHand,
    RefreshByHandBare,
    Retry,
    RetryAgain,
    RetryElsewhere,
    Reuse,
)
from tests.bench.deployment import Deployment, store
from tests.bench.measure import Spread, cost, processor_ms, ratio
from tests.bench.rows import read_units

VAULTS: Final = (1, 10, 100)
"""Keys."""

BATCH: Final = 10
LOGINS: Final = 3

RATIOS: Final = {
    "refresh": ("refresh", "refresh, floor"),
    "delivery": ("delivery, 1 key", "delivery, floor"),
    "refresh, bare": ("refresh", "refresh, floor on a bare socket"),
    "delivery, bare": ("delivery, 1 key", "delivery, floor on a bare socket"),
    "retry": ("refresh, the reply was lost", "refresh"),
    "retry elsewhere": ("refresh, the reply was lost by another instance", "refresh"),
    "retry again": ("refresh, it was lost again", "refresh"),
    "forged": ("refresh, forged token", "refresh"),
    "reuse": ("refresh, reuse of an old token", "refresh"),
    "304": ("delivery, 1 key, nothing new", "delivery, 1 key"),
    "10 keys": ("delivery, 10 keys", "delivery, 1 key"),
    "100 keys": ("delivery, 100 keys", "delivery, 1 key"),
    "login": ("login", "Argon2id alone"),
}
"""One case by another, both measured in the same group."""

TARGETS: Final = {"refresh": 1.8, "delivery": 1.8, "retry": 1.05, "forged": 0.2}
"""The highest ratios that pass. `retry` is one refresh and 5 % for noise."""


def groups(deployments: dict[int, Deployment], batch: int, logins: int) -> list[list[Case]]:
    """Cases that are compared are in one group, and take turns."""
    one = deployments[VAULTS[0]]
    refreshes: list[type[Case]] = [Refresh, RefreshByHand, RefreshByHandBare, Retry, RetryElsewhere]
    refreshes += [RetryAgain, Forged, Reuse]
    deliveries: list[Case] = [Delivery(one, batch), DeliveryByHand(one, batch)]
    deliveries += [DeliveryByHandBare(one, batch)]
    deliveries += [NothingNew(one, batch), Authorizer(one, batch), FirstDelivery(one, logins)]
    for size in VAULTS[1:]:
        many = deployments[size]
        deliveries += [Delivery(many, batch), NothingNew(many, batch)]
    return [
        [kind(one, batch) for kind in refreshes],
        deliveries,
        [Login(one, logins), PasswordHash(one, logins)],
    ]


def run(
    *,
    rounds: int,
    batch: int = BATCH,
    logins: int = LOGINS,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure. The result is for `report`, and for JSON."""
    with ExitStack() as stack:
        endpoint = stack.enter_context(store())
        progress("the handlers: setting up")
        deployments = {
            size: stack.enter_context(Deployment.create(endpoint, keys=size)) for size in VAULTS
        }
        times: dict[str, list[float]] = {}
        costs: dict[str, Any] = {}
        units: dict[str, int] = {}
        for group in groups(deployments, batch, logins):
            progress(f"the handlers: {', '.join(case.name for case in group)}")
            times |= processor_ms(group, rounds)
            costs |= {
                case.name: asdict(cost(case))
                for case in group
                if not isinstance(case, PasswordHash)
            }
            for case in group:
                if type(case) is Delivery:
                    units[case.name] = read_units(case.deployment, case.phones[0])
    without = [a - b for a, b in zip(times["login"], times["Argon2id alone"], strict=True)]
    times["login without Argon2id"] = without
    return {
        "rounds": rounds,
        "batch": batch,
        "cpu_ms": {name: Spread.of(each).members(4) for name, each in times.items()},
        "cost": costs,
        "read_units": units,
        "ratios": {
            name: ratio(times[of], times[to]).members(3) for name, (of, to) in RATIOS.items()
        },
    }


def missed(ratios: dict[str, Any], targets: dict[str, float]) -> Sequence[str]:
    """What is above its target, in words."""
    return [
        f"{name}: {ratios[name]['median']:.2f} is above {target}"
        for name, target in targets.items()
        if not ratios[name]["median"] <= target
    ]
