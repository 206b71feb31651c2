"""Extension of schemathesis: sends its cases as a phone would, with a client key, a session and a fresh
proof, and now and then without one of them.

`FUZZ_SETTINGS` is a file of `test_openapi_fuzz.py` that says where the stack is and whose passwords are
what; `FUZZ_TALLY` is where the statuses of every route are written at the end.

A case that schemathesis means to be right is right to the schema only: its password is nobody's, its
refresh token a made-up one. Half of these are given the values of a real phone, so that what is behind
the first refusal is reached as well. Cases that are meant to be wrong are left as they are.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import httpx
import schemathesis

from keyferry.users import totp
from tests.e2e.device import Device, ath, jwk_of, new_key

SETTINGS = json.loads(Path(os.environ["FUZZ_SETTINGS"]).read_text("utf-8"))
API_URL: str = SETTINGS["api_url"]
GUESSING = {
    "/v1/login",
    "/v1/register",
    "/v1/invitations/redeem",
    "/v1/password",
    "/v1/mfa/totp/remove",
}
GUESSES_KEPT = 15
OVER = (b'"invalid_token"', b'"insufficient_user_authentication"')
SHARES = (
    ("signed in", 84),
    ("no client key", 2),
    ("another client key", 2),
    ("no proof", 3),
    ("no token", 3),
    ("old clock", 2),
    ("another URL", 2),
    ("another key", 2),
)

LATER = "later "
"""In the place of a value that is made when the case is sent."""

SIGNED = "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/execute-api/aws4_request"
"""The emulator does not look at the rest."""

Case = Any
"""`schemathesis.Case`, whose body is of any JSON type."""

chance = random.Random(SETTINGS["seed"])  # noqa: S311 -- to be the same each time
http = httpx.Client(timeout=60, trust_env=False)
dynamodb = boto3.client("dynamodb", endpoint_url=SETTINGS["endpoint_url"])
tally: dict[str, Counter[str]] = {}


class Phone(Device):
    """A device of one user, for one route: what a route does to its session is nobody else's matter."""

    def __init__(self, route: str) -> None:
        super().__init__(http, API_URL, SETTINGS["client_key"], username=SETTINGS["users"][route])
        self.route = route
        self.password: str = SETTINGS["password"]
        self.nonce: str | None = None
        self.etag = ""
        self.codes: list[str] = []
        """For a second factor, if there is one."""

    def signed_in(self) -> Phone:
        if not self.tokens:
            forget_guesses()
            code = {"otp": self.codes.pop()} if self.codes else {}
            response = self.login(self.username, self.password, **code)
            assert response.status_code == 200, response.text
            self.nonce = response.headers["dpop-nonce"]
        return self

    def new_secret(self) -> str:
        response = self.signed_in().resource("POST", "/v1/mfa/totp")
        if response.status_code == 401:  # ended, or the login is too long ago
            self.tokens = {}
            response = self.signed_in().resource("POST", "/v1/mfa/totp")
        secret: str = response.json()["secret"]
        return secret


phones: dict[str, Phone] = {}


def phone_of(route: str) -> Phone:
    if route not in phones:
        phones[route] = Phone(route)
    return phones[route]


@schemathesis.auth(refresh_interval=None)
class Phones:
    """Says how a case is to be sent. That is done once it is sent: proofs and tokens do not keep."""

    def get(self, case: Case, _: schemathesis.AuthContext) -> str:
        return chance.choices([name for name, _ in SHARES], [share for _, share in SHARES])[0]

    def set(self, case: Case, data: str, _: schemathesis.AuthContext) -> None:
        schemes = {name for each in case.operation.definition.raw["security"] for name in each}
        if "clientKey" in schemes and data != "no client key":
            right = data != "another client key"
            case.headers["x-api-key"] = SETTINGS["client_key"] if right else str(uuid.uuid4())
        if "accessToken" in schemes and data != "no token":
            case.headers["Authorization"] = LATER
        if "proof" in schemes and data != "no proof":
            case.headers["DPoP"] = LATER + data
        if "operator" in schemes and data == "signed in":
            case.headers["Authorization"] = SIGNED


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    if case.operation.path in GUESSING and chance.random() < 1 / GUESSES_KEPT:
        forget_guesses()
    route = f"{case.method} {case.operation.path}"
    if "x-api-key" not in case.headers:
        return
    phone = phone_of(route)
    right = RIGHT.get(route)
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if right is not None and positive and chance.random() < 0.6:
        right(case, phone)
    token = None
    if case.headers.get("Authorization") == LATER:
        token = phone.signed_in().tokens["access_token"]
        case.headers["Authorization"] = f"DPoP {token}"
    marked = str(case.headers.get("DPoP", ""))
    if marked.startswith(LATER):
        case.headers["DPoP"] = _proof(case, phone, token, marked.removeprefix(LATER))


def _proof(case: Case, phone: Phone, token: str | None, mode: str) -> str:
    path = case.formatted_path if mode != "another URL" else "/v1/elsewhere"
    claims: dict[str, Any] = {"ath": ath(token)} if token else {}
    if mode == "old clock":
        claims["iat"] = 1_000_000_000
    elif phone.nonce is not None:
        claims["nonce"] = phone.nonce
    if mode == "another key":
        return Device(http, API_URL, "").proof(case.method, path, **claims)
    return phone.proof(case.method, path, **claims)


def forget_guesses() -> None:
    """Or everything would be answered with 429 after the first fifty."""
    for row in dynamodb.scan(TableName=SETTINGS["guesses_table"])["Items"]:
        dynamodb.delete_item(TableName=SETTINGS["guesses_table"], Key={"id": row["id"]})


