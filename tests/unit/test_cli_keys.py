"""`keyferry keys` against the operator function's own commands, over a vault in memory."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, cast

import pytest
from pydantic import ValidationError
from typer.core import TyperGroup
from typer.main import get_command

from keyferry.errors import CommandRefused
from keyferry.operator.commands import Invocation, _where
from keyferry.operator.key_commands import KEY_COMMANDS, MAX_DRAFTS, KeyCommands
from keyferry.vault.changes import Change
from keyferry.vault.model import (
    DEFAULT_CACHE_SECONDS,
    EMPTY,
    MAX_VALUE_BYTES,
    Manifest,
    ValueId,
)
from keyferry_cli import completion
from keyferry_cli.app import app
from keyferry_cli.completion import key_names
from keyferry_cli.placeholder import MIN_LENGTH
from tests.unit.test_cli_commands import ARN, SECRET, FakeAws, client_error, run

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_795_334_400  # 2026-11-22 08:00 UTC
ANYBODY = ("--role", "*", "--platform", "*")
EVERYTHING = {"roles": ["analyst"], "platforms": ["ios", "android"]}


@dataclass
class Vault(FakeAws):
    """A stack whose operator function knows the commands about keys, and nothing of KMS."""

    kept: Manifest = EMPTY
    values: dict[ValueId, bytes] = field(default_factory=dict)
    breaks_after: int = 1_000_000
    """Commands that change something; the next ones do not come through."""

    @property
    def commands(self) -> list[str]:
        return [event["command"] for event in self.events]

    def manifest(self) -> Manifest:
        return self.kept

    def commit(self, change: Callable[[Manifest], Change], _: Any) -> Change:
        if self.breaks_after == 0:
            raise client_error("Invoke", "TooManyRequestsException")
        made = change(self.kept)
        self.kept = replace(made.manifest, revision=self.kept.revision + 1)
        self.values = {
            value_id: value for value_id, value in self.values.items() if value_id not in made.drop
        } | dict(made.seal)
        self.breaks_after -= 1
        return made

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        super().invoke(FunctionName=FunctionName, Payload=Payload)
        try:
            asked = Invocation.model_validate_json(Payload)
            commands = KeyCommands(cast("Any", self), cast("Any", None), lambda: NOW, "")
            result = KEY_COMMANDS[asked.command](commands, asked.arguments)
            reply: dict[str, Any] = {"ok": True, "result": result}
        except ValidationError as error:
            reply = refusal("invalid_request", _where(error))
        except CommandRefused as refused:
            reply = refusal(refused.code, refused.description)
        return {"Payload": io.BytesIO(json.dumps(reply).encode())}

    def having(self, *names: str, promote: bool = True, **more: Any) -> Vault:
        """With a version of each key that is no business of the test."""
        for name in names:
            arguments = {"name": name, "value": "before", "promote": promote, **more}
            commands = KeyCommands(cast("Any", self), cast("Any", None), lambda: NOW, "")
            KEY_COMMANDS["keys.put"](commands, arguments)
        return self

    def numbers(self, name: str) -> tuple[int | None, int | None, int | None]:
        """Of the current, pending and previous version."""
        entry = self.kept.keys[name]
        versions = (entry.current, entry.pending, entry.previous)
        current, pending, previous = (each.number if each else None for each in versions)
        return current, pending, previous


def refusal(code: str, description: str) -> dict[str, Any]:
    return {"ok": False, "error": {"error": code, "error_description": description}}


def changing(vault: Vault) -> list[str]:
    return [each for each in vault.commands if each not in ("keys.get", "keys.list")]


# ── put ──────────────────────────────────────────────────────────────────


def test_put_makes_a_pending_version_and_says_how_to_promote_it(tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_text(SECRET + "\n")
    vault = Vault()
    options = ("--role", "analyst", "--platform", "ios", "--platform", "android")
    result = run(vault, "keys", "put", "gemini", "--value-file", str(value), *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == "Stored gemini, version 1: pending.\n"
    assert "keyferry keys promote gemini --version 1\n" in result.stderr
    assert "warning" not in result.stderr
    assert vault.numbers("gemini") == (None, 1, None)
    assert vault.values == {ValueId("gemini", 1): SECRET.encode()}
    assert vault.events[0]["arguments"] == {
        "name": "gemini",
        "value": SECRET,
        "variants": [],
        "policy": EVERYTHING,
        "cache_seconds": None,
        "promote": False,
        "replace_pending": False,
        "previous_seconds": 7 * 86_400,
    }


def test_put_and_promote_at_once() -> None:
    vault = Vault().having("gemini", promote=False)
    options = ("--promote", "--keep-previous", "36h", "--cache-seconds", "60", *ANYBODY)
    result = run(vault, "keys", "put", "gemini", *options, stdin=SECRET)
    assert result.stdout == "Stored gemini, version 2: current now.\n"
    assert result.stderr == "version 1 is still pending\n"
    assert vault.numbers("gemini") == (2, 1, None)
    assert vault.kept.keys["gemini"].cache_seconds == 60
    assert vault.events[0]["arguments"]["previous_seconds"] == 36 * 3600


def test_put_replaces_a_pending_version_only_when_asked() -> None:
    vault = Vault().having("gemini", promote=False)
    refused = run(vault, "keys", "put", "gemini", stdin=SECRET)
    assert refused.exit_code == 1
    assert "conflict: gemini has a pending version 1" in refused.stderr
    assert vault.numbers("gemini") == (None, 1, None)
    assert run(vault, "keys", "put", "gemini", "--replace-pending", stdin=SECRET).exit_code == 0
    assert vault.numbers("gemini") == (None, 2, None)


def test_key_without_policy_is_stored_and_warned_about() -> None:
    vault = Vault()
    result = run(vault, "keys", "put", "gemini", "--json", stdin=SECRET)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["pending"]["number"] == 1
    assert "no device receives it" in result.stderr
    assert vault.kept.keys["gemini"].policy is None


def test_a_value_that_looks_like_a_placeholder_is_stored_and_warned_about() -> None:
    vault = Vault()
    result = run(vault, "keys", "put", "gemini", *ANYBODY, stdin="your-api-key-here")
    assert result.exit_code == 0
    assert "warning: the value looks like a placeholder" in result.stderr
    assert "your-api-key-here" not in result.output
    assert vault.numbers("gemini") == (None, 1, None)


# ── policy options ───────────────────────────────────────────────────────

EVERY_OPTION = (
    *("--role", "analyst", "--platform", "ios", "--platform", "android"),
    *("--min-app-version", "2.0.1", "--attested", "--second-factor"),
    *("--from", "2026-11-22T09:00+01:00", "--until", "2026-11-23", "--rollout", "12.5"),
)
EVERY_CONDITION = {
    **EVERYTHING,
    "min_app_version": "2.0.1",
    "attested": True,
    "second_factor": True,
    "not_before": NOW,
    "not_after": NOW + 16 * 3600,
    "rollout": 1250,
}


def members(conditions: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(json.dumps(conditions)))


def test_every_option_of_a_policy() -> None:
    vault = Vault()
    assert run(vault, "keys", "put", "gemini", *EVERY_OPTION, stdin=SECRET).exit_code == 0
    assert vault.events[0]["arguments"]["policy"] == EVERY_CONDITION
    policy = run(vault, "keys", "policy", "gemini", *EVERY_OPTION, "--json")
    assert json.loads(policy.stdout)["policy"] == EVERY_CONDITION


@pytest.mark.parametrize(
    "options",
    [
        ("--role", "*"),
        ("--platform", "*"),
        ("--second-factor",),
        ("--attested",),
        ("--min-app-version", "2.0"),
        ("--from", "2026-11-22"),
        ("--rollout", "10"),
        ("--rollout", "0"),
        ("--role", "*", "--second-factor"),
    ],
)
def test_half_a_policy_is_wrong_usage(options: tuple[str, ...]) -> None:
    vault = Vault().having("gemini")
    for command in (("put", "gemini"), ("policy", "gemini"), ("import", "-")):
        result = run(vault, "keys", *command, *options, stdin=SECRET)
        assert result.exit_code == 2
        assert "together" in result.stderr
    assert vault.events == []


@pytest.mark.parametrize(
    "options",
    [
        ("--rollout", "100.01"),
        ("--rollout", "12.345"),
        ("--rollout", "-1"),
        ("--rollout", "NaN"),
        ("--rollout", "1e1"),
        ("--rollout", ""),
        ("--rollout", "١٢"),
        ("--from", "tomorrow"),
        ("--from", "1969-12-31"),
        ("--until", "2026-13-01"),
        ("--from", "2026-11-22", "--until", "2026-11-22"),
        ("--min-app-version", "two"),
        ("--keep-previous", "7"),
        ("--keep-previous", "-7d"),
        ("--cache-seconds", "86401"),
    ],
)
def test_a_condition_that_means_nothing_is_wrong_usage(options: tuple[str, ...]) -> None:
    vault = Vault().having("gemini")
    result = run(vault, "keys", "put", "gemini", *ANYBODY, *options, stdin=SECRET)
    assert result.exit_code == 2, result.output
    assert vault.events == []


@pytest.mark.parametrize(
    ("percent", "hundredths"), [("0", 0), ("100", 10_000), ("0.01", 1), ("7.5%", 750)]
)
def test_rollouts_are_exact(percent: str, hundredths: int) -> None:
    vault = Vault().having("gemini")
    run(vault, "keys", "policy", "gemini", *ANYBODY, "--rollout", percent)
    policy = vault.kept.keys["gemini"].policy
    assert policy is not None
    assert policy.rollout == hundredths


def test_a_policy_replaces_the_one_before_as_a_whole() -> None:
    vault = Vault().having("gemini", policy=EVERY_CONDITION, cache_seconds=60)
    result = run(vault, "keys", "policy", "gemini", "--role", "admin", "--platform", "*")
    assert result.stdout == "gemini is for: admin.\n"
    entry = vault.kept.keys["gemini"]
    assert entry.policy is not None
    assert entry.policy.roles == ("admin",)
    assert not entry.policy.second_factor
    assert entry.cache_seconds == 60
    assert vault.numbers("gemini") == (1, None, None)


def test_a_key_is_closed_to_everybody() -> None:
    vault = Vault().having("gemini", policy=EVERYTHING)
    for wrong in ((), ("--nobody", *ANYBODY), ("--cache-seconds", "60")):
        assert run(vault, "keys", "policy", "gemini", *wrong).exit_code == 2
    assert vault.events == []
    assert run(vault, "keys", "policy", "gemini", "--nobody").stdout == "gemini is for: nobody.\n"
    assert vault.kept.keys["gemini"].policy is None


# ── variants ─────────────────────────────────────────────────────────────


def test_variants_come_from_files(tmp_path: Path) -> None:
    ios, rest = tmp_path / "ios.key", tmp_path / "rest.key"
    ios.write_text(SECRET + "-ios\n")
    rest.write_text(SECRET + "-rest\n")
    vault = Vault()
    options = (
        "--variant",
        f"platform=ios,min-app-version=2.0,from=2026-11-22T09:00+01:00:{ios}",
        "--variant",
        f"role=tester, role=admin, attested, rollout=50:{rest}",
    )
    result = run(vault, "keys", "put", "gemini", *ANYBODY, *options, stdin=SECRET)
    assert result.exit_code == 0, result.output
    assert vault.values == {
        ValueId("gemini", 1, 0): SECRET.encode(),
        ValueId("gemini", 1, 1): f"{SECRET}-ios".encode(),
        ValueId("gemini", 1, 2): f"{SECRET}-rest".encode(),
    }
    shown = run(vault, "keys", "get", "gemini", "--metadata").stdout
    assert "variant 1: anybody on ios; app 2.0+; from 2026-11-22 08:00" in shown
    assert "variant 2: tester, admin; attested; 50 %" in shown


@pytest.mark.parametrize(
    "variant",
    [
        "platform=ios",
        ":FILE",
        "platform=ios:",
        "platform:FILE",
        "platform=:FILE",
        "planet=mars:FILE",
        "attested=yes:FILE",
        "rollout=1,rollout=2:FILE",
        "rollout=200:FILE",
        "platform=ios:/no/such/file",
    ],
)
def test_a_variant_that_means_nothing_is_wrong_usage(variant: str, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text(SECRET)
    vault = Vault()
    given = variant.replace("FILE", str(file))
    result = run(vault, "keys", "put", "gemini", *ANYBODY, "--variant", given, stdin=SECRET)
    assert result.exit_code == 2
    assert vault.events == []


# ── get and list ─────────────────────────────────────────────────────────


def test_get_explains_that_values_cannot_be_read_back() -> None:
    vault = Vault().having("gemini")
    result = run(vault, "keys", "get", "gemini", COLUMNS="200")
    assert result.exit_code == 2
    assert "cannot be read back, by design" in result.stderr
    assert "--metadata" in result.stderr
    assert vault.events == []


def test_get_shows_everything_else() -> None:
    vault = Vault().having("gemini", "gemini", policy=EVERY_CONDITION)
    shown = run(vault, "keys", "get", "gemini", "--metadata").stdout
    assert shown == (
        "gemini\n"
        "  current   2, of 2026-11-22 08:00\n"
        "  pending   -\n"
        "  previous  1, of 2026-11-22 08:00; can be asked for until 2026-11-29 08:00\n"
        "  minimum   -\n"
        "  policy    analyst on ios, android; app 2.0.1+; attested; second factor;"
        " from 2026-11-22 08:00; until 2026-11-23 00:00; 12.5 %\n"
        "  used      by devices, which may keep it for 300 s\n"
        "  updated   2026-11-22 08:00 UTC\n"
    )
    as_json = json.loads(run(vault, "keys", "get", "gemini", "--metadata", "--json").stdout)
    assert as_json == members(vault.kept.keys["gemini"].members())
    unknown = run(vault, "keys", "get", "maps", "--metadata")
    assert unknown.exit_code == 1
    assert "not_found" in unknown.stderr


def test_a_key_of_the_proxy_says_where_it_is_used() -> None:
    vault = Vault().having("gemini")
    rules = ("--host", "api.example.com", "--path-prefix", "/v1/", "--method", "POST")
    assert run(vault, "keys", "proxy", "gemini", *rules, "--header", "x-key").exit_code == 0
    shown = run(vault, "keys", "get", "gemini", "--metadata").stdout
    assert "  used      at api.example.com/v1/, by the proxy alone\n" in shown
    assert " proxy " in run(vault, "keys", "list", COLUMNS="100").stdout


def test_list_reads_well_at_100_columns() -> None:
    vault = Vault().having("gemini", "gemini", policy=EVERYTHING)
    vault.having("MAPS_PLATFORM_ANDROID_KEY", promote=False).having(
        "x" * 64, policy=EVERY_CONDITION
    )
    result = run(vault, "keys", "list", COLUMNS="100")
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 100
    header = next(line for line in lines if line.startswith("name"))
    titles = ["name", "current", "pending", "prev. (until)", "policy", "cache", "updated"]
    assert re.split(r"  +", header) == titles
    shown = {line.split()[0]: re.split(r"  +", line)[1:] for line in lines if "300 s" in line}
    assert shown["gemini"] == ["2", "-", "1 (2026-11-29)", "analyst on ios,", "300 s", "2026-11-22"]
    assert shown["MAPS_PLATFORM_ANDROID_KEY"] == ["-", "3", "-", "nobody", "300 s", "2026-11-22"]
    assert result.stdout.count("x") == 64, "no part of a long name is cut off"


def test_list_of_an_empty_vault() -> None:
    assert run(Vault(), "keys", "list").stdout == "No keys.\n"
    assert json.loads(run(Vault(), "keys", "list", "--json").stdout) == {"keys": []}


# ── promote, rollback, minimum, delete ───────────────────────────────────


def test_promote() -> None:
    vault = Vault().having("gemini").having("gemini", promote=False)
    wrong = run(vault, "keys", "promote", "gemini", "--version", "7")
    assert wrong.exit_code == 1
    assert "The pending version of gemini is 2." in wrong.stderr
    result = run(vault, "keys", "promote", "gemini", "--version", "2", "--keep-previous", "1h")
    assert result.stdout == (
        "gemini: version 2 is current now. Version 1 can be asked for until 2026-11-22 09:00 UTC.\n"
    )
    assert vault.numbers("gemini") == (2, None, 1)
    again = run(vault, "keys", "promote", "gemini")
    assert again.exit_code == 1
    assert "no pending version" in again.stderr


def aborts(vault: Vault, *command: str) -> None:
    """Whoever says no, or nothing, has changed nothing; who says yes has."""
    before, values = vault.kept, dict(vault.values)
    for answer in ("n\n", "", "\n"):
        refused = run(vault, "keys", *command, stdin=answer)
        assert refused.exit_code == 1
        assert "cannot be undone" in refused.stderr
    assert (vault.kept, vault.values) == (before, values)
    assert changing(vault) == []
    assert run(vault, "keys", *command, stdin="y\n").exit_code == 0
    after = vault.kept
    vault.kept, vault.values = before, values
    result = run(vault, "keys", *command, "--yes")
    assert result.exit_code == 0
    assert "cannot be undone" not in result.stderr
    assert vault.kept == after != before


def test_promote_with_minimum_asks_first_and_destroys() -> None:
    vault = Vault().having("gemini").having("gemini", promote=False)
    aborts(vault, "promote", "gemini", "--minimum")
    assert vault.numbers("gemini") == (2, None, None)
    assert list(vault.values) == [ValueId("gemini", 2)]


def test_rollback_asks_only_when_it_destroys() -> None:
    vault = Vault().having("gemini", "gemini")
    result = run(vault, "keys", "rollback", "gemini", stdin="")
    assert result.stdout == "gemini: version 1 is current again, and version 2 pending.\n"
    vault = Vault().having("gemini", "gemini").having("gemini", promote=False)
    aborts(vault, "rollback", "gemini")
    assert vault.numbers("gemini") == (1, 3, None)
    nothing = run(Vault().having("gemini"), "keys", "rollback", "gemini")
    assert nothing.exit_code == 1
    assert "no version to go back to" in nothing.stderr


@pytest.mark.parametrize("other", [{"promote": False}, {}], ids=["put", "put --promote"])
def test_rollback_destroys_no_version_that_came_while_it_looked(other: dict[str, Any]) -> None:
    @dataclass
    class Shared(Vault):
        """Another operator puts a version after each look."""

        def invoke(self, **call: Any) -> dict[str, Any]:
            reply = super().invoke(**call)
            if self.commands[-1] == "keys.get":
                self.having("gemini", **other)
            return reply

    vault = Shared().having("gemini", "gemini")
    result = run(vault, "keys", "rollback", "gemini", "--yes")
    assert result.exit_code == 1
    assert "conflict: The current version of gemini is" in result.stderr
    assert ValueId("gemini", 2) in vault.values, "what was current is kept"
    assert ValueId("gemini", 3) in vault.values


def test_minimum_asks_only_when_it_destroys() -> None:
    vault = Vault().having("gemini")
    result = run(vault, "keys", "minimum", "gemini", "1", stdin="")
    assert result.stdout == "gemini: no version below 1 is given out.\n"
    too_high = run(vault, "keys", "minimum", "gemini", "2", stdin="")
    assert too_high.exit_code == 1
    assert "no current version of that number" in too_high.stderr
    vault = Vault().having("gemini", "gemini")
    aborts(vault, "minimum", "gemini", "2")
    assert vault.numbers("gemini") == (2, None, None)


def test_delete() -> None:
    vault = Vault().having("gemini", "gemini", "maps")
    aborts(vault, "delete", "gemini")
    assert set(vault.kept.keys) == {"maps"}
    vault = Vault().having("gemini", "gemini")
    deleted = run(vault, "keys", "delete", "gemini", "--yes")
    assert deleted.stdout == "Deleted gemini, versions 1, 2.\n"


def test_delete_of_the_pending_version_only() -> None:
    vault = Vault().having("gemini").having("gemini", promote=False)
    aborts(vault, "delete", "gemini", "--pending")
    assert vault.numbers("gemini") == (1, None, None)
    result = run(vault, "keys", "delete", "gemini", "--pending", "--yes")
    assert "no pending version" in result.stderr


# ── who it was ───────────────────────────────────────────────────────────


def test_the_caller_is_named_once_for_all_commands() -> None:
    vault = Vault().having("gemini", "gemini")
    run(vault, "keys", "rollback", "gemini")
    assert vault.commands == ["keys.get", "keys.rollback"]
    assert vault.operators == [ARN, ARN]
    assert vault.asked_who == 1


@pytest.mark.parametrize(
    "identity",
    [
        client_error("GetCallerIdentity", "AccessDenied"),
        "arn with a space",
        "a" * 513,
        "",
        "arn\n",
    ],
)
def test_no_command_fails_because_nobody_knows_the_caller(identity: str | Exception) -> None:
    vault = Vault(identity=identity).having("gemini")
    assert run(vault, "keys", "list").exit_code == 0
    assert vault.operators == [""]


# ── completion ───────────────────────────────────────────────────────────


def test_names_complete_from_the_stack() -> None:
    vault = Vault().having("gemini", "maps")
    context = CompletionContext({"stack": "given"}, vault)
    assert key_names(cast("Any", context), "ge") == ["gemini"]
    assert key_names(cast("Any", context), "") == ["gemini", "maps"]
    assert vault.stacks == ["given", "given"]
    assert vault.asked_who == 0


@dataclass
class CompletionContext:
    params: dict[str, Any]
    obj: Any


def test_every_name_of_a_key_completes() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    commands = cast("TyperGroup", group.commands["keys"]).commands
    named = {
        command: parameter
        for command, each in commands.items()
        for parameter in each.params
        if parameter.name == "name"
    }
    assert set(commands) - set(named) == {"list", "import"}
    for command, parameter in named.items():
        context = commands[command].make_context(
            command, [], obj=Vault().having("gemini", "maps"), resilient_parsing=True
        )
        found = [item.value for item in parameter.shell_complete(context, "ge")]
        assert found == ["gemini"], command


def test_completion_is_quiet_when_there_is_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    vault = Vault(describe_error=client_error("DescribeStacks", "AccessDenied"))
    assert key_names(cast("Any", CompletionContext({}, vault)), "") == []
    assert capfd.readouterr() == ("", "")


def test_completion_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_WAIT_SECONDS", 0.01)
    answer = Event()

    class Slow(Vault):
        def describe_stacks(self, *, StackName: str) -> dict[str, Any]:  # noqa: N803
            assert answer.wait(60)
            return super().describe_stacks(StackName=StackName)

    try:
        assert key_names(cast("Any", CompletionContext({}, Slow().having("gemini"))), "") == []
    finally:
        answer.set()


def test_completion_is_installed(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "keyferry_cli", "--install-completion", "bash"],
        env=os.environ
        | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "complete -o default -F _keyferry_completion keyferry" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


# ── what docs/ show ──────────────────────────────────────────────────────


def documented(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands_in_documents() -> list[str]:
    return [
        line
        for name in ("README.md", "docs/keys.md", "docs/login.md")
        for block in re.findall(
            r"^```[^\n]*\n(.*?)^```$", documented(name), re.MULTILINE | re.DOTALL
        )
        for line in block.splitlines()
        if line.startswith("keyferry keys ")
    ]


def test_commands_are_shown() -> None:
    shown = {line.split()[2] for line in commands_in_documents()}
    assert {"put", "promote", "policy", "import", "audit"} <= shown


@pytest.mark.parametrize("line", commands_in_documents())
def test_a_command_that_is_shown_is_understood(line: str) -> None:
    _, _, name, *arguments = shlex.split(line.partition(" < ")[0], comments=True)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    commands = cast("TyperGroup", group.commands["keys"]).commands
    commands[name].make_context(name, arguments)


def test_numbers_in_documents() -> None:
    text = re.sub(r"\s+", " ", documented("docs/keys.md"))
    assert f"longer than {MAX_VALUE_BYTES:,} bytes" in text
    assert f"`--cache-seconds`, {DEFAULT_CACHE_SECONDS} without it" in text
    assert f"up to {MAX_DRAFTS} at a time" in text
    assert f"below {MIN_LENGTH} characters" in text
    vault = Vault()
    run(vault, "keys", "put", "gemini", stdin=SECRET)
    assert vault.events[0]["arguments"]["previous_seconds"] == 7 * 86_400
    assert "(7 days without it" in text
