"""What docs/ says in tables and numbers is what the code does."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session

from keyferry.attestation.app_check import DECISIONS, HEADER, Mode, Result
from keyferry.config import DAY
from keyferry.dpop.nonce import LIFETIME_SECONDS
from keyferry.dpop.proof import IAT_LEEWAY_SECONDS
from keyferry.edge.response import of_refusal
from keyferry.edge.telemetry import NAMESPACE, Metric, failure, logger
from keyferry.errors import ERRORS, RequestRefused
from keyferry.federation import cache
from keyferry.federation.providers import DEFAULT_MAX_AGE
from keyferry.keyring import discovery, unwrapped
from keyferry.keyring.lifecycle import schedules
from keyferry.keyring.model import Purpose
from keyferry.login import auth_session
from keyferry.login.request import LoginRequest
from keyferry.proxy import forward
from keyferry.proxy.proxy import WHOLE_SECONDS, ProxyRequest
from keyferry.sessions import refresh
from keyferry.sessions.rotation import GRANTED, Outcome
from keyferry.sessions.store import Rotation
from keyferry.tokens.refresh import RefreshToken
from keyferry.users import guessing, totp
from keyferry.users.guessing import Limit
from keyferry.vault import upstream
from keyferry.vault.upstream import Inject, Upstream
from keyferry_cli.command_line import DEFAULT_STACK
from keyferry_cli.doctor.rules import CHECKS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "layers" / "keyferry" / "keyferry"


GATEWAY_ERROR = "access_denied"
"""The one error that only API Gateway and the firewall in front of it answer with."""


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table(text: str, first_column: str) -> list[dict[str, str]]:
    """The rows of the table whose first column is called so, by the names of the columns."""
    lines = text.splitlines()
    (start,) = [n for n, line in enumerate(lines) if line.startswith(f"| {first_column} |")]
    names = cells(lines[start])
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, cells(line), strict=True)))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]


# ── events.md ────────────────────────────────────────────────────────────


def test_every_outcome_is_described() -> None:
    described = [row["outcome"] for row in table(page("events.md"), "outcome")]
    assert sorted(described) == sorted(Outcome)


@pytest.mark.parametrize("row", table(page("events.md"), "outcome"), ids=lambda row: row["outcome"])
def test_an_outcome_is_logged_counted_and_answered_as_described(
    row: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, dict[str, Any]]] = []
    counted: list[str] = []
    monkeypatch.setattr(logger, "info", lambda message, extra: logged.append((message, extra)))
    monkeypatch.setattr(refresh, "count", counted.append)
    outcome = Outcome(row["outcome"])
    token = RefreshToken(kid="k", sub="u", sid="s", generation=1, secret=b"x" * 16)
    # Without a row behind it no outcome is granted, so the answer stops after what is tested here.
    answering = object.__new__(refresh.Refresh)
    with pytest.raises(RequestRefused) as refused:
        answering._answer(token, Rotation(outcome, None), proved=True)
    assert logged == [("refresh", {"outcome": outcome, "sid": "s"})]
    assert counted == [row["metric"]]
    assert refused.value.reason.startswith("refresh: ")
    assert ("successor" in row["answer"]) == (outcome in GRANTED)
    if outcome not in GRANTED:
        assert row["answer"] == refused.value.code


def test_every_metric_is_described() -> None:
    described = [row["metric"] for row in table(page("events.md"), "metric")]
    assert sorted(described) == sorted(Metric)
    assert f"namespace `{NAMESPACE}/<stack>`" in page("events.md")


def test_every_log_line_is_described_with_its_fields() -> None:
    described = {
        row["line"]: set(row["fields"].split(", ")) for row in table(page("events.md"), "line")
    } | {"refresh": {"outcome", "sid"}}
    written: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            ast.unparse(node.target): node.value
            for node in module.body
            if isinstance(node, ast.AnnAssign) and node.value is not None
        }
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and re.match(
                r"logger\.(debug|info|warning|error|exception|critical)$", ast.unparse(node.func)
            ):
                text = constants.get(ast.unparse(node.args[0]), node.args[0])
                line = ast.literal_eval(text)
                written.setdefault(line, set()).update(fields(node))
    assert written == described


def fields(call: ast.Call) -> set[str]:
    """The names in ``extra`` of a call of the logger."""
    (extra,) = [keyword.value for keyword in call.keywords if keyword.arg == "extra"]
    if isinstance(extra, ast.Dict):
        return {ast.literal_eval(key) for key in extra.keys if key is not None}
    assert ast.unparse(extra) == "failure(error)"
    return set(failure(ValueError()))


# ── protocol.md ──────────────────────────────────────────────────────────


def test_every_error_is_described_with_every_status_that_it_comes_with() -> None:
    described = {
        (row["error"], int(status))
        for row in table(page("protocol.md"), "status")
        for status in re.findall(r"\d{3}", row["status"])
    }
    answered = {
        (code, of_refusal(RequestRefused(code, ""), request_id="", protected=protected).status)
        for code in ERRORS
        for protected in (False, True)
    }
    gateway = re.findall(
        r'StatusCode: "(\d{3})"(?:(?!StatusCode).)*?"error":"(\w+)"', template(), re.DOTALL
    )
    assert len(gateway) == template().count("StatusCode:")
    assert len(gateway) >= 16
    assert described == answered | {(code, int(status)) for status, code in gateway}


def test_every_error_has_one_line() -> None:
    described = [row["error"] for row in table(page("protocol.md"), "status")]
    assert sorted(described) == sorted({*ERRORS, GATEWAY_ERROR})


def test_what_login_may_answer_is_described_with_its_status() -> None:
    for row in table(page("protocol.md"), "answer | the app"):
        status, code = row["answer"].split()
        assert ERRORS[code].status == int(status)


def test_the_bodies_of_a_login_are_accepted() -> None:
    login = page("protocol.md").split("\n## Login\n")[1].split("Success is 200")[0]
    bodies = [json.loads(body) for body in re.findall(r"```json\n(.*?)```", login, re.DOTALL)]
    ways = [LoginRequest.from_members(body) for body in bodies]
    assert [(way.username, way.otp, way.provider) for way in ways] == [
        ("ana", None, None),
        (None, "492039", None),
        (None, None, "google"),
        (None, None, "google"),
    ]
    assert [way.invitation is not None for way in ways] == [False, False, False, True]


def test_numbers_of_the_protocol() -> None:
    protocol = re.sub(r"\s+", " ", page("protocol.md"))
    assert f"at most {LIFETIME_SECONDS} s old" in protocol
    assert f"`iat` may be off by {IAT_LEEWAY_SECONDS} s" in protocol
    assert f"good for {auth_session.LIFETIME_SECONDS} seconds, for the same client" in protocol
    assert f"{totp.DIGITS} digits, {totp.STEP_SECONDS} seconds" in protocol
    assert totp.RECOVERY_CODES == 10
    assert "these ten are shown this once" in protocol
    assert totp.SKEW_STEPS == 1
    assert "one step early or late" in protocol
    assert DEFAULT_MAX_AGE == 10 * 60
    assert "10 minutes at most unless configured otherwise" in protocol
    assert HEADER in protocol.lower()


# ── login.md ─────────────────────────────────────────────────────────────


def test_the_limits_on_guessing() -> None:
    described = {
        row["counter"]: Limit(
            free=int(row["free failures"]),
            first_wait=seconds(row["first wait"]),
            longest_wait=seconds(row["longest wait"]),
            forget=seconds(row["forgotten after"]),
        )
        for row in table(page("login.md"), "counter")
    }
    assert described == {
        "account": guessing.ACCOUNT,
        "device": guessing.DEVICE,
        "former": guessing.FORMER,
        "network": guessing.NETWORK,
    }
    known = f"as long as the session of that login can live, and in the {guessing.KNOWN_DEVICE_SECONDS // DAY} days after"
    assert known in re.sub(r"\s+", " ", page("login.md"))


def seconds(text: str) -> int:
    """Of ``2 s``, ``15 min``, ``24 h``."""
    number, unit = text.split()
    return int(number) * {"s": 1, "min": 60, "h": 3_600}[unit]


def test_the_limits_for_each_network() -> None:
    described = {
        row["counter"]: Limit(
            free=int(row["free"]),
            first_wait=seconds(row["first wait"]),
            longest_wait=seconds(row["longest wait"]),
            forget=seconds(row["forgotten after"]),
        )
        for row in table(page("accounts.md"), "counter")
    }
    assert described == {"redeem": guessing.REDEEM, "register": guessing.REGISTER}


def test_what_becomes_of_an_app_check_token() -> None:
    rows = table(page("login.md"), "token | off")
    described = {
        Mode(mode): {Result(row["token"]): row[mode] for row in rows}
        for mode in rows[0]
        if mode != "token"
    }
    assert described == DECISIONS


def test_numbers_of_login() -> None:
    login = re.sub(r"\s+", " ", page("login.md"))
    assert f"(`--max-age`, {DEFAULT_MAX_AGE} seconds)" in login
    assert f"in force everywhere within {cache.MAX_AGE_SECONDS} seconds" in login


# ── proxy.md ─────────────────────────────────────────────────────────────


def test_the_limits_of_proxy_mode() -> None:
    unset = Upstream("api.example.com", "/", ("GET",), Inject.HEADER, "x-api-key")
    (limits,) = re.findall(r"## Limits\n(.*?)\n## ", page("proxy.md"), re.DOTALL)
    rows = dict(cells(line) for line in limits.splitlines() if line.count("|") == 3)
    for row, named in {
        "body to the upstream": [unset.max_request_bytes, upstream.MAX_REQUEST_BYTES],
        "body of the answer": [unset.max_response_bytes, upstream.MAX_RESPONSE_BYTES],
        "time": [unset.timeout_seconds, upstream.MAX_TIMEOUT_SECONDS, int(WHOLE_SECONDS)],
        "budget": [unset.budget, unset.budget_seconds],
        "path, query": [
            upstream.MAX_PATH_LENGTH,
            forward.MAX_QUERY_LENGTH,
            forward.MAX_QUERY_PAIRS,
        ],
    }.items():
        assert [int(number) for number in re.findall(r"\d+", rows[row])] == named, row
    assert rows["headers returned"].split(", ") == list(forward.RETURNED_HEADERS)


def test_the_request_in_proxy_mode_is_one() -> None:
    (body,) = re.findall(r"```json\n(\{\n.*?)```", page("proxy.md"), re.DOTALL)
    gemini = Upstream(
        "generativelanguage.googleapis.com",
        "/v1beta/models/",
        ("POST",),
        Inject.HEADER,
        "x-goog-api-key",
    )
    forward.check(ProxyRequest.model_validate(json.loads(body)).wanted(), gemini.checked())
    for host, prefix in re.findall(r"--host (\S+) --path-prefix (\S+)", page("proxy.md")):
        Upstream(host, prefix, ("POST",), Inject.HEADER, "authorization").checked()


# ── keyring.md, authorizer.md ────────────────────────────────────────────


def test_the_schedule_of_the_keyring() -> None:
    shown = {
        row["purpose"]: row for row in table(page("keyring.md"), "purpose | announced as *next*")
    }
    idle_days = int(re.findall(r"RefreshIdleDays:.*?Default: (\d+)", template(), re.DOTALL)[0])
    for purpose, schedule in schedules(idle_seconds=idle_days * DAY).items():
        row = shown[purpose]
        days = [schedule.announce, schedule.active, schedule.retain]
        columns = ("announced as *next*", "in use as *current*", "kept as *previous*")
        for seconds, column in zip(days, columns, strict=True):
            assert re.findall(r"(\d+) days?$", row[column]) == [str(seconds // DAY)], (
                purpose,
                column,
            )


def test_every_standing_of_every_key_has_a_price() -> None:
    revoked = [row["revoked"] for row in table(page("keyring.md"), "revoked")]
    described = {each for each in revoked if each != "any *next*"}
    assert described == {
        f"{p}, {standing}" for p in Purpose for standing in ("current", "previous")
    }


def test_numbers() -> None:
    keyring, authorizer = page("keyring.md"), page("authorizer.md")
    assert f"within {unwrapped.MAX_AGE_SECONDS} seconds: a warm one" in keyring
    assert f"within {discovery.READ_AGAIN_SECONDS} seconds: the function" in keyring
    assert f"within another {discovery.MAX_AGE_SECONDS} seconds, its `max-age`" in keyring
    assert f"right to {IAT_LEEWAY_SECONDS} seconds" in authorizer
    assert f"for {LIFETIME_SECONDS} seconds" in re.sub(r"\s+", " ", authorizer)
    assert "a row that lives a minute longer than the access token" in authorizer


def test_one_stack_name() -> None:
    """`sam deploy` makes the stack that the `keyferry` command looks for."""
    samconfig = tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))
    assert samconfig["default"]["global"]["parameters"]["stack_name"] == DEFAULT_STACK
    assert f"`{DEFAULT_STACK}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"--stack-name {DEFAULT_STACK}" in (ROOT / "events" / "README.md").read_text()


def test_both_stages_have_settings_of_their_own() -> None:
    samconfig = tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))
    assert samconfig.keys() == {"version", "default", "prod"}
    for environment, stage in (("default", "dev"), ("prod", "prod")):
        deploy = samconfig[environment]["deploy"]["parameters"]
        assert deploy["parameter_overrides"] == f"Stage={stage}"
        assert deploy["confirm_changeset"] is True
        assert deploy.get("disable_rollback", False) is False
    stacks = [samconfig[each]["global"]["parameters"]["stack_name"] for each in ("default", "prod")]
    assert len(set(stacks)) == 2


def template() -> str:
    return (ROOT / "template.yaml").read_text(encoding="utf-8")


# ── links to tests ───────────────────────────────────────────────────────


PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", PAGES)
def test_a_test_that_a_page_names_is_there(name: str) -> None:
    for title, target in re.findall(r"\[(test_\w+)\]\(([\w./]+\.py)\)", page(name)):
        file = (ROOT / "docs" / name).parent / target
        found = re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
        assert title in found or title == file.stem, title


@pytest.mark.parametrize("name", [*PAGES, "../README.md", "../CONTRIBUTING.md", "../SECURITY.md"])
def test_a_link_to_another_page_leads_there(name: str) -> None:
    itself = ROOT / "docs" / name
    for target, anchor in re.findall(r"\]\((?!https?:)([\w./-]*)#?([\w-]*)\)", page(name)):
        file = itself.parent / target if target else itself
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs, f"{target}#{anchor}"


# ── clients.md ───────────────────────────────────────────────────────────


def test_the_rights_for_client_keys_are_those_that_the_command_needs() -> None:
    """Each operation of API Gateway in the code, by HTTP method and path as IAM sees it."""
    source = (ROOT / "layers/keyferry/keyferry_cli/client_keys.py").read_text(encoding="utf-8")
    methods = set(re.findall(r"gateway\.(?!get_paginator|exceptions)(\w+)\(", source))
    methods |= set(re.findall(r'get_paginator\("(\w+)"\)', source))
    model = Session().get_service_model("apigateway")
    needed = set()
    for method in methods:
        http = model.operation_model(method.title().replace("_", "")).http
        path = re.sub(r"(/usageplans/)\{\w+\}", r"\1PLAN_OF_IOS", http["requestUri"])
        needed.add((f"apigateway:{http['method']}", re.sub(r"\{\w+\}", "*", path)))
    needed.add(("apigateway:PUT", "/tags/*"))  # the tags of a new key

    (policy,) = re.findall(r"```json\n(.*?)```", page("clients.md"), re.DOTALL)
    granted = {
        (action, resource.partition("::")[2])
        for statement in json.loads(policy)["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }
    assert {each for each in granted if "ANDROID" not in each[1]} == needed
    assert {(action, path.replace("IOS", "ANDROID")) for action, path in needed} <= granted


def test_functions_know_of_a_client_key_when_the_page_says() -> None:
    assert f"within {unwrapped.MAX_AGE_SECONDS} seconds" in page("clients.md")


# ── checklist.md ─────────────────────────────────────────────────────────


def test_every_practice_of_the_server_is_shown_by_tests() -> None:
    """That the named tests exist is held by `test_a_test_that_a_page_names_is_there`."""
    rows = table(page("checklist.md"), "practice | where")
    assert len(rows) >= 30
    for row in rows:
        linked = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)", row["shown by"])
        assert linked, row["practice"]
        rest = re.sub(r"\[test_\w+\]\(\.\./tests/[\w/]+\.py\)", "", row["shown by"])
        assert rest.strip(", ") == "", row["practice"]
        for name, file in linked:
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_every_check_of_the_doctor_belongs_to_a_practice() -> None:
    rows = table(page("checklist.md"), "practice | where")
    named = {name for row in rows for name in row["doctor"].split(", ")} - {"–"}
    assert named == {check.id for check in CHECKS}
