"""`keyferry users import` and `users invite` against a session that stands in for AWS."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keyferry.users import passwords
from tests.unit.test_cli_commands import FakeAws, run
from tests.unit.test_stored_hashes import FIREBASE

HASH = "$2b$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui"


@dataclass
class Importing(FakeAws):
    """Imports whoever is not ``there`` yet, as the operator function does."""

    there: set[str] = field(default_factory=set)
    breaks_after: int = 1_000_000

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        event = json.loads(Payload)
        if len(self.events) >= self.breaks_after:
            error = {"errorType": "Sandbox.Timedout"}
            payload = io.BytesIO(json.dumps(error).encode())
            return {"Payload": payload, "FunctionError": "Unhandled"}
        self.events.append(event)
        results = []
        for user in event["arguments"]["users"]:
            known = user["username"] in self.there
            results.append({"outcome": "already_there" if known else "imported"})
            if not event["arguments"]["dry_run"]:
                self.there.add(user["username"])
        reply = {"ok": True, "result": {"results": results}}
        return {"Payload": io.BytesIO(json.dumps(reply).encode())}


def imported(
    fake: FakeAws, file: Path, *options: str, exit_code: int = 0
) -> tuple[dict[str, Any], Any]:
    result = run(fake, "users", "import", str(file), "--json", *options)
    assert result.exit_code == exit_code, result.output
    assert HASH not in result.output
    return json.loads(result.stdout), result


def write(folder: Path, name: str, *lines: str) -> Path:
    file = folder / name
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def test_csv(tmp_path: Path) -> None:
    fake = Importing(there={"ben"})
    file = write(
        tmp_path,
        "users.csv",
        "\ufeffusername,password_hash,roles,disabled",
        f"ana,{HASH},analyst admin,false",
        f"ben,{HASH},,",
        f'"car,l",{HASH},,TRUE',
    )
    report, _ = imported(fake, file)
    assert report == {"dry_run": False, "imported": 2, "already_there": 1, "refused": []}
    (event,) = fake.events
    assert event["command"] == "users.import"
    assert event["arguments"] == {
        "dry_run": False,
        "users": [
            {
                "username": "ana",
                "password_hash": HASH,
                "roles": ["analyst", "admin"],
                "disabled": False,
            },
            {"username": "ben", "password_hash": HASH, "roles": [], "disabled": False},
            {"username": "car,l", "password_hash": HASH, "roles": [], "disabled": True},
        ],
    }


def test_refused_rows_are_named_by_line_and_hold_up_no_other(tmp_path: Path) -> None:
    fake = Importing()
    secret = "a-password-in-the-wrong-column"
    file = write(
        tmp_path,
        "users.jsonl",
        json.dumps({"username": "ana", "password_hash": HASH}),
        "",
        "not json",
        "[1]",
        json.dumps({"username": "ben", "password_hash": secret}),
        json.dumps({"username": "ben", "password": secret}),
        json.dumps({"username": "ben", "password_hash": HASH, secret: 1}),
        json.dumps({"username": "ANA", "password_hash": HASH}),
        json.dumps({"username": "", "password_hash": HASH}),
        json.dumps({"username": "ben", "password_hash": HASH, "roles": "admin"}),
        json.dumps({"username": "ben", "password_hash": "$2b$31$" + HASH[7:]}),
        json.dumps({"username": "dan", "password_hash": HASH}),
    )
    report, result = imported(fake, file, exit_code=1)
    assert secret not in result.output
    assert report["imported"] == 2
    reasons = {each["line"]: each["reason"] for each in report["refused"]}
    assert reasons == {
        3: "not JSON",
        4: "not a JSON object",
        5: "not a supported password hash",
        6: "passwords are not imported, only hashes (password_hash)",
        7: "an unknown member: Extra inputs are not permitted",
        8: "the same user name as in line 1",
        9: "user name: length",
        10: "roles: Input should be a valid list",
        11: "bcrypt: the cost asks for too much time, or is below 4",
    }
    sent = [user["username"] for event in fake.events for user in event["arguments"]["users"]]
    assert sent == ["ana", "dan"]


def test_batches_and_a_second_run(tmp_path: Path) -> None:
    rows = [json.dumps({"username": f"user{n}", "password_hash": HASH}) for n in range(60)]
    file = write(tmp_path, "users.jsonl", *rows)
    fake = Importing(breaks_after=1)
    broken = run(fake, "users", "import", str(file))
    assert broken.exit_code == 1
    assert len(fake.there) == 25
    fake.breaks_after = 1_000
    report, _ = imported(fake, file)
    assert (report["imported"], report["already_there"]) == (35, 25)
    report, _ = imported(fake, file)
    assert (report["imported"], report["already_there"]) == (0, 60)
    batches = [event["arguments"]["users"] for event in fake.events]
    assert max(map(len, batches)) == 25


def test_dry_run(tmp_path: Path) -> None:
    fake = Importing(there={"ben"})
    file = write(tmp_path, "u.csv", "username,password_hash", f"ana,{HASH}", f"ben,{HASH}")
    result = run(fake, "users", "import", str(file), "--dry-run")
    assert result.stdout == "Would import 1 user(s); 1 already there; 0 refused.\n"
    assert fake.events[0]["arguments"]["dry_run"] is True
    assert fake.there == {"ben"}


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        ("u.csv", ["username,password", "ana,x"], "not imported"),
        ("u.csv", ["username", "ana"], "header"),
        ("u.csv", ["username,password_hash,email", "ana,x,y"], "header"),
        ("u.csv", [], "header"),
        ("u.json", ["[]"], ".jsonl"),
    ],
)
def test_a_file_that_is_not_one(tmp_path: Path, name: str, lines: list[str], says: str) -> None:
    fake = Importing()
    result = run(fake, "users", "import", str(write(tmp_path, name, *lines)))
    assert result.exit_code == 2
    assert says in result.stderr
    assert fake.events == []
    assert run(fake, "users", "import", str(tmp_path / "none.csv")).exit_code == 2


def test_rows_of_another_length(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "u.csv",
        "username,password_hash,disabled",
        f"ana,{HASH}",
        f"ben,{HASH},false,x",
        f"dan,{HASH},maybe",
    )
    report, _ = imported(Importing(), file, exit_code=1)
    assert [(each["line"], each["reason"]) for each in report["refused"]] == [
        (2, "not as many fields as the header has"),
        (3, "not as many fields as the header has"),
        (4, "disabled: neither true nor false"),
    ]


def test_many_refused_rows_are_cut_short_on_a_terminal(tmp_path: Path) -> None:
    file = write(tmp_path, "u.jsonl", *["x"] * 30)
    result = run(Importing(), "users", "import", str(file))
    assert result.stderr.count("not JSON") == 20
    assert "and 10 more" in result.stderr
    assert result.stdout == "Imported 0 user(s); 0 already there; 30 refused.\n"


PARAMETERS = """hash_config {
  algorithm: SCRYPT,
  base64_signer_key: %(signer_key)s,
  base64_salt_separator: %(salt_separator)s,
  rounds: 8,
  mem_cost: 14,
}
"""


def test_firebase(tmp_path: Path) -> None:
    """The parameters as the console shows them; the signer key is sent nowhere."""
    fake = Importing()
    parameters = tmp_path / "parameters"
    parameters.write_text(PARAMETERS % FIREBASE)
    row = {
        "username": "ana@example.com",
        "password_hash": FIREBASE["password_hash"],
        "password_salt": FIREBASE["salt"],
    }
    file = write(
        tmp_path,
        "users.jsonl",
        json.dumps(row),
        json.dumps({**row, "username": "b", "password_salt": "A"}),
    )
    report, result = imported(fake, file, "--firebase-parameters", str(parameters), exit_code=1)
    assert report["imported"] == 1
    assert [each["line"] for each in report["refused"]] == [2]
    (user,) = fake.events[0]["arguments"]["users"]
    assert FIREBASE["signer_key"][:20] not in json.dumps(fake.events) + result.output
    assert passwords.verify_password(b"user1password", user["password_hash"])


def test_firebase_parameters_that_are_none(tmp_path: Path) -> None:
    parameters = write(tmp_path, "parameters", "rounds: 8")
    file = write(tmp_path, "users.jsonl", "{}")
    result = run(
        Importing(), "users", "import", str(file), "--firebase-parameters", str(parameters)
    )
    assert result.exit_code == 2
    assert "base64_signer_key" in result.stderr


def test_invite() -> None:
    code = "AAAQ-EAYE-AUDA-OCAJ-BIFQ-YDIO-B4IB-CEQT"
    fake = FakeAws({"username": "ana", "roles": [], "code": code, "expires_at": 1_795_334_400})
    result = run(fake, "users", "invite", "ana", "--role", "analyst", "--days", "2")
    assert result.stdout == f"Code for ana, good once until 2026-11-22 08:00 UTC:\n{code}\n"
    arguments = {"username": "ana", "roles": ["analyst"], "expires_in": 172_800}
    assert fake.events == [{"command": "users.invite", "arguments": arguments}]
    assert run(fake, "users", "invite", "ana", "--days", "31").exit_code == 2
