"""The lines of docs/operations.md that copy a restored table back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from keyferry_cli.local.emulator import Emulator


def test_a_restored_table_is_copied_over_what_is_there(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": emulator.endpoint_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("dynamodb")
    names = {"TABLE": "keyring-now", "RESTORED": "keyring-now-restored"}
    for table in names.values():
        client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )

    def row(name: str, revision: int) -> dict[str, Any]:
        return {"id": {"S": name}, "revision": {"N": str(revision)}}

    for item in (row("changed", 2), row("newer", 1)):
        client.put_item(TableName=names["TABLE"], Item=item)
    for item in (row("changed", 1), row("lost", 1)):
        client.put_item(TableName=names["RESTORED"], Item=item)

    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(lines, dict(names))  # noqa: S102 -- of our own page

    found = client.scan(TableName=names["TABLE"])["Items"]
    assert sorted(found, key=lambda item: item["id"]["S"]) == [
        row("changed", 1),
        row("lost", 1),
        row("newer", 1),
    ]
