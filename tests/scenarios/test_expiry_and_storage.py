"""Expiry to the second, and what a table does that was restored, emptied or copied."""

from __future__ import annotations

import ast
import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keyferry.config import DAY
from keyferry.edge.telemetry import Metric
from keyferry.sessions.model import Status
from keyferry.sessions.rotation import Outcome, Presented
from keyferry.sessions.store import EXPIRY_MARGIN_SECONDS
from keyferry.users import totp
from tests.conftest import ROOT
from tests.e2e.conftest import PASSWORD, PROXIED, RULES
from tests.e2e.test_main_path import is_error
from tests.scenarios.system import ABSOLUTE, IDLE, THEIRS

if TYPE_CHECKING:
    import httpx

    from keyferry.sessions.model import Session
    from tests.local_upstream import LocalUpstream
    from tests.scenarios.system import Phone, System

WRITES = ("PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems")


def is_consistent(operation: str, parameters: dict[str, Any]) -> bool:
    """Whether a DynamoDB call writes, or reads what was last written."""
    name = operation.removeprefix("dynamodb:")
    if name in WRITES:
        return True
    if name == "BatchGetItem":
        return all(part.get("ConsistentRead") for part in parameters["RequestItems"].values())
    return name in ("GetItem", "Query") and parameters.get("ConsistentRead") is True


