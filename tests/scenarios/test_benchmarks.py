"""The benchmarks themselves: they run, they check what they measure, and their pages are theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from joserfc.errors import JoseError

from keyferry_cli.local.environments import make_environments
from tests.bench import argon2, growth, startup, suite
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
    Refresh,
    RefreshByHand,
    RefreshByHandBare,
    Retry,
    RetryAgain,
    RetryElsewhere,
    Reuse,
)
from tests.bench.deployment import Answer, Deployment, gateway_event, load, store
from tests.bench.measure import cost, log_to_nowhere, processor_ms, ratio
from tests.bench.peers.servers import ToolkitPeer
from tests.conftest import ROOT
from tests.scenarios.system import SETTINGS

CASES: dict[type[Case], dict[str, int]] = {
    Refresh: {"UpdateItem": 1},
    RefreshByHand: {"UpdateItem": 1},
    RefreshByHandBare: {"UpdateItem": 1},
    Retry: {"UpdateItem": 1},
    RetryElsewhere: {"UpdateItem": 2},
    RetryAgain: {"UpdateItem": 1},
    Forged: {},
    Reuse: {"UpdateItem": 2},
    Delivery: {"BatchGetItem": 1},
    DeliveryByHand: {"BatchGetItem": 1},
    DeliveryByHandBare: {"BatchGetItem": 1},
    NothingNew: {"BatchGetItem": 1},
    Authorizer: {"BatchGetItem": 1, "PutItem": 1},
}


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    make_environments(("emulator",), report=lambda _: None)
    with store() as endpoint, Deployment.create(endpoint, keys=2) as made:
        yield made


@pytest.fixture(autouse=True)
def credentials(clean_environ: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions read them at their first call."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SETTINGS[name])


def test_every_case_is_measured(deployment: Deployment) -> None:
    group: list[Case] = [kind(deployment, 2) for kind in CASES]
    with log_to_nowhere():
        times = processor_ms(group, rounds=2)
    assert times.keys() == {case.name for case in group}
    assert all(len(each) == 2 and min(each) > 0 for each in times.values())


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_calls_are_counted(deployment: Deployment, kind: type[Case]) -> None:
    case = kind(deployment, 1)
    case.answered()
    made = cost(case)
    assert made.calls == CASES[kind]
    assert (made.sent > 0) == bool(made.calls)


def test_the_floor_makes_the_request_that_the_product_makes(deployment: Deployment) -> None:
    """So it can not have become cheaper, or the product dearer, unseen."""
    for shipped, by_hand in ((Refresh, RefreshByHand), (Delivery, DeliveryByHand)):
        ours, floor = cost(shipped(deployment, 1)), cost(by_hand(deployment, 1))
        assert ours.calls == floor.calls
        assert abs(ours.answer - floor.answer) <= 8, "answers of one form"
        assert abs(ours.received - floor.received) <= 16


# ---------------------------------------------------------------- broken handlers


def nothing(_: Answer) -> Answer:
    return {"statusCode": 200, "headers": {"DPoP-Nonce": ""}, "body": "{}"}


def failure(answer: Answer) -> Answer:
    return {**answer, "statusCode": 500}


def other_signature(answer: Answer) -> Answer:
    body = json.loads(answer["body"])
    head, payload, signature = body["access_token"].split(".")
    body["access_token"] = f"{head}.{payload}.{'A' * len(signature)}"
    return {**answer, "body": json.dumps(body)}


def other_key(answer: Answer) -> Answer:
    """Not encrypted to this phone."""
    parts = answer["body"].split(".")
    parts[-1] = "A" * len(parts[-1])
    return {**answer, "body": ".".join(parts)}


def allow_all(answer: Answer) -> Answer:
    return {**answer, "context": {"sid": "somebody"}}


BREAKAGES: list[tuple[type[Case], Callable[[Answer], Answer]]] = [
    *((kind, nothing) for kind in CASES),
    (Login, nothing),
    (FirstDelivery, nothing),
    *((kind, failure) for kind in CASES if kind is not Authorizer),
    (Refresh, other_signature),
    (Login, other_signature),
    (Retry, other_signature),
    (Delivery, other_key),
    (FirstDelivery, other_key),
    (Authorizer, allow_all),
]


@pytest.mark.parametrize(
    ("kind", "breakage"), BREAKAGES, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_broken_handler_is_not_measured(
    deployment: Deployment, kind: type[Case], breakage: Callable[[Answer], Answer]
) -> None:
    case = kind(deployment, 1)
    case.answered()
    events = case.events()
    answers = [case.call(each, deployment.context(case.function)) for each in events]
    case.check(events, [dict(each) for each in answers])
    events = case.events()
    answers = [case.call(each, deployment.context(case.function)) for each in events]
    with pytest.raises((AssertionError, KeyError, jwt.InvalidTokenError, JoseError, ValueError)):
        case.check(events, [breakage(each) for each in answers])


def test_a_refresh_that_does_not_rotate_is_not_measured(deployment: Deployment) -> None:
    case = Refresh(deployment, 1)
    (first,) = case.answered()
    with pytest.raises(AssertionError):
        case.check(case.events(), [first])


def test_a_forged_token_that_is_let_in_is_not_measured(deployment: Deployment) -> None:
    case = Forged(deployment, 1)
    (phone,) = case.phones
    good = deployment.invoke("refresh", deployment.refresh_event(phone))
    with pytest.raises(AssertionError):
        case.check(case.events(), [good])


def test_a_delivery_of_another_request_is_not_measured(deployment: Deployment) -> None:
    case = Delivery(deployment, 1)
    (earlier,) = case.answered()
    with pytest.raises(AssertionError):
        case.check(case.events(), [earlier])


def test_a_reuse_that_ends_nothing_is_not_measured(deployment: Deployment) -> None:
    case = Reuse(deployment, 1)
    (refused,) = case.answered()
    with pytest.raises(AssertionError):
        case.check(case.events(), [refused])  # the row is as before: nothing was sent


def test_a_function_that_does_not_load_is_not_measured(tmp_path: Any) -> None:
    (tmp_path / "handler.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="nothing_of_that_name"):
        startup.start([tmp_path], {})
    (tmp_path / "handler.py").write_text("def lambda_handler(event, context): ...\n", "utf-8")
    assert startup.start([tmp_path], {})["modules"] > 0


# ---------------------------------------------------------------- figures


def test_a_ratio_is_that_of_each_round() -> None:
    """A round in which the machine was slow counts no more than another one."""
    found = ratio([2, 4, 60], [1, 2, 30])
    assert (found.median, found.lower, found.upper) == (2, 2, 2)


def test_a_missed_target_is_told() -> None:
    ratios = {"refresh": {"median": 1.81}, "forged": {"median": 0.2}}
    assert suite.missed(ratios, {"refresh": 1.8, "forged": 0.2}) == [
        "refresh: 1.81 is above 1.8",
    ]
    assert suite.missed({"refresh": {"median": float("nan")}}, {"refresh": 1.8})


def test_an_event_is_as_api_gateway_makes_it() -> None:
    sample = json.loads((ROOT / "events" / "refresh" / "refresh.json").read_text("utf-8"))
    assert gateway_event("POST", "/v1/token", {}).keys() <= sample.keys()


# ---------------------------------------------------------------- growth, other servers, hashes


def test_sessions_are_put_into_the_store_without_a_call_for_each(deployment: Deployment) -> None:
    case = Refresh(deployment, 1)
    table = deployment.cloud.tables["SessionsTable"]
    before = deployment.cloud.dynamodb.scan(TableName=table, Select="COUNT")["Count"]
    row = growth.as_sent(deployment.session(case.phones[0]))
    load(deployment.endpoint, table, row, 500)
    rows = deployment.cloud.dynamodb.scan(TableName=table)["Items"]
    assert len(rows) == before + 500
    assert len({(each["sub"]["S"], each["sid"]["S"]) for each in rows}) == len(rows)
    assert len(case.answered()) == 1


def test_growth_is_told() -> None:
    def result(sessions: float, memory: float) -> dict[str, Any]:
        return {
            "sessions": {"ratios": {"refresh": {"median": sessions}}},
            "keys": {"ratios": {"one key": {"median": 1.0}}},
            "process": {"ratio": 1.0},
            "time": {"ratios": {"memory, refresh": memory, "latency, refresh": 1.0}},
        }

    assert growth.grown(result(1.0, 1.0)) == []
    assert growth.grown(result(1.2, 1.06)) == [
        "sessions, refresh: 1.20 is above 1.15",
        "memory, refresh: 1.06 is above 1.05",
    ]


def test_the_last_third_is_compared_with_the_first() -> None:
    assert growth.last_by_first([10, 10, 10, 50, 90, 20, 20, 20, 20]) == 2
    assert growth.last_by_first([10]) == 1


@dataclass
class Told(ToolkitPeer):
    """A server whose next answer is made up."""

    answer: tuple[int, dict[str, Any]] = (200, {})

    def send(self, token: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        return *self.answer, {}


GOOD = {
    "access_token": "x" * 30,
    "refresh_token": "second",
    "token_type": "Bearer",
    "scope": "keys",
}


def test_a_peer_whose_answer_is_right_is_measured() -> None:
    peer = Told("http://127.0.0.1:1", 0, "first", "/", answer=(200, GOOD))
    peer.refresh()
    assert (peer.token, peer.old) == ("second", ["first"])


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}),
        (400, {"error": "invalid_grant"}),
        (200, GOOD | {"refresh_token": "first"}),
        (200, GOOD | {"access_token": ""}),
        (200, GOOD | {"scope": ""}),
    ],
)
def test_a_peer_whose_answer_is_wrong_is_not_measured(answer: tuple[int, dict[str, Any]]) -> None:
    peer = Told("http://127.0.0.1:1", 0, "first", "/", answer=answer)
    with pytest.raises(AssertionError):
        peer.refresh()


def test_a_peer_that_takes_an_old_token_is_not_measured() -> None:
    peer = Told("http://127.0.0.1:1", 0, "third", "/", old=["first", "second"], answer=(200, GOOD))
    with pytest.raises(AssertionError):
        peer.finish()


def test_a_hash_takes_longer_where_there_is_less_processor_and_costs_no_less() -> None:
    assert argon2.time_ms(30, 1769) == argon2.time_ms(30, 3008) == 30
    assert argon2.time_ms(30, 1769 // 2) == pytest.approx(60, rel=0.01)
    assert argon2.usd_a_million(30, 884) == pytest.approx(argon2.usd_a_million(30, 1769), rel=0.01)
    assert argon2.usd_a_million(30, 3008) > argon2.usd_a_million(30, 1769)
    assert argon2.processor_ms(argon2.Parameters(64, 1)) > 0
