"""DynamoDB tables with the keys that the template gives them, and a KMS key, on the emulator."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import yaml

from keyferry.config import Deployment
from keyferry.keyring.lifecycle import KeyMaker
from keyferry.keyring.store import KeyringStore
from keyferry.sessions.store import SessionStore
from keyferry.users.store import UserStore
from keyferry.vault.envelope import Sealer
from keyferry.vault.store import VaultStore
from tests.conftest import ROOT

if TYPE_CHECKING:
    from keyferry_cli.local.emulator import Emulator

DEPLOYMENT = Deployment(app="keyferry", stage="test")


def random(length: int) -> bytes:
    return uuid.uuid4().bytes[:length] if length <= 16 else random(16) + random(length - 16)


@dataclass(frozen=True)
class Cloud:
    """Clients of the emulator, and one table of each kind that nobody else uses."""

    dynamodb: Any
    kms: Any
    tables: dict[str, str]
    key_arn: str

    @property
    def sessions(self) -> SessionStore:
        return SessionStore(self.dynamodb, self.tables["SessionsTable"])

    @property
    def users(self) -> UserStore:
        return UserStore(self.dynamodb, self.tables["UsersTable"], self.tables["CredentialsTable"])

    @property
    def vault(self) -> VaultStore:
        return VaultStore(self.dynamodb, self.tables["VaultTable"])

    @property
    def keyring(self) -> KeyringStore:
        return KeyringStore(self.dynamodb, self.tables["KeyringTable"])

    @property
    def sealer(self) -> Sealer:
        return Sealer(self.kms, self.key_arn, DEPLOYMENT, random)

    @property
    def maker(self) -> KeyMaker:
        return KeyMaker(self.kms, self.key_arn, DEPLOYMENT, random)


class TemplateLoader(yaml.SafeLoader):
    """Reads a template without evaluating its functions (`!Ref`, `!Sub`, …)."""


TemplateLoader.add_multi_constructor("!", lambda _loader, _suffix, node: node.value)


def table_schemas() -> dict[str, dict[str, Any]]:
    """Key schema and attributes of each table, read from the template and nowhere else."""
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    resources = yaml.load(text, TemplateLoader)["Resources"]  # noqa: S506 -- derived from SafeLoader
    return {
        name: {
            "AttributeDefinitions": resource["Properties"]["AttributeDefinitions"],
            "KeySchema": resource["Properties"]["KeySchema"],
        }
        for name, resource in resources.items()
        if resource["Type"] == "AWS::DynamoDB::Table"
    }


def make_cloud(endpoint_url: str | None) -> Cloud:
    session = boto3.Session("test", "test", region_name="us-east-1")
    dynamodb = session.client("dynamodb", endpoint_url=endpoint_url)
    kms = session.client("kms", endpoint_url=endpoint_url)
    suffix = uuid.uuid4().hex[:8]
    tables = {}
    for name, schema in table_schemas().items():
        tables[name] = f"{name}-{suffix}"
        dynamodb.create_table(TableName=tables[name], BillingMode="PAY_PER_REQUEST", **schema)
    key_arn = kms.create_key()["KeyMetadata"]["Arn"]
    return Cloud(dynamodb, kms, tables, key_arn)


@pytest.fixture
def cloud(emulator: Emulator) -> Cloud:
    return make_cloud(emulator.endpoint_url)
