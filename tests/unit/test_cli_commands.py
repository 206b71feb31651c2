"""The `keyferry` command against a session that stands in for AWS."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import segno
from botocore import exceptions as aws
from typer.testing import CliRunner

from keyferry_cli import secret_input, totp
from keyferry_cli.app import app

SECRET = "AIza-very-secret"
ARN = "arn:aws:sts::123456789012:assumed-role/operators/ben"


@dataclass
class FakeAws:
    """A `boto3.Session` whose account holds one stack with the functions that operators invoke."""

    result: dict[str, Any] = field(default_factory=dict)
    reply: Any = None
    function_error: str | None = None
    describe_error: Exception | None = None
    invoke_error: Exception | None = None
    identity: str | Exception = ARN
    outputs: list[dict[str, str]] = field(
        default_factory=lambda: [
            {"OutputKey": "OperatorFunction", "OutputValue": "op:live"},
            {"OutputKey": "KeyringFunction", "OutputValue": "ring:live"},
        ]
    )
    events: list[dict[str, Any]] = field(default_factory=list)
    """What the functions were sent, beside the operator's name."""
    operators: list[str] = field(default_factory=list)
    asked_who: int = 0
    stacks: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)

    def client(self, service_name: str, **_: Any) -> Any:
        assert service_name in ("cloudformation", "lambda", "sts")
        return self

    def describe_stacks(self, *, StackName: str) -> dict[str, Any]:  # noqa: N803
        self.stacks.append(StackName)
        if self.describe_error:
            raise self.describe_error
        return {"Stacks": [{"Outputs": self.outputs, "StackStatus": "CREATE_COMPLETE"}]}

    def get_caller_identity(self) -> dict[str, Any]:
        self.asked_who += 1
        if isinstance(self.identity, Exception):
            raise self.identity
        return {"Arn": self.identity}

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        self.functions.append(FunctionName)
        event = json.loads(Payload)
        if "operator" in event:
            self.operators.append(event.pop("operator"))
        self.events.append(event)
        if self.invoke_error:
            raise self.invoke_error
        reply = self.reply if self.reply is not None else {"ok": True, "result": self.result}
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        response: dict[str, Any] = {"Payload": io.BytesIO(data)}
        return response | ({"FunctionError": self.function_error} if self.function_error else {})


def run(fake: FakeAws, *arguments: str, stdin: str | bytes | None = None, **env: str) -> Any:
    """Run the command; nothing that was given as a secret may come out again, whatever happens."""
    result = CliRunner().invoke(app, list(arguments), input=stdin, obj=fake, env=env)
    assert SECRET not in result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def client_error(operation: str, code: str, message: str = "") -> aws.ClientError:
    return aws.ClientError({"Error": {"Code": code, "Message": message}}, operation)


USER = {"sub": "s-1", "username": "ana", "roles": ["analyst"], "status": "active"}
SHOWN = USER | {
    "roles": ["analyst", "user"],
    "password": True,
    "second_factor": False,
    "created_at": 1_790_000_000,
    "sessions": 2,
}
BEGUN = {
    "sub": "s-1",
    "secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
    "otpauth_uri": "otpauth://totp/keyferry%3Aana?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
}
CONFIRMED = {"sub": "s-1", "recovery_codes": [f"RRRR-{number}" for number in range(10)]}


# ── commands ─────────────────────────────────────────────────────────────


def test_users_add_sends_the_password_from_standard_input() -> None:
    fake = FakeAws(USER)
    result = run(fake, "users", "add", "ana", "--role", "analyst", stdin=SECRET + "\n")
    assert result.exit_code == 0
    assert result.stdout == "Added user ana (analyst), sub s-1.\n"
    arguments = {"username": "ana", "password": SECRET, "roles": ["analyst"]}
    assert fake.events == [{"command": "users.add", "arguments": arguments}]
    assert fake.functions == ["op:live"]


