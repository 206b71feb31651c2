"""`keyferry clients`: what it asks of API Gateway, in which order, and what it refuses.

API Gateway is botocore's Stubber, which holds every call against the model of the service.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from keyferry.keyring.unwrapped import MAX_AGE_SECONDS
from keyferry_cli import clients as command
from tests.unit.test_cli_commands import ARN, FakeAws, client_error, run

SESSION = boto3.Session("test", "test", region_name="us-east-1")
TODAY = date(2026, 11, 22)
OUTPUTS = {
    "KeyringFunction": "ring:live",
    "IosClientKeyId": "ios1",
    "IosUsagePlanId": "planios",
    "AndroidUsagePlanId": "planandroid",
}
TEMPLATE = {"ios1": "ios", "android1": "android"}
TAGS = {"keyferry:stack": "keyferry-dev", "keyferry:platform": "ios"}
VALUE = "the-value-of-a-client-key"


@dataclass
class Account(FakeAws):
    """A stack with a usage plan for each of two platforms."""

    added: dict[str, str] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    refusal: dict[str, str] | None = None
    calls: list[str] = field(default_factory=list)
    """Of the keyring and API Gateway, those that change something, in their order."""

    def __post_init__(self) -> None:
        self.outputs = [
            {"OutputKey": name, "OutputValue": value} for name, value in OUTPUTS.items()
        ]
        self.gateway = SESSION.client("apigateway")
        self.stub = Stubber(self.gateway)
        self.gateway.meta.events.register("provide-client-params.apigateway", self._record)

    def client(self, service_name: str, **_: Any) -> Any:
        return self.gateway if service_name == "apigateway" else self

    def _record(self, model: Any, **_: Any) -> None:
        if not model.name.startswith("Get"):
            self.calls.append(model.name)

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        assert FunctionName == "ring:live"
        event = json.loads(Payload)
        known = TEMPLATE | self.added
        reply: dict[str, Any] = {
            "ok": True,
            "result": {
                "clients": {key: at for key, at in known.items() if key not in self.retired},
                "template_clients": TEMPLATE,
            },
        }
        if event["command"] != "keyring.show":
            assert event.pop("operator") == ARN
            self.events.append(event)
            self.calls.append(event["command"])
            if self.refusal:
                reply = {"ok": False, "error": self.refusal}
        return {"Payload": io.BytesIO(json.dumps(reply).encode())}

    # ── what API Gateway will be asked, and what it says ─────────────────

    def plan(self, platform: str, *key_ids: str) -> None:
        """The keys in a plan; API Gateway gives their values here whether asked to or not."""
        keys = [{"id": key_id, "type": "API_KEY", "value": VALUE} for key_id in key_ids]
        self.stub.add_response(
            "get_usage_plan_keys", {"items": keys}, {"usagePlanId": f"plan{platform}"}
        )

    def describe(self, key_id: str, **changes: Any) -> None:
        described = {
            "id": key_id,
            "name": f"keyferry-dev-{key_id}",
            "enabled": True,
            "createdDate": datetime(2026, 11, 1, tzinfo=UTC),
        }
        self.stub.add_response(
            "get_api_key", described | changes, {"apiKey": key_id, "includeValue": False}
        )

    def missing(self, key_id: str) -> None:
        self.stub.add_client_error(
            "get_api_key",
            "NotFoundException",
            expected_params={"apiKey": key_id, "includeValue": False},
        )

    def read(self, *ios: str, enabled: bool = True) -> None:
        """The whole of the stack: one key for Android, and those for iOS, of which ``enabled`` says
        whether the one of the template is."""
        self.plan("ios", *ios)
        self.plan("android", "android1")
        for key_id in (*ios, "android1"):
            self.describe(key_id, enabled=enabled or key_id != "ios1")

    def use(self, key_id: str, *daily: int, days: int = 7, platform: str = "ios") -> None:
        self.stub.add_response(
            "get_usage",
            {"items": {key_id: [[count, 1000 - count] for count in daily]}},
            {
                "usagePlanId": f"plan{platform}",
                "keyId": key_id,
                "startDate": (TODAY - timedelta(days=days - 1)).isoformat(),
                "endDate": TODAY.isoformat(),
            },
        )

    def create(self, key_id: str) -> None:
        self.stub.add_response(
            "create_api_key",
            {"id": key_id, "value": VALUE},
            {
                "name": "keyferry-dev-ios-20261122",
                "enabled": True,
                "generateDistinctId": True,
                "tags": TAGS,
            },
        )

    def attach(self, key_id: str, *present: str) -> None:
        self.plan("ios", *present)
        self.stub.add_response(
            "create_usage_plan_key",
            {"id": key_id, "value": VALUE},
            {"usagePlanId": "planios", "keyId": key_id, "keyType": "API_KEY"},
        )

    def switch(self, key_id: str, enabled: str) -> None:
        operation = {"op": "replace", "path": "/enabled", "value": enabled}
        self.stub.add_response(
            "update_api_key", {}, {"apiKey": key_id, "patchOperations": [operation]}
        )

    def delete(self, key_id: str) -> None:
        self.stub.add_response("delete_api_key", {}, {"apiKey": key_id})


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    monkeypatch.setattr(command, "_today", lambda: TODAY)
    account = Account()
    with account.stub:
        yield account
    account.stub.assert_no_pending_responses()


def keyferry(account: Account, *arguments: str, stdin: str | None = None) -> Any:
    """Run the command; no value comes out but for the one test that asks for it."""
    result = run(account, "clients", *arguments, stdin=stdin, COLUMNS="140")
    assert VALUE not in result.output
    return result


# ── list ─────────────────────────────────────────────────────────────────


def test_list(account: Account) -> None:
    account.added = {"ios2": "ios"}
    account.retired = {"ios1"}
    account.read("ios1", "ios2", enabled=False)
    account.use("android1", 0, 5, 0, 0, 0, 0, 0, platform="android")
    account.use("ios1")
    account.use("ios2", 1, 0, 0, 0, 0, 2, 0)
    result = keyferry(account, "list")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split() for line in result.stdout.splitlines() if "2026-11" in line]
    name = "keyferry-dev-{}".format
    since = "2026-11-01"
    assert rows == [
        [
            *("android", "android1", name("android1"), "template", "enabled", "known"),
            *(since, "5", "2026-11-17"),
        ],
        ["ios", "ios1", name("ios1"), "template", "disabled", "retired", since, "0", "-"],
        ["ios", "ios2", name("ios2"), "operator", "enabled", "known", since, "3", "2026-11-21"],
    ]
    assert account.calls == []


def test_list_as_json_over_other_days_and_several_pages(account: Account) -> None:
    account.read("ios1")
    account.use("android1", 0, 0, days=2, platform="android")
    account.stub.add_response("get_usage", {"items": {"ios1": [[3, 7]]}, "position": "2"})
    account.stub.add_response("get_usage", {"items": {"ios1": [[4, 6]]}})
    shown = json.loads(keyferry(account, "list", "--days", "2", "--json").stdout)
    assert shown["days"] == 2
    assert shown["clients"][1] == {
        "key_id": "ios1",
        "platform": "ios",
        "from_template": True,
        "known": True,
        "in_plan": True,
        "exists": True,
        "enabled": True,
        "name": "keyferry-dev-ios1",
        "created": 1_793_491_200,
        "requests": 7,
        "last_used": "2026-11-22",
    }


def test_keys_on_which_the_two_sides_do_not_agree(account: Account) -> None:
    account.added = {"gone1": "ios", "loose1": "ios", "wrong1": "ios"}
    account.plan("ios", "ios1", "swept1")
    account.plan("android", "android1", "wrong1")
    account.describe("ios1")
    account.missing("swept1")
    account.describe("android1")
    account.describe("wrong1")
    account.missing("gone1")
    account.describe("loose1")
    account.use("android1", platform="android")
    account.use("ios1")
    result = keyferry(account, "list", "--json")
    found = {key["key_id"]: key for key in json.loads(result.stdout)["clients"]}
    assert "swept1" not in found, "deleted, and named by nobody"
    assert [found["gone1"][each] for each in ("known", "exists", "in_plan")] == [True, False, False]
    assert [found["loose1"][each] for each in ("exists", "in_plan")] == [True, False]
    assert found["wrong1"]["in_plan"] is False, "in the plan of another platform than its own"


def test_use_that_is_not_told_is_no_zero(account: Account) -> None:
    account.read("ios1")
    account.stub.add_client_error("get_usage", "AccessDeniedException", http_status_code=403)
    account.stub.add_response("get_usage", {})
    result = keyferry(account, "list")
    assert result.exit_code == 0
    assert "use of android1: access denied" in result.stderr
    assert "use of ios1: API Gateway does not tell" in result.stderr
    assert [line.split()[-2:] for line in result.stdout.splitlines() if "2026-11" in line] == [
        ["?", "?"],
        ["?", "?"],
    ]


@pytest.mark.parametrize(
    ("options", "printed"),
    [((), VALUE + "\n"), (("--json",), json.dumps({"key_id": "ios1", "value": VALUE}, indent=2))],
)
def test_one_value_is_shown_when_it_is_asked_for(
    account: Account, options: tuple[str, ...], printed: str
) -> None:
    account.read("ios1")
    account.stub.add_response(
        "get_api_key", {"value": VALUE}, {"apiKey": "ios1", "includeValue": True}
    )
    result = run(account, "clients", "list", "--show-value", "ios1", *options)
    assert (result.stdout.strip(), result.stderr) == (printed.strip(), "")


@pytest.mark.parametrize("days", ["0", "91", "x"])
def test_days_that_are_not_counted(account: Account, days: str) -> None:
    assert keyferry(account, "list", "--days", days).exit_code == 2


# ── add, rotate ──────────────────────────────────────────────────────────


def test_add_tells_the_keyring_before_the_gateway_lets_the_key_in(account: Account) -> None:
    account.create("ios2")
    account.attach("ios2", "ios1")
    result = keyferry(account, "add", "ios")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"Added ios2 (ios). Every function knows it within {MAX_AGE_SECONDS} seconds.\n"
    )
    assert account.calls == ["CreateApiKey", "keyring.add_client", "CreateUsagePlanKey"]
    assert account.events == [
        {"command": "keyring.add_client", "key_id": "ios2", "client_id": "ios"}
    ]


@pytest.mark.parametrize("verb", ["add", "rotate"])
@pytest.mark.parametrize("platform", ["macos", "Ios", "IosUsagePlanId", ""])
def test_a_platform_without_a_plan_is_one_for_the_template(
    account: Account, verb: str, platform: str
) -> None:
    result = keyferry(account, verb, platform)
    assert (result.exit_code, result.stdout, account.calls) == (1, "", [])
    assert f"no usage plan for {platform}, only for android, ios" in result.stderr
    assert "template.yaml" in result.stderr


def test_a_key_that_could_not_be_made_ready_is_named(account: Account) -> None:
    account.refusal = {"error": "temporarily_unavailable", "error_description": "Try again."}
    account.create("ios2")
    result = keyferry(account, "add", "ios")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "keyferry clients retire ios2 --delete" in result.stderr
    assert "temporarily_unavailable" in result.stderr
    assert account.calls == ["CreateApiKey", "keyring.add_client"], "and is in no plan"


def test_rotate_says_what_comes_next(account: Account) -> None:
    account.added = {"ios0": "ios"}
    account.read("ios1", "ios0")
    account.create("ios2")
    account.attach("ios2", "ios1", "ios0")
    result = keyferry(account, "rotate", "ios")
    assert result.exit_code == 0
    for step in (
        "clients list --show-value ios2",
        "clients retire ios1",
        "clients retire ios0",
        f"within {MAX_AGE_SECONDS} seconds",
    ):
        assert step in result.stdout
    assert "android1" not in result.stdout
    assert account.calls == ["CreateApiKey", "keyring.add_client", "CreateUsagePlanKey"]


def test_rotate_as_json_names_the_keys_that_work_and_are_replaced(account: Account) -> None:
    account.added = {"ios0": "ios"}
    account.retired = {"ios1"}
    account.read("ios1", "ios0", enabled=False)
    account.create("ios2")
    account.attach("ios2", "ios1", "ios0")
    shown = json.loads(keyferry(account, "rotate", "ios", "--json").stdout)
    assert shown == {"key_id": "ios2", "platform": "ios", "replaces": ["ios0"]}


# ── retire, restore ──────────────────────────────────────────────────────


def test_retire_of_a_key_without_use_asks_nothing(account: Account) -> None:
    account.added = {"ios2": "ios"}
    account.read("ios1", "ios2")
    account.use("ios1", 0, 0, 0)
    account.switch("ios1", "false")
    result = keyferry(account, "retire", "ios1")
    assert (result.exit_code, result.stdout) == (0, "Retired ios1 (ios).\n")
    assert result.stderr == ""
    assert account.calls == ["UpdateApiKey", "keyring.retire_client"], "the gateway first"
    assert account.events == [{"command": "keyring.retire_client", "key_id": "ios1"}]


def test_retire_and_delete(account: Account) -> None:
    account.added = {"ios2": "ios"}
    account.read("ios1", "ios2")
    account.use("ios2")
    account.switch("ios2", "false")
    account.delete("ios2")
    result = keyferry(account, "retire", "ios2", "--delete", "--json")
    shown = {"key_id": "ios2", "platform": "ios", "deleted": True, "requests": 0}
    assert json.loads(result.stdout) == shown
    assert account.calls == ["UpdateApiKey", "keyring.retire_client", "DeleteApiKey"]


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
def test_retire_of_a_key_in_use_asks(account: Account, answer: str) -> None:
    account.added = {"ios2": "ios"}
    account.read("ios1", "ios2")
    account.use("ios1", 0, 0, 0, 41, 0, 1, 0)
    result = keyferry(account, "retire", "ios1", stdin=answer)
    assert (result.exit_code, account.calls) == (1, [])
    said = "ios1 (ios) made 42 requests in the last 7 days, the last on 2026-11-21."
    assert said in result.stderr
    assert "Retire ios1 in keyferry-dev?" in result.stderr
    assert "only key" not in result.stderr


@pytest.mark.parametrize(("options", "answer"), [((), "y\n"), (("--yes",), None)])
def test_retire_of_a_key_in_use_after_a_yes(
    account: Account, options: tuple[str, ...], answer: str | None
) -> None:
    account.added = {"ios2": "ios"}
    account.read("ios1", "ios2")
    account.use("ios1", 42)
    account.switch("ios1", "false")
    result = keyferry(account, "retire", "ios1", *options, stdin=answer)
    assert result.exit_code == 0
    assert "made 42 requests" in result.stderr
    assert account.calls == ["UpdateApiKey", "keyring.retire_client"]


def test_retire_asks_when_the_use_is_not_known(account: Account) -> None:
    account.added = {"ios2": "ios"}
    account.read("ios1", "ios2")
    account.stub.add_client_error("get_usage", "AccessDeniedException", http_status_code=403)
    result = keyferry(account, "retire", "ios1", stdin="n\n")
    assert (result.exit_code, account.calls) == (1, [])
    assert "is not known" in result.stderr


def test_retire_of_a_key_that_works_outside_of_its_plan_asks(account: Account) -> None:
    account.added = {"loose1": "ios"}
    account.plan("ios", "ios1")
    account.plan("android", "android1", "loose1")
    for key_id in ("ios1", "android1", "loose1"):
        account.describe(key_id)
    result = keyferry(account, "retire", "loose1", stdin="n\n")
    assert (result.exit_code, account.calls) == (1, [])
    assert "is not known" in result.stderr


@pytest.mark.parametrize("other", ["none", "disabled", "retired"])
def test_retire_of_the_last_key_that_works_asks(account: Account, other: str) -> None:
    key = "ios1"
    if other == "none":
        account.read("ios1")
    else:
        key = "ios2"
        account.added = {"ios2": "ios"}
        account.retired = {"ios1"} if other == "retired" else set()
        account.read("ios1", "ios2", enabled=other == "retired")
    account.use(key)
    result = keyferry(account, "retire", key, stdin="n\n")
    assert (result.exit_code, account.calls) == (1, [])
    assert "only key of ios that works" in result.stderr


def test_a_key_of_the_template_is_not_deleted(account: Account) -> None:
    account.read("ios1")
    result = keyferry(account, "retire", "ios1", "--delete", "--yes")
    assert (result.exit_code, result.stdout, account.calls) == (1, "", [])
    assert "belongs to the stack" in result.stderr


@pytest.mark.parametrize("verb", ["retire", "restore"])
@pytest.mark.parametrize("tags", [None, {}, {"keyferry:stack": "keyferry-prod"}])
def test_keys_of_others_are_left_alone(
    account: Account, verb: str, tags: dict[str, str] | None
) -> None:
    for _ in range(2 if verb == "retire" else 1):
        account.read("ios1")
    if tags is None:
        account.missing("other1")
    else:
        account.describe("other1", tags=tags)
    result = keyferry(account, verb, "other1")
    assert (result.exit_code, result.stdout, account.calls) == (1, "", [])
    assert "not_found: there is no client key other1 of this stack." in result.stderr


def test_a_key_that_only_its_tag_knows_is_taken_away(account: Account) -> None:
    account.read("ios1")
    account.read("ios1")
    account.describe("half1", tags=TAGS)
    account.switch("half1", "false")
    account.delete("half1")
    assert keyferry(account, "retire", "half1", "--delete").exit_code == 0


def test_a_key_that_the_gateway_does_not_have_leaves_the_keyring(account: Account) -> None:
    account.added = {"gone1": "ios"}
    account.plan("ios", "ios1")
    account.plan("android", "android1")
    account.describe("ios1")
    account.describe("android1")
    account.missing("gone1")
    assert keyferry(account, "retire", "gone1", "--delete").exit_code == 0
    assert account.calls == ["keyring.retire_client"]


def test_a_key_that_was_just_deleted_by_an_earlier_try(account: Account) -> None:
    account.added = {"ios2": "ios"}
    account.read("ios1", "ios2")
    account.use("ios2")
    account.switch("ios2", "false")
    account.stub.add_client_error("delete_api_key", "NotFoundException")
    assert keyferry(account, "retire", "ios2", "--delete").exit_code == 0


def test_restore_tells_the_keyring_first(account: Account) -> None:
    account.retired = {"ios1"}
    account.read("ios1", enabled=False)
    account.plan("ios", "ios1")
    account.switch("ios1", "true")
    result = keyferry(account, "restore", "ios1")
    assert result.exit_code == 0
    assert "Restored ios1 (ios)." in result.stdout
    assert account.calls == ["keyring.add_client", "UpdateApiKey"]
    assert account.events[0]["client_id"] == "ios"


def test_a_deleted_key_is_not_restored(account: Account) -> None:
    account.added = {"gone1": "ios"}
    account.plan("ios", "ios1")
    account.plan("android", "android1")
    account.describe("ios1")
    account.describe("android1")
    account.missing("gone1")
    result = keyferry(account, "restore", "gone1")
    assert (result.exit_code, account.calls) == (1, [])
    assert "gone1 is deleted" in result.stderr


# ── what AWS refuses ─────────────────────────────────────────────────────


def test_what_api_gateway_denies_is_one_line(account: Account) -> None:
    account.stub.add_client_error("create_api_key", "AccessDeniedException", http_status_code=403)
    result = keyferry(account, "add", "ios")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "keyferry: access denied: these AWS credentials may not do CreateApiKey\n"
    )


def test_a_stack_that_is_not_there(account: Account) -> None:
    account.describe_error = client_error(
        "DescribeStacks", "ValidationError", "Stack with id x does not exist"
    )
    result = keyferry(account, "list", "--stack", "x")
    assert result.exit_code == 1
    assert result.stderr == "keyferry: there is no stack x in this account and region\n"
