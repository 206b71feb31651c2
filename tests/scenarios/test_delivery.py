"""Delivery on a KMS and a DynamoDB that fail, and what it costs as the vault grows."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from botocore.exceptions import ReadTimeoutError
from joserfc import jwe
from joserfc.jwk import ECKey

from keyferry.edge.telemetry import Metric
from keyferry.vault.cache import MAX_AGE_SECONDS
from tests.bench import delivery as bench
from tests.e2e.conftest import SECRETS
from tests.scenarios.system import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.conftest import Cloud
    from tests.scenarios.system import Clients, Phone, System

PAGE = Path(__file__).parents[2] / "docs" / "vault.md"

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


def test_a_lost_row_is_told_and_keeps_nothing_back(system: System, phone: Phone) -> None:
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
    alone = phone.keys("/v1/keys/lost")
    assert (alone.status_code, alone.json()["error"]) == (503, "temporarily_unavailable")
    assert system.metrics().count(Metric.VAULT_UNDECIPHERABLE) == 2
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


class TestCost:
    @pytest.fixture
    def vaults(self, clients: Clients, cloud: Cloud) -> Iterator[list[bench.Vault]]:
        with contextlib.ExitStack() as stack:
            yield stack.enter_context(bench.vaults(clients, cloud, bench.SIZES))

    def test_it_does_not_grow_with_the_vault(self, vaults: list[bench.Vault]) -> None:
        for vault in vaults:
            answer = vault.deliver(event := vault.event())
            assert len(delivered(vault, answer)) == vault.keys
            assert vault.calls_of(event) == {"dynamodb:BatchGetItem": 1}
            same = vault.event(**{"if-none-match": answer["headers"]["ETag"]})
            assert vault.calls_of(same) == {"dynamodb:BatchGetItem": 1}
        assert {vault.read_units() for vault in vaults} == {3}

    def test_the_page_says_what_is_measured(self, vaults: list[bench.Vault]) -> None:
        """All but the processor time, which is another one on each machine."""
        _, _, rest = PAGE.read_text(encoding="utf-8").partition(bench.BEGIN)
        written = [line.split("|")[1:4] for line in rest.split(bench.END)[0].splitlines()[2:]]
        measured = bench.table(bench.measure(vaults, rounds=1)).splitlines()[2:]
        assert written == [line.split("|")[1:4] for line in measured]

    def test_each_value_is_opened_once(self, vaults: list[bench.Vault]) -> None:
        for vault in vaults:
            vault.system.sleep(MAX_AGE_SECONDS)
            event = vault.event()
            cold = vault.calls_of(event)
            assert cold.pop("kms:Decrypt") >= vault.keys, "and once for the signing key, maybe"
            assert "kms:Decrypt" not in vault.calls_of(event)


def delivered(vault: bench.Vault, answer: dict[str, Any]) -> dict[str, Any]:
    """The keys in it, whoever signed them: the JWKS is another system's by now."""
    key = ECKey.import_key(vault.phone.private_encryption_jwk())
    inner = jwe.decrypt_compact(answer["body"], key).plaintext or b""
    claims = jwt.decode(inner.decode(), options={"verify_signature": False})
    keys: dict[str, Any] = claims["keys"]
    return keys