def test_users_set_password_sends_it_from_a_file(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(SECRET + "\n")
    fake = FakeAws({"sub": "s-1", "revoked": 2})
    result = run(fake, "users", "set-password", "ana", "--password-file", str(password))
    assert result.exit_code == 0
    assert result.stdout == "Set the password of ana; ended 2 session(s).\n"
    arguments = {"username": "ana", "password": SECRET}
    assert fake.events == [{"command": "users.set_password", "arguments": arguments}]


@pytest.mark.parametrize(
    ("command", "says"),
    [("disable", "Disabled ana; ended 2 session(s).\n"), ("enable", "Enabled ana.\n")],
)
def test_users_are_disabled_and_enabled(command: str, says: str) -> None:
    fake = FakeAws({"sub": "s-1", "status": "disabled", "revoked": 2})
    assert run(fake, "users", command, "ana").stdout == says
    assert fake.events == [{"command": f"users.{command}", "arguments": {"username": "ana"}}]
    shown = run(fake, "users", command, "ana", "--json").stdout
    assert json.loads(shown) == fake.result


def test_users_link() -> None:
    arguments = {"username": "ana", "provider": "google", "subject": "118-ana"}
    fake = FakeAws({"sub": "s-1", "provider": "google", "subject": "118-ana"})
    options = ("--provider", "google", "--subject", "118-ana")
    result = run(fake, "users", "link", "ana", *options)
    assert result.stdout == "118-ana at google now logs in as ana.\n"
    assert fake.events == [{"command": "users.link", "arguments": arguments}]
    assert run(fake, "users", "link", "ana", *options[:2]).exit_code == 2


def test_users_unlink() -> None:
    fake = FakeAws({"sub": "s-1", "provider": "google", "subject": "118-ana", "revoked": 2})
    options = ("--provider", "google", "--subject", "118-ana")
    result = run(fake, "users", "unlink", "ana", *options)
    assert result.stdout == "118-ana at google no longer logs in as ana; ended 2 session(s).\n"
    arguments = {"username": "ana", "provider": "google", "subject": "118-ana"}
    assert fake.events == [{"command": "users.unlink", "arguments": arguments}]


@pytest.mark.parametrize(
    "command",
    [
        ("disable",),
        ("enable",),
        ("link", "--provider", "google", "--subject", "118-ana"),
        ("unlink", "--provider", "google", "--subject", "118-ana"),
        ("reset-second-factor", "--yes"),
        ("show",),
        ("roles", "--none"),
        ("totp", "--code", "123456"),
    ],
)
def test_users_are_named_by_name_or_by_sub(command: tuple[str, ...]) -> None:
    named = {"provider": "google", "subject": "118-ana", "revoked": 2}
    fake = FakeAws(SHOWN | CONFIRMED | named)
    result = run(fake, "users", *command, "--sub", "s-1")
    assert result.exit_code == 0
    assert "s-1" in result.stdout
    (event,) = fake.events
    assert event["arguments"]["sub"] == "s-1"
    assert "username" not in event["arguments"]
    assert run(fake, "users", *command).exit_code == 2
    assert run(fake, "users", *command, "ana", "--sub", "s-1").exit_code == 2
    assert fake.events == [event]


def test_users_show() -> None:
    fake = FakeAws(SHOWN)
    result = run(fake, "users", "show", "ana")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines == [
        *("user name ana", "sub s-1", "status active", "roles analyst, user", "password yes"),
        *("second factor no", "created 2026-09-21 14:13 UTC", "sessions 2"),
    ]
    assert fake.events == [{"command": "users.show", "arguments": {"username": "ana"}}]
    assert json.loads(run(fake, "users", "show", "ana", "--json").stdout) == SHOWN


def test_users_roles() -> None:
    fake = FakeAws({"sub": "s-1", "username": "ana", "roles": ["a", "b"], "sessions": 2})
    result = run(fake, "users", "roles", "ana", "--role", "a", "--role", "b")
    assert result.stdout == "Roles of ana: a, b; told 2 session(s).\n"
    fake.result["roles"] = []
    assert run(fake, "users", "roles", "ana", "--none").stdout.startswith("Roles of ana: none;")
    assert [event["arguments"]["roles"] for event in fake.events] == [["a", "b"], []]
    for wrong in ((), ("--none", "--role", "a")):
        assert run(fake, "users", "roles", "ana", *wrong).exit_code == 2
    assert len(fake.events) == 2


class TestTotp:
    @pytest.fixture
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(totp, "_at_a_terminal", lambda: True)

    @pytest.mark.usefixtures("terminal")
    def test_qr_code_then_a_code_then_recovery_codes(self) -> None:
        fake = FakeAws(BEGUN | CONFIRMED)
        result = run(fake, "users", "totp", "ana", stdin="123456\n")
        assert result.exit_code == 0, result.output
        assert fake.events == [
            {"command": "users.begin_totp", "arguments": {"username": "ana"}},
            {"command": "users.confirm_totp", "arguments": {"username": "ana", "code": "123456"}},
        ]
        # What may end up in a file has the recovery codes in it, and neither secret nor picture.
        assert "RRRR-0" in result.stdout
        assert "RRRR-9" in result.stdout
        assert BEGUN["secret"] not in result.stdout
        assert "█" not in result.stdout
        assert BEGUN["secret"] in result.stderr
        drawn = io.StringIO()
        segno.make_qr(BEGUN["otpauth_uri"]).terminal(drawn, compact=True)
        assert drawn.getvalue().strip() in result.stderr

    @pytest.mark.usefixtures("terminal")
    def test_without_a_code_nothing_is_confirmed(self) -> None:
        fake = FakeAws(BEGUN)
        assert run(fake, "users", "totp", "ana", stdin="").exit_code == 1
        assert [event["command"] for event in fake.events] == ["users.begin_totp"]

    def test_no_picture_but_for_a_terminal(self) -> None:
        fake = FakeAws(BEGUN)
        result = run(fake, "users", "totp", "ana", stdin="123456\n")
        assert result.exit_code == 2
        assert fake.events == []

    def test_in_two_steps_for_scripts(self) -> None:
        fake = FakeAws(BEGUN)
        result = run(fake, "users", "totp", "--sub", "s-1", "--json")
        assert json.loads(result.stdout) == BEGUN
        assert result.stderr == ""
        fake.result = CONFIRMED
        result = run(fake, "users", "totp", "--sub", "s-1", "--code", "123456", "--json")
        assert json.loads(result.stdout) == CONFIRMED
        assert [event["arguments"] for event in fake.events] == [
            {"sub": "s-1"},
            {"sub": "s-1", "code": "123456"},
        ]

    def test_a_wrong_code(self) -> None:
        error = {"error": "invalid_code", "error_description": "The code is wrong, or too old."}
        fake = FakeAws(reply={"ok": False, "error": error})
        result = run(fake, "users", "totp", "ana", "--code", "000000")
        assert result.exit_code == 1
        assert result.stderr == "keyferry: invalid_code: The code is wrong, or too old.\n"


def test_users_reset_second_factor_asks_first_and_says_that_sessions_end() -> None:
    fake = FakeAws({"sub": "s-1", "second_factor": False, "revoked": 2})
    for answer in ("n\n", "", "\n"):
        refused = run(fake, "users", "reset-second-factor", "ana", stdin=answer)
        assert refused.exit_code == 1
        assert "ends all sessions" in refused.stderr
    assert fake.events == []
    confirmed = run(fake, "users", "reset-second-factor", "ana", stdin="y\n")
    assert confirmed.stdout.endswith("Reset the second factor of ana; ended 2 session(s).\n")
    assert run(fake, "users", "reset-second-factor", "ana", "--yes").exit_code == 0
    event = {"command": "users.reset_second_factor", "arguments": {"username": "ana"}}
    assert fake.events == [event] * 2


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["ana"], {"username": "ana"}),
        (["--sub", "s-1"], {"sub": "s-1"}),
        (["ana", "--session", "x"], {"username": "ana", "sid": "x"}),
    ],
)
def test_sessions_revoke(arguments: list[str], sent: dict[str, str]) -> None:
    fake = FakeAws({"revoked": 3})
    result = run(fake, "sessions", "revoke", *arguments)
    assert result.stdout == "Revoked 3 session(s).\n"
    assert fake.events == [{"command": "sessions.revoke", "arguments": sent}]


