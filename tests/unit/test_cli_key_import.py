"""`keyferry keys import` against the operator function's own commands, over a vault in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keyferry.operator.key_commands import MAX_DRAFTS
from keyferry.vault.model import MAX_VALUE_BYTES, ValueId
from keyferry.vault.store import MAX_WRITES
from tests.unit.test_cli_commands import SECRET, client_error, run
from tests.unit.test_cli_keys import ANYBODY, Vault, changing

ONE, TWO, THREE = (f"{SECRET}-{n}-kX92vLq7TmZ4" for n in range(3))


def write(folder: Path, text: str, name: str = ".env") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def imported(
    vault: Vault, file: Path | str, *options: str, exit_code: int = 0, stdin: str | None = None
) -> tuple[dict[str, Any], Any]:
    result = run(vault, "keys", "import", str(file), *options, "--json", stdin=stdin)
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout), result


def reasons(report: dict[str, Any]) -> dict[str, str]:
    return {each["where"]: each["reason"] for each in report["refused"]}


def test_a_env_file(tmp_path: Path) -> None:
    file = write(tmp_path, f"# keys\nexport GEMINI={ONE}\nMAPS='{TWO}'\n")
    vault = Vault().having("MAPS", policy={"roles": ["*"]})
    report, result = imported(vault, file)
    assert report == {
        "dry_run": False,
        "stored": [
            {"name": "GEMINI", "version": 2, "new": True, "policy": None},
            {
                "name": "MAPS",
                "version": 2,
                "new": False,
                "policy": report["stored"][1]["policy"],
            },
        ],
        "refused": [],
        "failed": [],
        "left": [],
        "failure": None,
    }
    assert vault.numbers("GEMINI") == (None, 2, None)
    assert vault.numbers("MAPS") == (1, 2, None), "devices keep what they have"
    assert vault.values[ValueId("GEMINI", 2)] == ONE.encode()
    assert vault.commands == ["keys.list", "keys.put_all"]
    assert "keys promote" in result.stderr
    assert "without a policy no device receives GEMINI;" in result.stderr


def test_the_report_for_people(tmp_path: Path) -> None:
    file = write(tmp_path, f"GEMINI={ONE}\nMAPS={TWO}\nBAD NAME={THREE}\n")
    vault = Vault().having("MAPS")
    result = run(vault, "keys", "import", str(file), *ANYBODY)
    assert result.exit_code == 1
    assert result.stdout == (
        "Stored 2 key(s): 1 new, 1 with a new version; 1 row(s) refused.\n"
        "  GEMINI, version 2\n"
        "  MAPS, version 2\n"
    )
    assert "line 3: not a name for a key" in result.stderr


@pytest.mark.parametrize(
    ("name", "given"), [("keys.json", "file"), ("keys.txt", "file"), ("-", "-")]
)
def test_json_by_name_or_by_content(name: str, given: str, tmp_path: Path) -> None:
    text = json.dumps({"GEMINI": ONE, "MAPS": TWO})
    vault = Vault()
    if given == "-":
        report, _ = imported(vault, "-", stdin=text)
    else:
        report, _ = imported(vault, write(tmp_path, text, name))
    assert [each["name"] for each in report["stored"]] == ["GEMINI", "MAPS"]
    assert vault.values == {
        ValueId("GEMINI", 1): ONE.encode(),
        ValueId("MAPS", 1): TWO.encode(),
    }


def test_env_from_standard_input() -> None:
    vault = Vault()
    imported(vault, "-", stdin=f"GEMINI={ONE}\n")
    assert vault.values == {ValueId("GEMINI", 1): ONE.encode()}


def test_refused_rows_are_named_by_line_and_hold_up_no_other(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"GEMINI={ONE}\nBAD NAME={TWO}\nEMPTY=\nLONG={'é' * MAX_VALUE_BYTES}\n"
        f"TWICE={TWO}\nPLACE=your-api-key\nREF=${{GEMINI}}\nTWICE={THREE}\n{SECRET}+/{ONE}==\n",
    )
    vault = Vault()
    report, result = imported(vault, file, exit_code=1)
    assert [each["name"] for each in report["stored"]] == ["GEMINI"]
    found = reasons(report)
    assert list(found) == [f"line {n}" for n in range(2, 10)]
    assert list(vault.kept.keys) == ["GEMINI"]
    assert "not a name" in found["line 2"]
    assert found["line 3"] == "empty"
    assert found["line 4"] == f"longer than {MAX_VALUE_BYTES} bytes"
    assert found["line 5"] == "the same name more than once"
    assert "placeholder" in found["line 6"]
    assert "not expanded" in found["line 7"]
    assert found["line 8"] == "the same name as in line 5"
    assert "not a name" in found["line 9"]
    # Neither values nor what stands in the place of a name.
    for text in (SECRET, "your-api-key", "BAD NAME"):
        assert text not in result.output


def test_refused_members_of_json(tmp_path: Path) -> None:
    text = f'{{"A": "{ONE}", "B": 7, "C": {{"A": "x"}}, "D": "\\ud800 {TWO}", "A": "{THREE}"}}'
    vault = Vault()
    report, _ = imported(vault, write(tmp_path, text, "keys.json"), exit_code=1)
    assert reasons(report) == {
        "member 1": "the same name more than once",
        "member 2": "not a string",
        "member 3": "not a string",
        "member 4": "not Unicode text",
        "member 5": "the same name as in member 1",
    }
    assert changing(vault) == []


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("keys.json", "[1]", "not a JSON object"),
        ("keys.json", '{"A": ', "not JSON"),
        ("keys.json", "[" * 100_000, "not JSON"),
        (".env", f"A={SECRET}\nB='{SECRET}\n", "line 2: the single quote"),
        (".env", f"A=1\n{SECRET}\n", "line 2: not NAME=VALUE"),
    ],
)
def test_a_file_that_cannot_be_read_is_wrong_usage(
    name: str, text: str, says: str, tmp_path: Path
) -> None:
    vault = Vault()
    result = run(vault, "keys", "import", str(write(tmp_path, text, name)), COLUMNS="200")
    assert result.exit_code == 2
    assert says in result.stderr
    assert vault.events == []


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"A=\xe9")
    for file in (tmp_path / "latin", tmp_path / "missing", tmp_path):
        assert run(Vault(), "keys", "import", str(file)).exit_code == 2


def test_a_name_that_no_row_has_is_told(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("GEMINI=one-of-the-real-keys\n")
    arguments = ("--only", "GEMINI", "--only", "GEMNI", "--only", "MAPS_*")
    result = run(Vault(), "keys", "import", str(file), *arguments)
    assert result.exit_code == 0
    assert "warning: --only GEMNI: " in result.stderr
    assert "warning: --only MAPS_*: " in result.stderr
    assert "--only GEMINI:" not in result.stderr


def test_only_some_of_the_names(tmp_path: Path) -> None:
    file = write(tmp_path, f"MAPS_IOS={ONE}\nMAPS_WEB={TWO}\nGEMINI={THREE}\nPORT=8080\nX=${{Y}}\n")
    for options, names in (
        (("--only", "MAPS_*"), ["MAPS_IOS", "MAPS_WEB"]),
        (("--only", "MAPS_*", "--except", "*_WEB", "--only", "GEMINI"), ["MAPS_IOS", "GEMINI"]),
        (("--except", "PORT", "--except", "X"), ["MAPS_IOS", "MAPS_WEB", "GEMINI"]),
        (("--only", "maps_*"), []),
    ):
        report, _ = imported(Vault(), file, *options)
        assert [each["name"] for each in report["stored"]] == names


def test_placeholders_are_stored_when_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path, f"GEMINI=your-api-key\nMAPS={ONE}\n")
    vault = Vault()
    report, _ = imported(vault, file, "--with-placeholders")
    assert len(report["stored"]) == 2
    assert vault.values[ValueId("GEMINI", 1)] == b"your-api-key"


def test_one_policy_for_all(tmp_path: Path) -> None:
    file = write(tmp_path, f"GEMINI={ONE}\nMAPS={TWO}\n")
    vault = Vault()
    options = ("--role", "analyst", "--platform", "ios", "--rollout", "5", "--cache-seconds", "60")
    _, result = imported(vault, file, *options, "--promote", "--keep-previous", "1h")
    assert "warning" not in result.stderr
    for entry in vault.kept.keys.values():
        assert entry.policy is not None
        assert (entry.policy.roles, entry.policy.rollout) == (("analyst",), 500)
        assert entry.cache_seconds == 60
        assert entry.current is not None
        assert entry.pending is None


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, f"GEMINI={ONE}\nMAPS={TWO}\nNONE=\n")
    vault = Vault().having("MAPS")
    before = vault.kept
    report, result = imported(vault, file, "--dry-run", exit_code=1)
    assert report["dry_run"] is True
    assert report["stored"] == [{"name": "GEMINI", "new": True}, {"name": "MAPS", "new": False}]
    assert result.stderr == ""
    assert (vault.kept, vault.commands) == (before, ["keys.list"])
    told = run(vault, "keys", "import", str(file), "--dry-run").stdout
    assert told.startswith("Would store 2 key(s): 1 new, 1 with a new version; 1 row(s) refused.")


def test_a_pending_version_is_not_lost(tmp_path: Path) -> None:
    file = write(tmp_path, f"GEMINI={ONE}\nMAPS={TWO}\n")
    vault = Vault().having("MAPS", promote=False)
    report, _ = imported(vault, file, exit_code=1)
    assert [each["name"] for each in report["stored"]] == ["GEMINI"]
    assert reasons(report) == {"line 2": "version 1 of this key is pending (--replace-pending)"}
    assert vault.values[ValueId("MAPS", 1)] == b"before"
    imported(vault, file, "--only", "MAPS", "--replace-pending")
    assert vault.numbers("MAPS") == (None, 3, None)


def many(count: int) -> str:
    return "".join(f"KEY_{n}={ONE}{n}\n" for n in range(count))


def test_fifty_at_a_time(tmp_path: Path) -> None:
    vault = Vault()
    report, _ = imported(vault, write(tmp_path, many(120)))
    assert len(report["stored"]) == 120
    sent = [len(e["arguments"]["keys"]) for e in vault.events if "put_all" in e["command"]]
    assert sent == [MAX_DRAFTS, MAX_DRAFTS, 20]
    assert len(vault.stacks) == 1
    assert vault.asked_who == 1


def test_what_is_replaced_counts_in_a_transaction(tmp_path: Path) -> None:
    names = [f"KEY_{n}" for n in range(60)]
    variants = [{"platforms": ["ios"], "value": "before"}] * 3
    vault = Vault().having(*names, *names, variants=variants)
    imported(vault, write(tmp_path, many(60)), "--promote")
    sent = [len(e["arguments"]["keys"]) for e in vault.events if "put_all" in e["command"]]
    # One row that comes, and four that go.
    assert sent == [MAX_WRITES // 5] * 3 + [3]


def test_a_second_run_after_a_failure_half_way(tmp_path: Path) -> None:
    file = write(tmp_path, many(120))
    vault = Vault(breaks_after=1)
    report, result = imported(vault, file, exit_code=1)
    assert [each["name"] for each in report["stored"]] == [f"KEY_{n}" for n in range(50)]
    assert report["failed"] == [f"KEY_{n}" for n in range(50, 100)]
    assert report["left"] == [f"KEY_{n}" for n in range(100, 120)]
    assert "TooManyRequestsException" in report["failure"]
    assert "70 key(s) were not stored" in result.stderr
    assert "--only KEY_50 " in result.stderr
    vault.breaks_after = 1_000
    before = dict(vault.values)
    report, _ = imported(vault, file, exit_code=1)
    assert [each["name"] for each in report["stored"]] == [f"KEY_{n}" for n in range(50, 120)]
    assert all("is pending" in each["reason"] for each in report["refused"])
    assert len(report["refused"]) == 50
    assert len(vault.values) == 120
    assert before.items() <= vault.values.items()


def test_a_stack_that_is_not_there(tmp_path: Path) -> None:
    error = client_error("DescribeStacks", "AccessDenied")
    result = run(Vault(describe_error=error), "keys", "import", str(write(tmp_path, many(1))))
    assert result.exit_code == 1
    assert "may not do DescribeStacks" in result.stderr