class TestConsistency:
    def test_18_no_read_is_eventually_consistent(
        self, system: System, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every function, each way through it that calls DynamoDB, started cold."""
        monkeypatch.setenv("KEYFERRY_PROXY_CONNECT_TO", upstream.connect_to)
        system.start_cold()
        first = system.phone()
        phones = [first, *(system.phone(first.username) for _ in range(3))]
        phone = phones[-1]
        old = phone.tokens["refresh_token"]
        for _ in range(2):
            assert phone.refresh().status_code == 200
        assert phone.keys().status_code == 200
        assert phone.keys("/v1/keys/maps").status_code == 200
        assert replace(phone, api_url=THEIRS).resource("GET", "/x").status_code == 200
        assert phone.resource("GET", "/v1/sessions").status_code == 200
        sid = phones[1].tokens["session_id"]
        assert phone.resource("DELETE", f"/v1/sessions/{sid}").status_code == 204
        assert phone.resource("DELETE", "/v1/sessions", query="?except=current").json() == {
            "ended": 1
        }
        system.sleep(1)
        careful = system.phone()
        begun = careful.resource("POST", "/v1/mfa/totp").json()
        code = {"code": totp.code_at(base64.b32decode(begun["secret"]), system.now // 30)}
        assert careful.resource("POST", "/v1/mfa/totp/confirm", json=code).status_code == 200
        assert careful.login(careful.username, PASSWORD).json()["error"] == "mfa_required"
        assert careful.resource("POST", "/v1/mfa/totp/remove", json=code).status_code == 400
        code = system.operate("users.invite", username="guest")["code"]
        body = {"username": "guest", "code": code, "password": PASSWORD}
        redeemed = careful.call("POST", "/v1/invitations/redeem", json=body, proof=None)
        assert redeemed.status_code == 200
        changed = {"current_password": PASSWORD, "new_password": f"{PASSWORD} indeed"}
        assert careful.resource("POST", "/v1/password", json=changed).json() == {"ended": 0}
        is_error(phone.refresh(old), 400, "invalid_grant")
        assert phone.login(phone.username, "wrong").status_code == 400
        assert phone.login("nobody", "wrong").status_code == 400
        last = system.phone(first.username)
        form = {"token": last.tokens["refresh_token"]}
        assert last.call("POST", "/v1/revoke", data=form, proof=None).status_code == 200
        assert last.call("GET", "/.well-known/jwks.json", proof=None).status_code == 200
        assert last.call("GET", "/openapi.json", proof=None).status_code == 200
        system.keyring("keyring.show")
        system.keyring("keyring.rotate")
        anybody = {"roles": ["*"]}
        system.operate("keys.put", name="other", value=PROXIED, policy=anybody, promote=True)
        system.operate("keys.proxy", name="other", upstream=RULES)
        assert careful.proxy("other", "GET", "/v1/x").status_code == 200
        system.operate("keys.list")
        system.operate("keys.delete", name="other")
        system.operate("users.set_password", username=first.username, password=PASSWORD)
        system.operate("sessions.revoke", username=first.username)
        system.operate("users.disable", username=first.username)
        system.operate("users.enable", username=first.username)
        functions = {path.parent.name for path in ROOT.glob("functions/*/handler.py")}
        assert set(system.warm) == functions, "a function was left out"
        calls = [call for call in system.aws.calls if call[0].startswith("dynamodb:")]
        assert {operation for operation, _ in calls} == {
            f"dynamodb:{name}"
            for name in (
                *("GetItem", "BatchGetItem", "Query"),
                *("PutItem", "UpdateItem", "TransactWriteItems"),
            )
        }
        assert [call for call in calls if not is_consistent(*call)] == []

    @pytest.mark.parametrize(
        ("operation", "parameters"),
        [
            ("GetItem", {}),
            ("GetItem", {"ConsistentRead": False}),
            ("Query", {}),
            ("Scan", {"ConsistentRead": True}),
            ("BatchGetItem", {"RequestItems": {"a": {"ConsistentRead": True}, "b": {}}}),
        ],
        ids=str,
    )
    def test_18_such_a_read_would_be_seen(self, operation: str, parameters: dict[str, Any]) -> None:
        assert not is_consistent(f"dynamodb:{operation}", parameters)

    def test_18_nor_is_one_written_down(self) -> None:
        """Also where the test above does not come by: a read in the source that does not ask for
        consistency by name."""
        found = 0
        for path in ROOT.glob("layers/keyferry/keyferry/**/*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                where = f"{path.name}:{node.lineno}"
                assert node.func.attr not in ("scan", "transact_get_items"), where
                if node.func.attr in ("get_item", "query"):
                    found += 1
                    asked = [word for word in node.keywords if word.arg == "ConsistentRead"]
                    assert [ast.literal_eval(word.value) for word in asked] == [True], where
        assert found >= 5, "nothing was searched"


class TestTimeToLive:
    def test_19_past_its_ttl_and_not_deleted_yet(self, system: System, phone: Phone) -> None:
        old = phone.tokens["refresh_token"]
        phone.refresh()
        phone.refresh()
        system.sleep(IDLE + EXPIRY_MARGIN_SECONDS + 1)
        item = system.item(phone)
        assert int(item["expires_at"]["N"]) < system.now, "it is past its TTL"
        system.metrics()
        for token in (old, phone.tokens["refresh_token"]):
            is_error(phone.refresh(token), 400, "invalid_grant")
        is_error(phone.keys(), 401, "invalid_token")
        assert system.item(phone) == item
        assert Metric.REFRESH_REUSE_DETECTED not in system.metrics()

    def test_20_deleted_while_its_tokens_are_still_out(self, system: System, phone: Phone) -> None:
        old = phone.tokens["refresh_token"]
        phone.refresh()
        system.delete(phone)
        for token in (old, phone.tokens["refresh_token"]):
            is_error(phone.refresh(token, keep=False), 400, "invalid_grant")
        is_error(phone.keys(), 401, "invalid_token")
        is_error(phone.resource("GET", "/v1/sessions"), 401, "invalid_token")
        form = {"token": phone.tokens["refresh_token"]}
        assert phone.call("POST", "/v1/revoke", data=form, proof=None).status_code == 200
        table = system.cloud.tables["SessionsTable"]
        assert system.cloud.dynamodb.scan(TableName=table)["Items"] == [], "no write made a row"


class TestRestoredTable:
    """Back to how it was an hour and four refreshes ago."""

    def restore(self, system: System, phone: Phone) -> Session:
        backup = system.row(phone)
        for _ in range(4):
            system.sleep(900)
            assert phone.refresh().status_code == 200
        system.put(backup)
        system.metrics()
        return backup

    def test_21_the_device_goes_on_and_says_so(self, system: System, phone: Phone) -> None:
        self.restore(system, phone)
        lost = phone.refresh(keep=False).json()["refresh_token"]
        assert system.metrics() == [Metric.REFRESH_HEALED]
        assert system.row(phone).generation == 5
        assert phone.refresh().json()["refresh_token"] == lost
        assert phone.keys().status_code == 200
        assert phone.refresh().status_code == 200

    def test_21_a_thief_without_the_key_gains_nothing(self, system: System, phone: Phone) -> None:
        backup = self.restore(system, phone)
        is_error(phone.stolen().refresh(), 400, "invalid_grant")
        assert system.metrics() == [Metric.REFRESH_WRONG_KEY]
        assert system.row(phone) == backup
        assert phone.refresh().status_code == 200

    def test_21_a_bearer_client_logs_in_again(self, open_system: System, bearer: Phone) -> None:
        """Nobody can say that it is not a thief's token that is ahead."""
        backup = self.restore(open_system, bearer)
        is_error(bearer.refresh(), 400, "invalid_grant")
        assert open_system.metrics() == [Metric.REFRESH_REFUSED]
        assert open_system.row(bearer) == backup


class TestExpiry:
    def test_22_a_thousand_rotations_do_not_put_off_the_end(
        self, system: System, phone: Phone
    ) -> None:
        rotations = 1000
        first, end = system.parse(phone.tokens["refresh_token"]), system.now + ABSOLUTE
        row = system.row(phone)
        presented = Presented(
            sub=first.sub,
            sid=first.sid,
            generation=0,
            secret_hash=first.secret_hash,
            client_id="ios",
            jkt=row.jkt,
            request_id="",
        )
        for number in range(rotations):
            system.sleep(ABSOLUTE // (rotations + 1))
            rotation = system.cloud.sessions.rotate(
                replace(presented, generation=number, request_id=str(number)),
                now=system.now,
                idle_seconds=IDLE,
                mac_kid=row.mac_kid,
            )
            assert rotation.outcome is Outcome.ROTATED
        assert system.row(phone).absolute_expires_at == end
        mac_key = system.unwrapped().refresh_mac_key(first.kid)
        assert mac_key is not None
        token = first.successor(generation=rotations, kid=first.kid).encode(mac_key)
        system.now = end - 1
        tokens = phone.refresh(token).json()
        assert (tokens["expires_in"], tokens["refresh_expires_in"]) == (1, 1)
        assert phone.keys().status_code == 200
        system.now = end
        before = system.row(phone)
        is_error(phone.refresh(keep=False), 400, "invalid_grant")
        is_error(phone.refresh(token, keep=False), 400, "invalid_grant")  # nor a lost reply
        is_error(phone.keys(), 401, "invalid_token")
        assert system.row(phone) == before

    @pytest.mark.parametrize("lost", [False, True], ids=["current", "lost reply"])
    @pytest.mark.parametrize(("offset", "status"), [(-1, 200), (0, 400), (1, 400)])
    def test_23_idle_expiry_to_the_second(
        self, system: System, phone: Phone, lost: bool, offset: int, status: int
    ) -> None:
        system.sleep(1000)
        assert phone.refresh(keep=not lost).status_code == 200
        assert system.row(phone).idle_expires_at == system.now + IDLE
        before = system.row(phone)
        system.sleep(IDLE + offset)
        response = phone.refresh()
        if status == 200:
            assert response.status_code == 200
        else:
            is_error(response, 400, "invalid_grant")
            assert system.row(phone) == before


class TestTwoRegions:
    """The template has one region. This is what its sessions would do in two whose tables are
    copied to each other, where the later write of a row wins."""

    def refresh_in(
        self, regions: dict[str, Session], region: str, system: System, phone: Phone, token: str
    ) -> httpx.Response:
        system.put(regions[region])
        response = phone.refresh(token, keep=False)
        regions[region] = system.row(phone)
        return response

    @pytest.mark.parametrize("winner", ["here", "there"])
    def test_25_two_regions_make_one_lineage(
        self, system: System, phone: Phone, winner: str
    ) -> None:
        regions = dict.fromkeys(("here", "there"), system.row(phone))
        token = phone.tokens["refresh_token"]
        both = [
            self.refresh_in(regions, region, system, phone, token).json()["refresh_token"]
            for region in regions
        ]
        assert both[0] == both[1], "a token is a function of its generation"
        for _ in range(3):  # one region runs ahead, and the copies are late
            system.sleep(900)
            ahead = self.refresh_in(regions, "here", system, phone, both[0])
            both[0] = ahead.json()["refresh_token"]
        system.put(regions[winner])
        is_error(phone.stolen().refresh(both[0]), 400, "invalid_grant")
        assert phone.refresh(both[0]).status_code == 200, "the phone goes on"
        assert system.row(phone).generation == 5
        assert phone.refresh().status_code == 200

    def test_25_two_regions_could_undo_a_revocation(self, system: System, phone: Phone) -> None:
        """Why the tables are not copied: a refresh there, later than a revocation here, would win.
        Whoever makes them global tables must read and write them with strong consistency."""
        regions = dict.fromkeys(("here", "there"), system.row(phone))
        token = phone.tokens["refresh_token"]
        system.put(replace(regions["here"], status=Status.LOGGED_OUT))
        is_error(phone.refresh(keep=False), 400, "invalid_grant")
        assert self.refresh_in(regions, "there", system, phone, token).status_code == 200
        assert regions["there"].status is Status.ACTIVE
        assert "AWS::DynamoDB::GlobalTable" not in (ROOT / "template.yaml").read_text()


def test_23_constants_are_those_of_the_template() -> None:
    assert (IDLE, ABSOLUTE) == (7 * DAY, 90 * DAY)
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    for name, days in (("RefreshIdleDays", 7), ("RefreshAbsoluteDays", 90)):
        parameter = text.partition(f"\n  {name}:\n")[2].partition("\n\n")[0]
        assert f"Default: {days}" in parameter, name