@pytest.mark.parametrize("arguments", [[], ["ana", "--sub", "s-1"]])
def test_sessions_revoke_needs_exactly_one_user(arguments: list[str]) -> None:
    assert run(FakeAws({"revoked": 0}), "sessions", "revoke", *arguments).exit_code == 2


def test_json_is_the_result_and_nothing_else() -> None:
    result = run(FakeAws(USER), "users", "add", "ana", "--json", stdin=SECRET)
    assert json.loads(result.stdout) == USER


@pytest.mark.parametrize(
    ("arguments", "env", "stack"),
    [
        ([], {}, "keyferry-dev"),
        ([], {"KEYFERRY_STACK": "from-env"}, "from-env"),
        (["--stack", "given"], {"KEYFERRY_STACK": "from-env"}, "given"),
    ],
)
def test_stack_is_chosen(arguments: list[str], env: dict[str, str], stack: str) -> None:
    fake = FakeAws({"keys": []})
    run(fake, "keys", "list", *arguments, **env)
    assert fake.stacks == [stack]


# ── secrets ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "secret"),
    [
        ("pass\n", "pass"),
        ("pass\r\n", "pass"),
        ("pass\n\n", "pass\n"),
        (" pass ", " pass "),
        ("pässwörd", "pässwörd"),
        ("two\nlines\n", "two\nlines"),
    ],
)
def test_one_trailing_newline_is_not_part_of_a_secret(given: str, secret: str) -> None:
    fake = FakeAws(USER)
    run(fake, "users", "add", "ana", "--password-file", "-", stdin=given.encode())
    assert fake.events[0]["arguments"]["password"] == secret


