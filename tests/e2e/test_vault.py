"""Policies, versions, values by condition and the audit trail, as a phone and an operator see them."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

import jwt
import pytest
from joserfc.errors import JoseError

from tests.e2e.conftest import PASSWORD
from tests.e2e.device import ath, new_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator
    from tests.e2e.device import Device

EVERYBODY = {"roles": ["*"]}


@pytest.fixture
def name(operator: Operator) -> Iterator[str]:
    """Of a key that only one test knows."""
    made = f"k-{uuid.uuid4().hex[:10]}"
    yield made
    operator.invoke("keys.delete", name=made)


def put(operator: Operator, name: str, value: str, **options: Any) -> dict[str, Any]:
    return operator.do("keys.put", name=name, value=value, **{"promote": True, **options})


def one(device: Device, name: str, **options: Any) -> dict[str, Any]:
    response = device.keys(f"/v1/keys/{name}", **options)
    assert response.status_code == 200, response.text
    delivered: dict[str, Any] = device.open(response)["keys"][name]
    return delivered


def refusal(device: Device, name: str, **options: Any) -> tuple[int, str]:
    response = device.keys(f"/v1/keys/{name}", **options)
    return response.status_code, response.json()["error"]


class TestVersions:
    def test_put_promote_rollback(self, operator: Operator, device: Device, name: str) -> None:
        first = put(operator, name, "one", promote=False, policy=EVERYBODY)
        assert refusal(device, name) == (403, "not_yet_available")
        operator.do("keys.promote", name=name, version=first["pending"]["number"])
        delivered = one(device, name)
        assert (delivered["value"], delivered["min_version"]) == ("one", 0)
        second = put(operator, name, "two", promote=False)
        assert one(device, name)["value"] == "one", "pending is given to nobody"
        assert refusal(device, name, query=f"?version={second['pending']['number']}") == (
            404,
            "not_found",
        )
        operator.do("keys.promote", name=name)
        assert one(device, name)["value"] == "two"
        assert one(device, name, query=f"?version={delivered['version']}")["value"] == "one"
        operator.do("keys.rollback", name=name)
        assert one(device, name)["value"] == "one"

    def test_previous_ends(self, operator: Operator, device: Device, name: str) -> None:
        old = put(operator, name, "one", policy=EVERYBODY)["current"]["number"]
        put(operator, name, "two", previous_seconds=0)
        assert refusal(device, name, query=f"?version={old}") == (404, "not_found")

    def test_a_leaked_value(self, operator: Operator, device: Device, name: str) -> None:
        old = put(operator, name, "leaked", policy=EVERYBODY)["current"]["number"]
        put(operator, name, "good", promote=False)
        promoted = operator.do("keys.promote", name=name, minimum=True)
        assert (
            promoted["min_version"]
            == promoted["current"]["number"]
            == one(device, name)["min_version"]
        )
        assert refusal(device, name, query=f"?version={old}") == (404, "not_found")
        refused = operator.invoke("keys.rollback", name=name)
        assert refused["error"]["error"] == "not_found", "there is nothing left to go back to"

    @pytest.mark.parametrize("version", ["0", "01", "x", "-1", "1.1", "9" * 16])
    def test_no_number(self, device: Device, version: str) -> None:
        assert refusal(device, "maps", query=f"?version={version}") == (400, "invalid_request")

    def test_another_parameter(self, device: Device) -> None:
        assert refusal(device, "maps", query="?names=gemini") == (400, "invalid_request")


class TestPolicies:
    @pytest.mark.parametrize(
        ("condition", "reason"),
        [
            ({"attested": True}, "attestation_required"),
            ({"second_factor": True}, "mfa_required"),
            ({"min_app_version": "1.2.4"}, "app_version_too_old"),
            ({"not_before": 2**39}, "not_yet_available"),
            ({"not_after": 1}, "no_longer_available"),
            ({"rollout": 0}, "not_in_rollout"),
        ],
        ids=str,
    )
    def test_a_reason_for_whom_it_concerns(
        self,
        operator: Operator,
        device: Device,
        name: str,
        condition: dict[str, Any],
        reason: str,
    ) -> None:
        put(operator, name, "v", policy={**EVERYBODY, **condition})
        assert refusal(device, name) == (403, reason)
        claims = device.open(device.keys())
        assert claims["refused"][name] == reason
        assert name not in claims["keys"]
        operator.do("keys.policy", name=name, policy={"roles": ["admin"], **condition})
        assert refusal(device, name) == (404, "not_found")
        assert name not in device.open(device.keys())["refused"], "who may not know is not told"

    def test_each_name_that_was_asked_for(self, device: Device) -> None:
        claims = device.open(device.keys(query="?names=maps,admin-only,never-was"))
        assert set(claims["keys"]) == {"maps"}
        assert claims["refused"] == {"admin-only": "not_found", "never-was": "not_found"}

    def test_an_updated_app_says_so(self, operator: Operator, device: Device, name: str) -> None:
        put(operator, name, "v", policy={**EVERYBODY, "min_app_version": "2.0"})
        assert refusal(device, name) == (403, "app_version_too_old")
        newer = {"Keyferry-App-Version": "2.0.0"}
        assert one(device, name, headers=newer)["value"] == "v"
        wrong = refusal(device, name, headers={"Keyferry-App-Version": "{}"})
        assert wrong == (400, "invalid_request")

    def test_closed_at_once(self, operator: Operator, device: Device, name: str) -> None:
        put(operator, name, "v", policy=EVERYBODY)
        etag = device.keys(f"/v1/keys/{name}").headers["etag"]
        operator.do("keys.policy", name=name, policy=None)
        answer = device.keys(f"/v1/keys/{name}", headers={"If-None-Match": etag})
        assert answer.status_code == 404, "an ETag does not keep a door open"


class TestValuesByCondition:
    variants: ClassVar = [
        {"platforms": ["android"], "value": "for android"},
        {"min_app_version": "2.0", "value": "for new ones"},
        {"roles": ["user"], "platforms": ["ios"], "value": "for users on ios"},
    ]

    def test_the_first_that_fits(self, operator: Operator, device: Device, name: str) -> None:
        put(operator, name, "default", policy=EVERYBODY, variants=self.variants)
        assert one(device, name)["value"] == "for users on ios"
        newer = {"Keyferry-App-Version": "2.1"}
        assert one(device, name, headers=newer)["value"] == "for new ones"

    def test_another_value_is_another_etag(
        self, operator: Operator, device: Device, name: str
    ) -> None:
        put(operator, name, "default", policy=EVERYBODY, variants=self.variants)
        etag = device.keys(f"/v1/keys/{name}").headers["etag"]
        same = {"If-None-Match": etag}
        assert device.keys(f"/v1/keys/{name}", headers=same).status_code == 304
        newer = {**same, "Keyferry-App-Version": "2.1"}
        assert device.keys(f"/v1/keys/{name}", headers=newer).status_code == 200

    def test_too_many(self, operator: Operator, name: str) -> None:
        many = [{"value": "v"}] * 17
        refused = operator.invoke("keys.put", name=name, value="v", variants=many)
        assert refused["error"]["error"] == "invalid_request"


class TestOperator:
    def test_several_at_once_all_or_none(self, operator: Operator, name: str) -> None:
        other = f"{name}-2"
        put(operator, name, "v", promote=False)
        keys = [{"name": other, "value": "w"}, {"name": name, "value": "x"}]
        refused = operator.invoke("keys.put_all", keys=keys)
        assert refused["error"]["error"] == "conflict"
        assert operator.invoke("keys.get", name=other)["error"]["error"] == "not_found"
        operator.do("keys.put_all", keys=keys, replace_pending=True)
        assert operator.do("keys.get", name=other)["pending"] is not None
        operator.do("keys.delete", name=other)

    def test_metadata_and_no_value(self, operator: Operator, name: str) -> None:
        put(operator, name, "a value to look for", policy=EVERYBODY)
        for answer in (operator.do("keys.get", name=name), operator.do("keys.list")):
            assert "a value to look for" not in json.dumps(answer)

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("keys.policy", {"policy": {"platforms": ["*"]}}),
            ("keys.policy", {"policy": {"roles": ["*"], "min_app_version": "new"}}),
            ("keys.policy", {"policy": {"roles": ["*"], "not_before": 9, "not_after": 9}}),
            ("keys.policy", {"policy": {"roles": ["*"], "rollout": 10_001}}),
            ("keys.policy", {}),
            ("keys.minimum", {"version": 0}),
            ("keys.minimum", {"version": 10**9}),
            ("keys.put_all", {"keys": [{"value": "v"}, {"value": "v"}]}),
        ],
        ids=str,
    )
    def test_bad_commands(
        self, operator: Operator, name: str, command: str, arguments: dict[str, Any]
    ) -> None:
        before = put(operator, name, "v", policy=EVERYBODY)
        if "keys" in arguments:
            arguments = {"keys": [{"name": name, **each} for each in arguments["keys"]]}
        else:
            arguments = {"name": name, **arguments}
        assert operator.invoke(command, **arguments)["error"]["error"] == "invalid_request"
        assert operator.do("keys.get", name=name) == before


class TestTooOften:
    def test_fetching_all_the_time(self, stack: LocalStack, device: Device) -> None:
        assert device.open(device.keys())["min_fetch_interval"] == 60

        def fetch(**headers: str) -> tuple[int, dict[str, Any], str]:
            token = device.tokens["access_token"]
            response = device.http.get(
                device.api_url + "/v1/keys",
                headers={
                    "x-api-key": device.client_key,
                    "Authorization": f"DPoP {token}",
                    "DPoP": device.proof("GET", "/v1/keys", ath=ath(token)),
                    **headers,
                },
            )
            body = response.json() if response.status_code == 429 else {}
            return response.status_code, body, response.headers.get("retry-after", "")

        etag = device.keys().headers["etag"]
        # More than one instance may answer, and each counts for itself.
        for _ in range(200):
            status, body, wait = fetch()
            if status == 429:
                break
        assert (status, body["error"]) == (429, "too_many_requests")
        assert 0 < int(wait) <= 60
        assert fetch(**{"If-None-Match": etag})[0] == 304, "a question costs nothing"


class TestAudit:
    def lines(self, stack: LocalStack, function: str, name: str) -> list[dict[str, Any]]:
        """Those about one key, the oldest first."""
        written = [line for line in stack.logs(function).splitlines() if '"key audit"' in line]
        assert written, f"{function} logged nothing: nothing was searched"
        lines = [json.loads(line[line.index("{") :]) for line in written]
        return [line for line in lines if name in {**line["keys"], **line.get("refused", {})}]

    def test_who_got_what(
        self, stack: LocalStack, operator: Operator, device: Device, name: str
    ) -> None:
        put(operator, name, "a value to look for", policy=EVERYBODY)
        one(device, name)
        (line,) = self.lines(stack, "deliver_key", name)
        number = operator.do("keys.get", name=name)["current"]["number"]
        claims = jwt.decode(device.tokens["access_token"], options={"verify_signature": False})
        expected = {
            "action": "delivered",
            "keys": {name: str(number)},
            "refused": {},
            "sub": claims["sub"],
            "sid": claims["sid"],
            "client_id": "ios",
            "jkt": claims["cnf"]["jkt"],
            "platform": "ios",
            "app_version": "1.2.3",
            "attested": False,
        }
        assert expected.items() <= line.items()
        (change,) = self.lines(stack, "operator", name)
        assert (change["action"], change["keys"]) == ("put", {name: f"current={number}"})
        assert "a value to look for" not in json.dumps([line, change])

    def test_who_was_refused(
        self, stack: LocalStack, operator: Operator, device: Device, name: str
    ) -> None:
        put(operator, name, "v", policy={**EVERYBODY, "second_factor": True})
        refusal(device, name)
        (line,) = self.lines(stack, "deliver_key", name)
        assert (line["action"], line["refused"]) == ("refused", {name: "mfa_required"})


class TestAttacks:
    def test_a_stolen_table_and_a_stolen_access_token(
        self, stack: LocalStack, operator: Operator, device: Device, name: str
    ) -> None:
        """Whoever has every row and a living access token has no key: values are sealed by KMS, and
        the token is of use with the device key alone, which is in no row."""
        put(operator, name, "the value to be had", policy=EVERYBODY)
        dynamodb = stack.boto3_client("dynamodb")
        tables = [value for output, value in stack.outputs.items() if output.endswith("Table")]
        rows = [row for each in tables for row in dynamodb.scan(TableName=each)["Items"]]
        assert any(row.get("id", {}).get("S", "").startswith(f"{name}#") for row in rows)
        assert b"the value to be had" not in repr(rows).encode()
        token = device.tokens["access_token"]
        path = f"/v1/keys/{name}"
        thief = new_key()
        owner, device.signing = device.signing, thief
        with_own_key = device.proof("GET", path, ath=ath(token))
        device.signing = owner
        recorded = device.proof("GET", "/v1/keys", ath=ath(token))
        attempts = [
            (f"DPoP {token}", None),
            (f"Bearer {token}", None),
            (f"DPoP {token}", with_own_key),
            (f"Bearer {token}", with_own_key),
            (f"DPoP {token}", recorded),  # of another URL
        ]
        for authorization, proof in attempts:
            response = device.call(
                "GET", path, headers={"Authorization": authorization}, proof=proof
            )
            assert response.status_code == 401, authorization.partition(" ")[0]
            assert b"the value to be had" not in response.content

    def test_a_replayed_request_yields_what_only_the_device_can_open(
        self, operator: Operator, device: Device, name: str
    ) -> None:
        put(operator, name, "the value to be had", policy=EVERYBODY)
        path = f"/v1/keys/{name}"
        token = device.tokens["access_token"]
        proof = device.proof("GET", path, ath=ath(token))
        headers = {"Authorization": f"DPoP {token}"}
        first = device.call("GET", path, headers=headers, proof=proof)
        again = device.call("GET", path, headers=headers, proof=proof)
        assert again.status_code == first.status_code == 200
        assert again.text != first.text
        assert device.open(again)["proof_jti"] == device.last_jti
        device.encryption = new_key()
        with pytest.raises(JoseError):
            device.open(again)

    @pytest.mark.parametrize("part", ["row", "wrapped_key", "ciphertext", "version"])
    def test_a_swapped_row_opens_for_nobody_and_keeps_nothing_else_back(
        self,
        stack: LocalStack,
        operator: Operator,
        device: Device,
        name: str,
        part: str,
    ) -> None:
        other = f"{name}-admin"
        put(operator, other, "the value to be had", policy={"roles": ["admin"]})
        put(operator, name, "old", policy=EVERYBODY)
        number = put(operator, name, "mine")["current"]["number"]
        wanted = operator.do("keys.get", name=other)["current"]["number"]
        dynamodb, table = stack.boto3_client("dynamodb"), stack.outputs["VaultTable"]

        def row(row_name: str, version: int) -> dict[str, Any]:
            key = {"id": {"S": f"{row_name}#{version}"}}
            found: dict[str, Any] = dynamodb.get_item(TableName=table, Key=key)["Item"]
            return found

        mine, theirs = row(name, number), row(other, wanted)
        if part == "row":  # another key under this one's id
            planted = {**theirs, "id": mine["id"], "name": mine["name"], "version": mine["version"]}
        elif part == "version":  # the version before under this one's number
            planted = {**row(name, number - 1), "id": mine["id"], "version": mine["version"]}
        else:
            planted = {**mine, part: theirs[part]}
        dynamodb.put_item(TableName=table, Item=planted)
        response = device.keys(f"/v1/keys/{name}")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        everything = device.keys()
        assert "etag" not in everything.headers, "not all is there"
        claims = device.open(everything)
        assert claims["refused"][name] == "temporarily_unavailable"
        assert "maps" in claims["keys"]
        assert "the value to be had" not in json.dumps(claims)
        dynamodb.put_item(TableName=table, Item=mine)
        assert one(device, name)["value"] == "mine"
        operator.do("keys.delete", name=other)

    def test_kms_refuses_and_comes_back(
        self, stack: LocalStack, operator: Operator, device: Device, name: str
    ) -> None:
        put(operator, name, "v", policy=EVERYBODY)
        kms = stack.boto3_client("kms")
        kms.disable_key(KeyId=stack.outputs["VaultKeyArn"])
        try:
            response = device.keys(f"/v1/keys/{name}")
            assert (response.status_code, response.json()["error"]) == (
                503,
                "temporarily_unavailable",
            )
            assert int(response.headers["retry-after"]) > 0
        finally:
            kms.enable_key(KeyId=stack.outputs["VaultKeyArn"])
        assert one(device, name)["value"] == "v"

    def test_a_session_that_ended_and_a_user_who_was_disabled(
        self,
        operator: Operator,
        new_device: Callable[..., Device],
        username: str,
        name: str,
    ) -> None:
        put(operator, name, "v", policy=EVERYBODY)
        phone = new_device()
        assert phone.login(username, PASSWORD).status_code == 200
        etag = phone.keys(f"/v1/keys/{name}").headers["etag"]
        operator.do("users.disable", username=username)
        answer = phone.keys(f"/v1/keys/{name}", headers={"If-None-Match": etag})
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