@schemathesis.hook
def after_call(
    context: schemathesis.HookContext, case: Case, response: schemathesis.Response
) -> None:
    route = f"{case.method} {case.operation.path}"
    tally.setdefault(route, Counter())[str(response.status_code)] += 1
    phone = phones.get(route)
    if phone is None:
        return
    nonce = response.headers.get("dpop-nonce")
    if nonce:
        phone.nonce = nonce[0]
    keep = KEPT.get(route)
    if keep is not None and response.status_code in (200, 204):
        keep(phone, case, response)
    if response.status_code == 401 and any(word in response.content for word in OVER):
        phone.tokens = {}  # ended, maybe by this very route


# ── what a real phone would send ─────────────────────────────────────────


def _login(case: Case, phone: Phone) -> None:
    key = jwk_of(new_key())
    device = {**case.body["device"], "platform": "ios", "encryption_key": key}
    case.body = {"username": phone.username, "password": phone.password, "device": device}


def _refresh(case: Case, phone: Phone) -> None:
    token = phone.signed_in().tokens["refresh_token"]
    case.body = {"grant_type": "refresh_token", "refresh_token": token}


def _revoke(case: Case, phone: Phone) -> None:
    if chance.random() < 0.3:
        phone.tokens = {}
        case.body = {"token": phone.signed_in().tokens["refresh_token"]}


def _encryption_key(case: Case, phone: Phone) -> None:
    case.body = {"encryption_key": jwk_of(new_key())}


def _key(case: Case, phone: Phone) -> None:
    case.path_parameters["name"] = chance.choice(["maps", "maps", "gemini", "absent"])
    _cached(case, phone)


def _cached(case: Case, phone: Phone) -> None:
    case.query.pop("names", None)
    case.query.pop("version", None)
    case.headers["Accept"] = chance.choice(["*/*", "application/vnd.keyferry.hpke"])
    if phone.etag and chance.random() < 0.3:
        case.headers["If-None-Match"] = phone.etag


def _proxy(case: Case, phone: Phone) -> None:
    case.path_parameters["key"] = chance.choice([SETTINGS["proxied"], SETTINGS["proxied"], "maps"])
    case.body = {**case.body, "method": "GET", "path": "/v1/echo", "query": [], "headers": {}}
    case.body.pop("body", None)
    case.body.pop("body_base64", None)


def _password(case: Case, phone: Phone) -> None:
    case.body = {"current_password": phone.password, "new_password": str(uuid.uuid4())}


def _redeem(case: Case, phone: Phone) -> None:
    if SETTINGS["invitations"]:
        invited = SETTINGS["invitations"].pop()
        case.body = {**invited, "password": str(uuid.uuid4())}


def _register(case: Case, phone: Phone) -> None:
    case.body = {"username": f"fuzz-{uuid.uuid4()}", "password": str(uuid.uuid4())}


def _confirm(case: Case, phone: Phone) -> None:
    if not phone.codes:
        case.body = {"code": _code(phone.new_secret())}


def _remove(case: Case, phone: Phone) -> None:
    if not phone.codes:
        code = {"code": _code(phone.new_secret())}
        confirmed = phone.resource("POST", "/v1/mfa/totp/confirm", json=code)
        phone.codes = confirmed.json()["recovery_codes"]
    case.body = {"code": phone.codes.pop()}


def _code(secret: str) -> str:
    octets = base64.b32decode(secret + "=" * (-len(secret) % 8))
    return totp.code_at(octets, int(time.time()) // totp.STEP_SECONDS)


def _session(case: Case, phone: Phone) -> None:
    if chance.random() < 0.3:
        other = Phone(phone.route)
        case.path_parameters["id"] = other.signed_in().tokens["session_id"]


RIGHT: dict[str, Callable[[Any, Phone], None]] = {
    "POST /v1/login": _login,
    "POST /v1/token": _refresh,
    "POST /v1/revoke": _revoke,
    "PUT /v1/device/encryption-key": _encryption_key,
    "GET /v1/keys": _cached,
    "GET /v1/keys/{name}": _key,
    "POST /v1/proxy/{key}": _proxy,
    "POST /v1/password": _password,
    "POST /v1/invitations/redeem": _redeem,
    "POST /v1/register": _register,
    "POST /v1/mfa/totp/confirm": _confirm,
    "POST /v1/mfa/totp/remove": _remove,
    "DELETE /v1/sessions/{id}": _session,
}


def _keep_tokens(phone: Phone, case: Any, response: Any) -> None:
    phone.tokens = response.json()


def _keep_etag(phone: Phone, case: Any, response: Any) -> None:
    phone.etag = (response.headers.get("etag") or [""])[0]


def _keep_password(phone: Phone, case: Any, response: Any) -> None:
    phone.password = case.body["new_password"]


def _keep_codes(phone: Phone, case: Any, response: Any) -> None:
    phone.codes = response.json()["recovery_codes"]


def _forget_codes(phone: Phone, case: Any, response: Any) -> None:
    phone.codes = []


KEPT: dict[str, Callable[[Phone, Any, Any], None]] = {
    "POST /v1/token": _keep_tokens,
    "GET /v1/keys": _keep_etag,
    "GET /v1/keys/{name}": _keep_etag,
    "POST /v1/password": _keep_password,
    "POST /v1/mfa/totp/confirm": _keep_codes,
    "POST /v1/mfa/totp/remove": _forget_codes,
}


@atexit.register
def _write() -> None:
    Path(os.environ["FUZZ_TALLY"]).write_text(json.dumps(tally, indent=1), "utf-8")