@pytest.mark.parametrize(
    ("given", "complaint"),
    [(b"", "empty"), (b"\n", "empty"), (b"\xff\xfe", "UTF-8"), (b"x" * 65537, "longer")],
)
def test_unusable_secret_is_wrong_usage(given: bytes, complaint: str) -> None:
    fake = FakeAws(USER)
    result = run(fake, "users", "add", "ana", stdin=given)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert fake.events == []


def test_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    result = run(FakeAws(USER), "keys", "put", "gemini", "--value-file", str(tmp_path / "no"))
    assert result.exit_code == 2
    assert "cannot read" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("keys", "put", "gemini"), ("users", "add", "ana"), ("users", "set-password", "ana")],
)
def test_secret_cannot_be_an_argument(arguments: tuple[str, ...]) -> None:
    for extra in (("--value", "x"), ("--password", "x"), ("x",)):
        assert run(FakeAws(USER), *arguments, *extra, stdin="x").exit_code == 2


def test_terminal_is_prompted_without_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def prompt(text: str, **options: Any) -> str:
        asked.append({"text": text} | options)
        return SECRET

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("typer.prompt", prompt)
    assert secret_input.read_secret("password", None, confirm=True) == SECRET
    options = {"hide_input": True, "confirmation_prompt": True, "err": True}
    assert asked == [{"text": "Password"} | options]


# ── failures ─────────────────────────────────────────────────────────────


def failures() -> Iterator[Any]:
    def case(name: str, says: str, **fake: Any) -> Any:
        return pytest.param(FakeAws(**fake), says, id=name)

    error = {"error": "already_exists", "error_description": "user ana exists"}
    yield case("refused", "already_exists: user ana exists", reply={"ok": False, "error": error})
    yield case(
        "function error",
        "the operator function failed (ValueError): see the logs of op:live",
        reply={"errorType": "ValueError", "errorMessage": f"bad {SECRET}", "stackTrace": [SECRET]},
        function_error="Unhandled",
    )
    yield case("function error, no JSON", "(Unhandled)", reply=b"?", function_error="Unhandled")
    yield case("not JSON", "not understood", reply=b"<html>")
    yield case("another shape", "not understood", reply={"ok": True})
    yield case("no credentials", "no AWS credentials", describe_error=aws.NoCredentialsError())
    yield case("no region", "no AWS region", describe_error=aws.NoRegionError())
    yield case(
        "no stack",
        "there is no stack keyferry-dev",
        describe_error=client_error(
            "DescribeStacks", "ValidationError", "Stack with id keyferry-dev does not exist"
        ),
    )
    yield case("another stack", "no output OperatorFunction", outputs=[])
    yield case(
        "may not describe",
        "may not do DescribeStacks",
        describe_error=client_error("DescribeStacks", "AccessDenied"),
    )
    yield case(
        "may not invoke",
        "may not do Invoke",
        invoke_error=client_error("Invoke", "AccessDeniedException"),
    )
    yield case(
        "expired", "have expired", describe_error=client_error("DescribeStacks", "ExpiredToken")
    )
    yield case(
        "wrong credentials",
        "does not accept",
        describe_error=client_error("DescribeStacks", "InvalidClientTokenId"),
    )
    yield case(
        "no function",
        "deploy the stack again",
        invoke_error=client_error("Invoke", "ResourceNotFoundException"),
    )
    yield case(
        "throttled",
        "TooManyRequestsException",
        invoke_error=client_error("Invoke", "TooManyRequestsException", "slow\ndown"),
    )
    yield case(
        "timeout", "may or may not", invoke_error=aws.ReadTimeoutError(endpoint_url="https://x")
    )
    yield case(
        "offline",
        "cannot be reached",
        describe_error=aws.EndpointConnectionError(endpoint_url="https://x"),
    )


@pytest.mark.parametrize(("fake", "says"), list(failures()))
def test_failure_is_one_line_and_exit_status_1(fake: FakeAws, says: str) -> None:
    result = run(fake, "users", "add", "ana", "--json", stdin=SECRET)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("keyferry: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_unknown_profile_is_a_failure(tmp_path: Path) -> None:
    env = {"AWS_CONFIG_FILE": str(tmp_path / "no"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path)}
    result = CliRunner().invoke(app, ["keys", "list", "--profile", "nobody"], env=env)
    assert result.exit_code == 1
    assert "nobody" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("keys",), ("users", "add"), ("keys", "frobnicate")])
def test_wrong_usage_is_exit_status_2(arguments: tuple[str, ...]) -> None:
    assert run(FakeAws(), *arguments).exit_code == 2
