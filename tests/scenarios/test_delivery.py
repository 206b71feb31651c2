"""Delivery on a KMS and a DynamoDB that fail, and what it costs as the vault grows."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ReadTimeoutError

from keyferry.edge.telemetry import Metric
from keyferry.vault.cache import MAX_AGE_SECONDS
from keyferry_cli.local.environments import make_environments
from tests.bench.cases import Delivery, FirstDelivery, NothingNew
from tests.bench.deployment import Deployment, store
from tests.bench.measure import cost
from tests.bench.report import VAULT, between
from tests.bench.rows import read_units
from tests.bench.suite import VAULTS
from tests.e2e.conftest import SECRETS
from tests.scenarios.system import SETTINGS, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.system import Phone, System

FAILURES = {
    "denied": Reply(400, "AccessDeniedException"),
    "throttled": Reply(400, "ThrottlingException"),
    "disabled": Reply(400, "DisabledException"),
    "broken": Reply(500),
    "slow": ReadTimeoutError(endpoint_url="https://kms"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_kms_fails_and_recovers(system: System, phone: Phone, failure: Reply | Exception) -> None:
    system.start_cold()
    with system.failing("kms:Decrypt", failure):
        response = phone.keys()
    assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert SECRETS["maps"] not in response.text
    assert phone.open(phone.keys())["keys"]["maps"]["value"] == SECRETS["maps"]


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_warm_function_does_without_kms_for_a_while(
    system: System, phone: Phone, failure: Reply | Exception
) -> None:
    etag = phone.keys().headers["etag"]
    mark = len(system.aws.calls)
    system.sleep(MAX_AGE_SECONDS - 1)
    assert phone.keys().status_code == 200
    system.sleep(1)
    same = {"If-None-Match": etag}
    assert phone.keys(headers=same).status_code == 304, "nothing new is told without KMS"
    assert "kms:Decrypt" not in system.aws.operations()[mark:]
    with system.failing("kms:Decrypt", failure):
        assert phone.keys().status_code == 503


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of the audit trail since the log was last cleared."""
    return [vars(record) for record in caplog.records if record.message == "key audit"]


def test_a_vault_that_was_restored_has_no_old_etags(system: System, phone: Phone) -> None:
    """Its numbers begin again where it was, so another value may have the number of a lost one."""
    dynamodb, table = system.cloud.dynamodb, system.cloud.tables["VaultTable"]
    before = dynamodb.scan(TableName=table)["Items"]
    lost = system.operate("keys.put", name="maps", value="lost", promote=True)
    same = {"If-None-Match": phone.keys().headers["etag"]}
    assert phone.keys(headers=same).status_code == 304
    for row in dynamodb.scan(TableName=table)["Items"]:
        dynamodb.delete_item(TableName=table, Key={"id": row["id"]})
    for row in before:
        dynamodb.put_item(TableName=table, Item=row)
    system.sleep(60)
    system.start_cold()
    new = system.operate("keys.put", name="maps", value="new", promote=True)
    assert new["current"]["number"] == lost["current"]["number"]
    answer = phone.keys(headers=same)
    assert answer.status_code == 200
    assert phone.open(answer)["keys"]["maps"]["value"] == "new"


def test_a_lost_row_is_told_and_keeps_nothing_back(
    system: System, phone: Phone, caplog: pytest.LogCaptureFixture
) -> None:
    policy = {"roles": ["*"]}
    made = system.operate("keys.put", name="lost", value="v", policy=policy, promote=True)
    table = system.cloud.tables["VaultTable"]
    row_id = {"S": f"lost#{made['current']['number']}"}
    system.cloud.dynamodb.delete_item(TableName=table, Key={"id": row_id})
    system.metrics()
    everything = phone.keys()
    assert "etag" not in everything.headers
    claims = phone.open(everything)
    assert claims["keys"]["maps"]["value"] == SECRETS["maps"]
    assert claims["refused"] == {"lost": "temporarily_unavailable"}
    assert system.metrics().count(Metric.VAULT_UNDECIPHERABLE) == 1
    caplog.clear()
    alone = phone.keys("/v1/keys/lost")
    assert (alone.status_code, alone.json()["error"]) == (503, "temporarily_unavailable")
    (line,) = audited(caplog)
    assert (line["action"], line["refused"]) == ("refused", {"lost": "temporarily_unavailable"})
    system.operate("keys.put", name="lost", value="again", promote=True)
    assert phone.open(phone.keys())["keys"]["lost"]["value"] == "again"


@pytest.mark.parametrize(
    "failure",
    [
        Reply(400, "ProvisionedThroughputExceededException"),
        Reply(400, "ThrottlingException"),
        Reply(500, "InternalServerError"),
        ReadTimeoutError(endpoint_url="https://dynamodb"),
    ],
    ids=str,
)
def test_dynamodb_fails_and_recovers(
    system: System, phone: Phone, failure: Reply | Exception
) -> None:
    assert phone.keys().status_code == 200
    with system.failing("dynamodb:BatchGetItem", failure):
        response = phone.keys()
    assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")
    assert phone.keys().status_code == 200


@pytest.fixture(scope="module")
def vaults() -> Iterator[list[Deployment]]:
    make_environments(("emulator",), report=lambda _: None)
    with ExitStack() as stack:
        endpoint = stack.enter_context(store())
        made = (Deployment.create(endpoint, keys=size) for size in VAULTS)
        yield [stack.enter_context(each) for each in made]


class TestCost:
    @pytest.fixture(autouse=True)
    def credentials(self, clean_environ: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Functions read them at their first call."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, SETTINGS[name])

    def test_it_does_not_grow_with_the_vault(self, vaults: list[Deployment]) -> None:
        for vault in vaults:
            for warm in (Delivery(vault, 1), NothingNew(vault, 1)):
                warm.answered()
                assert cost(warm).calls == {"BatchGetItem": 1}
                assert read_units(vault, warm.phones[0]) == 3

    def test_the_page_says_what_is_measured(self, vaults: list[Deployment]) -> None:
        """All but the processor time, which is another one on each machine."""
        written = [
            line.split("|")[1:5]
            for line in between(VAULT.read_text(encoding="utf-8"), "measured").splitlines()[2:]
        ]
        measured = []
        for size, vault in zip(VAULTS, vaults, strict=True):
            warm = Delivery(vault, 1)
            warm.answered()
            made = cost(warm)
            calls = ", ".join(f"{n} {name}" for name, n in made.calls.items())
            units = read_units(vault, warm.phones[0])
            measured.append([f" {each} " for each in (size, calls, units, f"{made.answer:,}")])
        assert written == measured

    def test_each_value_is_opened_once(self, vaults: list[Deployment]) -> None:
        for vault in vaults:
            cold = cost(FirstDelivery(vault, 1)).calls
            assert cold["Decrypt"] >= len(vault.keys), "and the keyring's own keys"
            warm = Delivery(vault, 1)
            warm.answered()
            assert "Decrypt" not in cost(warm).calls
