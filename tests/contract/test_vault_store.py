"""The vault on DynamoDB and KMS: nothing lost between operators, nothing opened that was swapped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from keyferry.config import Deployment
from keyferry.errors import CommandRefused, Unavailable
from keyferry.vault.envelope import Envelope, Sealer
from keyferry.vault.model import EMPTY, KeyEntry, Policy
from tests.contract.conftest import DEPLOYMENT, Cloud, random

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERYBODY = Policy(("*",))


def put(cloud: Cloud, name: str, value: str, **options: Any) -> KeyEntry:
    arguments: dict[str, Any] = {"policy": None, "cache_seconds": None, "now": 1, **options}
    return cloud.vault.put(cloud.sealer, name=name, value=value.encode(), **arguments)


def value(cloud: Cloud, name: str, version: int) -> str:
    (envelope,) = cloud.vault.envelopes([(name, version)])
    return cloud.sealer.open(envelope).decode()


def test_an_empty_vault(cloud: Cloud) -> None:
    assert cloud.vault.manifest() == EMPTY
    assert cloud.vault.envelopes([]) == []
    with pytest.raises(CommandRefused) as refused:
        cloud.vault.delete("x")
    assert refused.value.code == "not_found"


def test_put_replace_delete(cloud: Cloud) -> None:
    first = put(cloud, "maps", "one", policy=EVERYBODY, cache_seconds=60)
    second = put(cloud, "maps", "two")
    assert (second.version, second.previous) == (first.version + 1, first.version)
    assert (second.policy, second.cache_seconds) == (EVERYBODY, 60), "kept when not given"
    assert value(cloud, "maps", first.version) == "one"
    assert value(cloud, "maps", second.version) == "two"
    third = put(cloud, "maps", "three", policy=Policy(("admin",)))
    assert third.policy == Policy(("admin",))
    assert cloud.vault.envelopes([("maps", first.version)]) == [], "only one version is kept back"
    cloud.vault.delete("maps")
    assert cloud.vault.manifest().keys == {}
    rows = cloud.dynamodb.scan(TableName=cloud.tables["VaultTable"])["Items"]
    assert [row["id"]["S"] for row in rows] == ["MANIFEST"]


def test_a_key_made_again_never_has_an_old_version(cloud: Cloud) -> None:
    first = put(cloud, "maps", "one")
    cloud.vault.delete("maps")
    assert put(cloud, "maps", "two").version > first.version


def test_many_keys(cloud: Cloud) -> None:
    entries = [put(cloud, f"key{n}", str(n)) for n in range(120)]
    found = cloud.vault.envelopes([(entry.name, entry.version) for entry in entries])
    assert {e.name: cloud.sealer.open(e).decode() for e in found[:3]} == {
        e.name: e.name.removeprefix("key") for e in found[:3]
    }
    assert len(found) == 120


def test_operators_at_once_lose_nothing(cloud: Cloud) -> None:
    def write(n: int) -> KeyEntry | str:
        try:
            return put(cloud, f"key{n % 5}", f"value{n}")
        except CommandRefused as refused:
            return refused.code

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(write, range(12)))
    written = [result for result in results if isinstance(result, KeyEntry)]
    assert {result for result in results if isinstance(result, str)} <= {"conflict"}
    manifest = cloud.vault.manifest()
    assert manifest.revision == len(written), "each write is one revision"
    for name, entry in manifest.keys.items():
        newest = max((each for each in written if each.name == name), key=lambda e: e.version)
        assert entry == newest
        number = results.index(newest)
        assert value(cloud, name, entry.version) == f"value{number}"


class TestEnvelopes:
    @pytest.fixture
    def pair(self, cloud: Cloud) -> tuple[Sealer, Envelope, Envelope]:
        sealer = cloud.sealer
        return sealer, sealer.seal("maps", 1, b"one"), sealer.seal("gemini", 2, b"two")

    @pytest.mark.parametrize("change", [{"name": "gemini"}, {"version": 2}], ids=str)
    def test_a_row_under_another_name_or_version_does_not_open(
        self, pair: tuple[Sealer, Envelope, Envelope], change: dict[str, Any]
    ) -> None:
        sealer, maps, _ = pair
        with pytest.raises(Unavailable):
            sealer.open(replace(maps, **change))

    def test_parts_of_two_rows_do_not_open(self, pair: tuple[Sealer, Envelope, Envelope]) -> None:
        sealer, maps, gemini = pair
        for part in ("ciphertext", "nonce", "wrapped_key"):
            with pytest.raises(Unavailable):
                sealer.open(replace(maps, **{part: getattr(gemini, part)}))

    def test_another_deployment_does_not_open_it(
        self, pair: tuple[Sealer, Envelope, Envelope]
    ) -> None:
        sealer, maps, _ = pair
        for other in (Deployment("other", DEPLOYMENT.stage), Deployment(DEPLOYMENT.app, "prod")):
            with pytest.raises(Unavailable):
                replace(sealer, deployment=other).open(maps)

    def test_every_flipped_bit_of_the_ciphertext_is_seen(
        self, pair: tuple[Sealer, Envelope, Envelope]
    ) -> None:
        sealer, maps, _ = pair
        changed = bytearray(maps.ciphertext)
        for position in range(0, len(changed) * 8, 7):
            changed[position // 8] ^= 1 << position % 8
            with pytest.raises(Unavailable):
                sealer.open(replace(maps, ciphertext=bytes(changed)))
            changed[position // 8] ^= 1 << position % 8

    def test_a_disabled_kms_key_is_unavailable_and_comes_back(self, cloud: Cloud) -> None:
        envelope = cloud.sealer.seal("maps", 1, b"one")
        cloud.kms.disable_key(KeyId=cloud.key_arn)
        with pytest.raises(Unavailable):
            cloud.sealer.open(envelope)
        cloud.kms.enable_key(KeyId=cloud.key_arn)
        assert cloud.sealer.open(envelope) == b"one"


class TestKmsRefusals:
    """On moto, which authenticates its ciphertext blobs; the emulator does not."""

    @pytest.fixture
    def kms(self) -> Iterator[Any]:
        with mock_aws():
            yield boto3.client("kms", "us-east-1", aws_access_key_id="t", aws_secret_access_key="t")

    def sealer(self, kms: Any) -> Sealer:
        return Sealer(kms, kms.create_key()["KeyMetadata"]["Arn"], DEPLOYMENT, random)

    def test_tampered_data_key(self, kms: Any) -> None:
        sealer = self.sealer(kms)
        envelope = sealer.seal("maps", 1, b"one")
        assert sealer.open(envelope) == b"one"
        wrapped = envelope.wrapped_key[:-1] + bytes([envelope.wrapped_key[-1] ^ 1])
        with pytest.raises(Unavailable):
            sealer.open(replace(envelope, wrapped_key=wrapped))

    def test_another_kms_key(self, kms: Any) -> None:
        envelope = self.sealer(kms).seal("maps", 1, b"one")
        with pytest.raises(Unavailable):
            self.sealer(kms).open(envelope)
