"""Plays the scenarios of `scenarios.json`: with any client, and with everybody else in them."""

from __future__ import annotations

import json
import time
import uuid
from base64 import b32decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
from joserfc.jwk import ECKey

from keyferry.users import totp
from tests.e2e.conftest import OUR_APP, PASSWORD, SECRETS, At, Operator, PutKey
from tests.e2e.device import jwk_of, new_key
from tests.e2e.fault_proxy import Answer, Drop, Fault, FaultProxy, Hold, Replace, Rewrite
from tests.e2e.test_interception import forged, published_kid, with_own_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from keyferry_cli.local.stack import LocalStack

SCENARIOS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("scenarios.json").read_text(encoding="utf-8")
)["scenarios"]

_TIMEOUT = 60
"""Of apps that are not said to be impatient: the local stack is slow when the machine is."""


class Apps(Protocol):
    """Apps with one of the clients."""

    def run(self, app: Mapping[str, Any], do: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """One step of one app. The outcome is `{"value": …}` or `{"error": …, "code": …}`."""


@dataclass
class Play:
    stack: LocalStack
    operator: Operator
    issuer: At
    put_key: PutKey
    proxy: FaultProxy = field(init=False)
    own: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    """What the proxy signs with, where the client takes the JWKS from it."""

    known: dict[str, Any] = field(default_factory=dict)
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def scenario(self, apps: Apps, proxy: FaultProxy, scenario: Mapping[str, Any]) -> None:
        """Play it with apps that reach the API through ``proxy``."""
        self.proxy = proxy
        proxy.faults.clear()
        run = uuid.uuid4().hex[:12]
        username = f"user-{run}"
        self.operator.do("users.add", username=username, password=PASSWORD, roles=["user"])
        self.known = {"username": username, "password": PASSWORD, "own_key": f"own-{run}"}
        self.known |= SECRETS
        self.specs = {
            name: {
                "id": f"{run} {name}",
                "name": name,
                "device": f"{run} {spec.get('shares', name)}",
                "issuer": self.stack.api_url,
                "client_key": self.stack.client_keys["ios"],
                "timeout": spec.get("timeout", _TIMEOUT),
                "attempts": spec.get("attempts", 3),
                "clock": spec.get("clock", 0),
            }
            for name, spec in scenario.get("apps", {"phone": {}}).items()
        }
        try:
            if scenario.get("logged_in"):
                credentials = {"username": username, "password": PASSWORD}
                outcome = apps.run(self.specs["phone"], "login", credentials)
                assert outcome == {"value": True}
            for number, step in enumerate(scenario["steps"]):
                self.step(apps, f"{scenario['name']}, step {number}: {step['do']}", step)
        finally:
            if "first" in json.dumps(scenario):
                self.operator.invoke("keys.delete", name=self.known["own_key"])

    def step(self, apps: Apps, name: str, step: Mapping[str, Any]) -> None:
        self.proxy.seen.clear()
        for route, faults in self.filled(step.get("faults", {})).items():
            self.proxy.inject(route, *map(self.fault, faults))
        do, given = step["do"], self.filled(step.get("with", {}))
        if do in _BY_OTHERS:
            outcome = _BY_OTHERS[do](self, **given)
        else:
            if do == "together":
                given["apps"] = [self.specs[each] for each in given["apps"]]
            outcome = apps.run(self.specs[step.get("app", "phone")], do, given)
        self.known |= {mine: outcome[theirs] for mine, theirs in step.get("save", {}).items()}
        expected = self.filled(step.get("expect", {}))
        assert expected == {each: outcome.get(each) for each in expected}, (name, outcome)
        sent = self.requests()
        assert self.filled(step["requests"]) == sent, (name, sent)
        assert not any(self.proxy.faults.values()), f"{name}: fewer requests than faults"
        for route, seconds in step.get("waited", {}).items():
            times = [each.at for each in self.proxy.seen if each.route == route]
            gaps = [later - earlier for earlier, later in pairwise(times)]
            assert gaps, name
            assert min(gaps) >= seconds, (name, gaps)

    def requests(self) -> dict[str, list[int | None]]:
        found: dict[str, list[int | None]] = {}
        for each in self.proxy.seen:
            found.setdefault(each.route, []).append(each.status)
        return found

    def filled(self, value: Any) -> Any:
        """With what is known in the place of `$name`."""
        match value:
            case dict():
                return {self.filled(name): self.filled(each) for name, each in value.items()}
            case list():
                return [self.filled(each) for each in value]
            case str() if "$" in value:
                head, _, name = value.partition("$")
                return head + self.known[name]
            case _:
                return value

    def fault(self, fault: str | Mapping[str, Any]) -> Fault:
        match fault:
            case "drop":
                return Drop()
            case "hold":
                return Hold()
            case "older delivery":
                older = self.proxy.deliveries[-1]
                return Replace(lambda _: httpx.Response(200, content=older.content))
            case "forged delivery":
                kid = published_kid(self.stack)
                return Replace(lambda _: forged(self.proxy, new_key(), kid))
            case "own JWKS":
                jwk = jwk_of(self.own) | {"kid": "own", "use": "sig", "alg": "ES256"}
                return Answer(200, json.dumps({"keys": [jwk]}), {"Cache-Control": "max-age=300"})
            case {"delivery": dict(changes)}:
                return Replace(lambda _: forged(self.proxy, self.own, "own", **changes))
            case "damaged delivery":
                return Replace(_damaged)
            case "another's key":
                return Rewrite(with_own_key(ECKey.import_key(new_key())))
            case {"status": int(status), "body": str(body)}:
                return Answer(status, body, {"Content-Type": "text/html"})
            case {"status": int(status), **more}:
                error = more.get("error", "temporarily_unavailable")
                headers = {"Content-Type": "application/json"}
                if "retry_after" in more:
                    headers["Retry-After"] = str(more["retry_after"])
                refusal = {"error": error, "error_description": "", "request_id": ""}
                return Answer(status, json.dumps(refusal), headers)
            case _:
                raise ValueError(fault)

    # ── what others do ────────────────────────────────────────────────────────────

    def invoke(self, *, command: str, **arguments: Any) -> dict[str, Any]:
        self.operator.do(command, **arguments)
        return {}

    def clock(self, *, seconds: int) -> dict[str, Any]:
        """Set the clocks of all devices, by so much off the right time."""
        for spec in self.specs.values():
            spec["clock"] = seconds
        return {}

    def second_factor(self) -> dict[str, Any]:
        """Set one up for the user. Return a code that is good, and a recovery code."""
        begun = self.operator.do("users.begin_totp", username=self.known["username"])
        secret = b32decode(begun["secret"])
        # A code is good once, and none before it then: this one for the confirmation, the next for the app.
        step = int(time.time()) // totp.STEP_SECONDS
        confirmed = self.operator.do(
            "users.confirm_totp",
            username=self.known["username"],
            code=totp.code_at(secret, step - 1),
        )
        code = totp.code_at(secret, step)
        return {"code": code, "recovery_code": confirmed["recovery_codes"][0]}

    def sign_in(self, *, nonce: str) -> dict[str, Any]:
        """What the provider's SDK gives the app."""
        person = f"person-{uuid.uuid4().hex[:12]}"
        token = self.issuer.issuer.sign_in(OUR_APP, person, nonce=nonce)["id_token"]
        return {"provider": self.issuer.provider, "id_token": token}

    def proxied_key(self) -> dict[str, Any]:
        path = f"/v1/{uuid.uuid4().hex}/echo-body"
        return {"key": self.put_key(), "path": path}


def _damaged(response: httpx.Response) -> httpx.Response:
    changed = bytearray(response.content)
    changed[-9] = ord("A") if changed[-9] != ord("A") else ord("B")
    return httpx.Response(200, content=bytes(changed))


_BY_OTHERS: dict[str, Any] = {
    "operator": Play.invoke,
    "clock": Play.clock,
    "second_factor": Play.second_factor,
    "sign_in": Play.sign_in,
    "proxied_key": Play.proxied_key,
}
