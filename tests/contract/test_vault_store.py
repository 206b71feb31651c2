"""The vault on DynamoDB and KMS: nothing lost between operators, nothing opened that was swapped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from moto import mock_aws

from keyferry.config import Deployment
from keyferry.errors import CommandRefused, Unavailable
from keyferry.vault import changes
from keyferry.vault import store as vault_store
from keyferry.vault.changes import Draft
from keyferry.vault.envelope import Envelope, Sealer, Undecipherable
from keyferry.vault.model import EMPTY, Conditions, KeyEntry, ValueId, Version
from keyferry.vault.store import VaultStore
from tests.contract.conftest import DEPLOYMENT, Cloud, random

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERYBODY = Conditions(("*",))


def put(cloud: Cloud, name: str, value: str, **options: Any) -> KeyEntry:
    """A new version that is current at once."""
    draft = Draft(name, value.encode(), **options)
    made = cloud.vault.commit(
        lambda manifest: changes.put(manifest, [draft], now=1, promoted_for=60), cloud.sealer
    )
    return made.entries[0]


def number(entry: KeyEntry) -> int:
    assert entry.current is not None
    return entry.current.number


def value(cloud: Cloud, name: str, version: int, variant: int = 0) -> str:
    (envelope,) = cloud.vault.envelopes([ValueId(name, version, variant)])
    return cloud.sealer.open(envelope).decode()


def delete(cloud: Cloud, name: str) -> None:
    cloud.vault.commit(lambda manifest: changes.delete(manifest, name, now=1), cloud.sealer)


def rows(cloud: Cloud) -> set[str]:
    found = cloud.dynamodb.scan(TableName=cloud.tables["VaultTable"])["Items"]
    return {row["id"]["S"] for row in found}


def test_an_empty_vault(cloud: Cloud) -> None:
    assert cloud.vault.manifest() == EMPTY
    assert cloud.vault.envelopes([]) == []
    with pytest.raises(CommandRefused) as refused:
        delete(cloud, "x")
    assert refused.value.code == "not_found"


def test_put_replace_delete(cloud: Cloud) -> None:
    first = put(cloud, "maps", "one", policy=EVERYBODY, cache_seconds=60)
    second = put(cloud, "maps", "two")
    assert second.previous == first.current
    assert (second.policy, second.cache_seconds) == (EVERYBODY, 60), "kept when not given"
    assert value(cloud, "maps", number(first)) == "one"
    assert value(cloud, "maps", number(second)) == "two"
    third = put(cloud, "maps", "three", policy=Conditions(("admin",)))
    assert third.policy == Conditions(("admin",))
    assert rows(cloud) == {"MANIFEST", f"maps#{number(second)}", f"maps#{number(third)}"}
    delete(cloud, "maps")
    assert cloud.vault.manifest().keys == {}
    assert rows(cloud) == {"MANIFEST"}


def test_each_value_has_a_data_key_and_a_row_of_its_own(cloud: Cloud) -> None:
    variants = ((Conditions(("*",), ("ios",)), b"for ios"), (EVERYBODY, b"for others"))
    entry = put(cloud, "maps", "default", variants=variants)
    assert rows(cloud) == {"MANIFEST", "maps#1", "maps#1.1", "maps#1.2"}
    assert value(cloud, "maps", number(entry), 1) == "for ios"
    assert value(cloud, "maps", number(entry), 2) == "for others"
    one, other = cloud.vault.envelopes([ValueId("maps", 1, 1), ValueId("maps", 1, 2)])
    assert one.wrapped_key != other.wrapped_key
    delete(cloud, "maps")
    assert rows(cloud) == {"MANIFEST"}


def test_a_key_made_again_never_has_an_old_version(cloud: Cloud) -> None:
    first = put(cloud, "maps", "one")
    delete(cloud, "maps")
    assert number(put(cloud, "maps", "two")) > number(first)


def test_many_keys(cloud: Cloud) -> None:
    drafts = [Draft(f"key{n}", str(n).encode()) for n in range(90)]
    for part in (drafts[:45], drafts[45:]):
        cloud.vault.commit(
            lambda manifest, part=part: changes.put(manifest, part, now=1, promoted_for=0),  # type: ignore[misc]
            cloud.sealer,
        )
    more = [put(cloud, f"more{n}", str(n)) for n in range(15)]
    entries = [*cloud.vault.manifest().keys.values()]
    assert len(entries) == 105
    assert more[0] in entries
    found = cloud.vault.envelopes([ValueId(entry.name, number(entry)) for entry in entries])
    assert len(found) == 105, "more than DynamoDB reads in one call"
    for envelope in found[::20]:
        assert envelope.id.name.endswith(cloud.sealer.open(envelope).decode())


def test_too_many_values_at_once(cloud: Cloud) -> None:
    drafts = [Draft(f"key{n}", b"v") for n in range(100)]
    with pytest.raises(CommandRefused) as refused:
        cloud.vault.commit(lambda manifest: changes.put(manifest, drafts, now=1), cloud.sealer)
    assert refused.value.code == "invalid_request"
    assert cloud.vault.manifest() == EMPTY


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
        newest = max((each for each in written if each.name == name), key=number)
        assert entry == newest
        place = results.index(newest)
        assert value(cloud, name, number(entry)) == f"value{place}"


def test_of_two_who_put_one_key_one_is_told(cloud: Cloud) -> None:
    def write(n: int) -> int | str:
        draft = Draft("maps", f"value{n}".encode())
        try:
            made = cloud.vault.commit(
                lambda manifest: changes.put(manifest, [draft], now=1), cloud.sealer
            )
        except CommandRefused as refused:
            return refused.code
        pending = made.entries[0].pending
        assert pending is not None
        return pending.number

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(write, range(4)))
    assert sorted(map(str, results)) == ["1", "conflict", "conflict", "conflict"]
    assert value(cloud, "maps", 1) == f"value{results.index(1)}"


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_answer_is_not_a_second_write(cloud: Cloud, lost: int) -> None:
    """The transaction was made and the connection broke: the command is done, once."""

    class Losing:
        def __init__(self, client: Any) -> None:
            self.client, self.left = client, lost

        def __getattr__(self, name: str) -> Any:
            return getattr(self.client, name)

        def transact_write_items(self, **request: Any) -> Any:
            answer = self.client.transact_write_items(**request)
            if self.left:
                self.left -= 1
                raise ReadTimeoutError(endpoint_url="https://dynamodb")
            return answer

    store = VaultStore(cast("Any", Losing(cloud.dynamodb)), cloud.vault.table)
    made = store.commit(
        lambda manifest: changes.put(manifest, [Draft("maps", b"v")], now=1), cloud.sealer
    )
    assert made.entries[0].pending == Version(1, 1)
    assert cloud.vault.manifest().revision == 1
    assert rows(cloud) == {"MANIFEST", "maps#1"}


class Interrupted:
    """Makes each write, loses the answer of some, and lets another operator in after them."""

    def __init__(self, cloud: Cloud, lost: set[int], others: bool) -> None:
        self.cloud, self.lost, self.others = cloud, lost, others
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cloud.dynamodb, name)

    def transact_write_items(self, **request: Any) -> Any:
        self.tries += 1
        if self.tries not in self.lost:
            return self.cloud.dynamodb.transact_write_items(**request)
        self.cloud.dynamodb.transact_write_items(**request)
        if self.others:
            put(self.cloud, "another", "x")
        raise ReadTimeoutError(endpoint_url="https://dynamodb")


def test_a_lost_answer_is_no_second_write_when_others_write_meanwhile(cloud: Cloud) -> None:
    first = put(cloud, "maps", "v1")
    store = VaultStore(cast("Any", Interrupted(cloud, {1}, others=True)), cloud.vault.table)
    made = store.commit(
        lambda manifest: changes.put(manifest, [Draft("maps", b"v2")], now=1, promoted_for=60),
        cloud.sealer,
    )
    entry = cloud.vault.manifest().keys["maps"]
    assert entry == made.entries[0]
    assert entry.previous == first.current, "one version was made, and the one before is kept"
    assert value(cloud, "maps", number(first)) == "v1"


def test_the_answer_of_the_last_try_is_lost(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_store, "_WRITE_ATTEMPTS", 1)
    store = VaultStore(cast("Any", Interrupted(cloud, {1}, others=False)), cloud.vault.table)
    made = store.commit(
        lambda manifest: changes.put(manifest, [Draft("maps", b"v")], now=1), cloud.sealer
    )
    assert cloud.vault.manifest().keys["maps"] == made.entries[0]


class TestEnvelopes:
    @pytest.fixture
    def pair(self, cloud: Cloud) -> tuple[Sealer, Envelope, Envelope]:
        sealer = cloud.sealer
        return (
            sealer,
            sealer.seal(ValueId("maps", 1), b"one"),
            sealer.seal(ValueId("gemini", 2), b"two"),
        )

    @pytest.mark.parametrize(
        "change", [{"name": "gemini"}, {"version": 2}, {"variant": 1}], ids=str
    )
    def test_a_row_under_another_name_or_version_does_not_open(
        self, pair: tuple[Sealer, Envelope, Envelope], change: dict[str, Any]
    ) -> None:
        sealer, maps, _ = pair
        with pytest.raises(Undecipherable):
            sealer.open(replace(maps, id=maps.id._replace(**change)))

    @pytest.mark.parametrize(
        ("deployment", "value_id"),
        [
            (DEPLOYMENT, ValueId("gemini", 1)),
            (DEPLOYMENT, ValueId("maps", 2)),
            (DEPLOYMENT, ValueId("maps", 1, 1)),
            (Deployment("other", DEPLOYMENT.stage), ValueId("maps", 1)),
            (Deployment(DEPLOYMENT.app, "prod"), ValueId("maps", 1)),
        ],
        ids=str,
    )
    def test_not_even_by_a_kms_that_reads_no_context(
        self, cloud: Cloud, deployment: Deployment, value_id: ValueId
    ) -> None:
        """The cipher's additional data says the same once more."""

        class Careless:
            def generate_data_key(self, **request: Any) -> Any:
                return cloud.kms.generate_data_key(**{**request, "EncryptionContext": {"a": "b"}})

            def decrypt(self, **request: Any) -> Any:
                return cloud.kms.decrypt(**{**request, "EncryptionContext": {"a": "b"}})

        sealer = replace(cloud.sealer, kms=cast("Any", Careless()))
        maps = sealer.seal(ValueId("maps", 1), b"one")
        assert sealer.open(maps) == b"one"
        with pytest.raises(Undecipherable):
            replace(sealer, deployment=deployment).open(replace(maps, id=value_id))

    def test_parts_of_two_rows_do_not_open(self, pair: tuple[Sealer, Envelope, Envelope]) -> None:
        sealer, maps, gemini = pair
        for part in ("ciphertext", "nonce", "wrapped_key"):
            with pytest.raises(Undecipherable):
                sealer.open(replace(maps, **{part: getattr(gemini, part)}))

    def test_another_deployment_does_not_open_it(
        self, pair: tuple[Sealer, Envelope, Envelope]
    ) -> None:
        sealer, maps, _ = pair
        for other in (Deployment("other", DEPLOYMENT.stage), Deployment(DEPLOYMENT.app, "prod")):
            with pytest.raises(Undecipherable):
                replace(sealer, deployment=other).open(maps)

    def test_every_flipped_bit_of_the_ciphertext_is_seen(
        self, pair: tuple[Sealer, Envelope, Envelope]
    ) -> None:
        sealer, maps, _ = pair
        changed = bytearray(maps.ciphertext)
        for position in range(0, len(changed) * 8, 7):
            changed[position // 8] ^= 1 << position % 8
            with pytest.raises(Undecipherable):
                sealer.open(replace(maps, ciphertext=bytes(changed)))
            changed[position // 8] ^= 1 << position % 8

    def test_a_disabled_kms_key_is_unavailable_and_comes_back(self, cloud: Cloud) -> None:
        envelope = cloud.sealer.seal(ValueId("maps", 1), b"one")
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
        envelope = sealer.seal(ValueId("maps", 1), b"one")
        assert sealer.open(envelope) == b"one"
        wrapped = envelope.wrapped_key[:-1] + bytes([envelope.wrapped_key[-1] ^ 1])
        with pytest.raises(Undecipherable):
            sealer.open(replace(envelope, wrapped_key=wrapped))

    def test_another_kms_key(self, kms: Any) -> None:
        envelope = self.sealer(kms).seal(ValueId("maps", 1), b"one")
        # AWS says IncorrectKeyException, moto that access is denied.
        with pytest.raises((Undecipherable, Unavailable)):
            self.sealer(kms).open(envelope)
