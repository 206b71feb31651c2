"""Sample events made good for one running stack: its addresses and client key, fresh tokens and
proofs.

The samples of `events/` are what API Gateway hands to a function, with made-up values. Here each
gets those of a stack, so that it can be replayed against that stack's tables and keys: by
`sam local invoke`, or by the emulator of Lambda's runtime interface.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from keyferry.jose import base64url
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.users import totp
from keyferry_cli.stack_functions import CommandFailed, StackFunctions

Event = dict[str, Any]

SAMPLE_USER: Final = "keyferry-sample"
"""The users that replayed events need are called so, with a suffix: the same few at each run."""

_JSON: Final = "application/json"
_ATTEMPTS: Final = 6
_TIMEOUT_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Api:
    """A stack's API, as its events name it."""

    issuer: str
    api_id: str
    stage: str
    account: str
    region: str
    client_key: str = field(repr=False)
    client_key_id: str
    client_key_ids: Mapping[str, str]
    """Of every platform."""

    endpoint: str
    """Of the emulator; empty on AWS."""

    environments: Mapping[str, Mapping[str, str]]
    """Function's logical id to the settings that the stack has given it."""

    @classmethod
    def of_stack(cls, functions: StackFunctions) -> Api:
        """Raise `CommandFailed` when AWS does not tell, or the stack is another one."""
        with functions.reading():
            session = functions.session
            cloudformation = session.client("cloudformation")
            stack = cloudformation.describe_stacks(StackName=functions.stack)["Stacks"][0]
            outputs = {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}
            settings = {
                each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])
            }
            made = [
                each
                for page in cloudformation.get_paginator("list_stack_resources").paginate(
                    StackName=functions.stack
                )
                for each in page["StackResourceSummaries"]
            ]
            if not {"ApiUrl", "IosClientKeyId", "AndroidClientKeyId"} <= outputs.keys():
                raise CommandFailed(f"stack {functions.stack} has no API: is it a Keyferry stack?")
            keys = {"ios": outputs["IosClientKeyId"], "android": outputs["AndroidClientKeyId"]}
            key = session.client("apigateway").get_api_key(apiKey=keys["ios"], includeValue=True)
            client = session.client("lambda")
            environments = {
                each["LogicalResourceId"]: _settings(
                    client.get_function_configuration(FunctionName=each["PhysicalResourceId"])
                )
                for each in made
                if each["ResourceType"] == "AWS::Lambda::Function"
            }
            (api_id,) = [
                each["PhysicalResourceId"]
                for each in made
                if each["ResourceType"] == "AWS::ApiGateway::RestApi"
            ]
            _, _, _, region, account, *_ = stack["StackId"].split(":")
            return cls(
                issuer=outputs["ApiUrl"],
                api_id=api_id,
                stage=settings["Stage"],
                account=account,
                region=region,
                client_key=key["value"],
                client_key_id=keys["ios"],
                client_key_ids=keys,
                endpoint=settings.get("EmulatorEndpoint", ""),
                environments=environments,
            )

    @property
    def domain(self) -> str:
        return urlsplit(self.issuer).netloc


def _settings(configuration: Mapping[str, Any]) -> dict[str, str]:
    variables: Mapping[str, str] = configuration.get("Environment", {}).get("Variables", {})
    return {
        name: value
        for name, value in sorted(variables.items())
        if name.startswith("KEYFERRY_") or name == "AWS_ENDPOINT_URL"
    }


@dataclass(slots=True)
class Phone:
    """A device key, and the session that it is logged in with."""

    api: Api
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False
    )
    encryption_key: Mapping[str, str] = field(
        default_factory=lambda: _jwk(ec.generate_private_key(ec.SECP256R1()))
    )
    nonce: str | None = None
    tokens: dict[str, Any] = field(default_factory=dict, repr=False)

    def login(self, username: str, password: str) -> None:
        body = {"username": username, "password": password, "device": self.device}
        self.tokens = self.call("POST", "/v1/login", body)

    @property
    def device(self) -> dict[str, Any]:
        return {
            "name": "Sample events",
            "platform": "ios",
            "app_version": "1.2.0",
            "encryption_key": self.encryption_key,
        }

    def proof(self, method: str, url: str, *, access_token: str | None = None) -> str:
        """A DPoP proof (RFC 9449 §4.2) of now, with the newest nonce."""
        claims: dict[str, Any] = {
            "jti": str(uuid.uuid4()),
            "htm": method,
            "htu": url,
            "iat": int(time.time()),
        }
        if self.nonce is not None:
            claims["nonce"] = self.nonce
        if access_token is not None:
            claims["ath"] = base64url.encode(hashlib.sha256(access_token.encode()).digest())
        headers = {"typ": "dpop+jwt", "jwk": _jwk(self.key)}
        return jwt.encode(claims, self.key, algorithm="ES256", headers=headers)

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send a request and return the JSON of its answer.

        Waits where it is told to, and goes on with the nonce that it is given. Raise
        `CommandFailed` for any other answer than success.
        """
        url = self.api.issuer + path
        for _ in range(_ATTEMPTS):
            token = self.tokens.get("access_token")
            headers = {
                "x-api-key": self.api.client_key,
                "Content-Type": _JSON,
                "DPoP": self.proof(method, url, access_token=token),
                **({"Authorization": f"DPoP {token}"} if token else {}),
            }
            data = json.dumps(body).encode() if body is not None else None
            request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 -- the issuer of the stack's outputs
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
                    self.nonce = answer.headers.get("DPoP-Nonce", self.nonce)
                    reply: dict[str, Any] = json.loads(answer.read() or b"{}")
                    return reply
            except urllib.error.HTTPError as refused:
                error = _error(refused)
                self.nonce = refused.headers.get("DPoP-Nonce", self.nonce)
                if refused.code in (429, 503):
                    time.sleep(min(float(refused.headers.get("Retry-After") or 1), 10))
                elif error != "use_dpop_nonce":
                    raise CommandFailed(f"{method} {path}: {refused.code} {error}") from None
            except urllib.error.URLError as unreachable:
                raise CommandFailed(f"{url}: {unreachable.reason}") from None
        raise CommandFailed(f"{method} {path}: no success after {_ATTEMPTS} attempts")


def _error(response: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(response.read())["error"])
    except (ValueError, KeyError, TypeError):
        return "with a body that is not understood"


def _jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    public = EcJwk.from_key(key.public_key())
    return {"kty": "EC", "crv": "P-256", "x": public.x, "y": public.y}


@dataclass(frozen=True, slots=True)
class Replay:
    """What a route's event needs to be answered as a phone's request would be."""

    phone: Phone
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Members that replace those of the sample."""

    path: Mapping[str, str] = field(default_factory=dict)
    """Path parameters likewise."""


class Replays:
    """Makes users, sessions and codes in a stack, for events that need some.

    The events of one run do not get in each other's way: what ends sessions, or is good once, has a
    user of its own.
    """

    def __init__(self, functions: StackFunctions, api: Api) -> None:
        self._functions = functions
        self._api = api
        self._passwords: dict[str, str] = {}
        self._signed_in: Phone | None = None
        keys = [each for each in functions.operate("keys.list")["keys"] if _by_password(each)]
        delivered = [each for each in keys if not each["upstream"]]
        proxied = [each for each in keys if each["upstream"]]
        # One of each kind, and the roles that they take.
        self._delivered = delivered[0]["name"] if delivered else None
        self._proxied = proxied[0]["name"] if proxied else None
        wanted = {
            role for each in (*delivered[:1], *proxied[:1]) for role in each["policy"]["roles"]
        }
        self._roles = sorted(wanted - {"*"})

    def user(self, suffix: str) -> tuple[str, str]:
        """Name and new password of a sample user, without sessions and second factor."""
        name = f"{SAMPLE_USER}-{suffix}"
        if name not in self._passwords:
            password = self._passwords[name] = secrets.token_urlsafe(18)
            try:
                self._functions.operate("users.set_password", username=name, password=password)
            except CommandFailed:  # most likely `not_found`; if not, this says so as well
                self._functions.operate(
                    "users.add", username=name, password=password, roles=self._roles
                )
            self._functions.operate("users.reset_second_factor", username=name)
            self._functions.operate("users.set_roles", username=name, roles=self._roles)
        return name, self._passwords[name]

    def session(self, suffix: str = "main") -> Phone:
        """A phone with a new session."""
        phone = Phone(self._api)
        phone.login(*self.user(suffix))
        return phone

    @property
    def signed_in(self) -> Phone:
        """One phone for all events that leave its session as it is."""
        if self._signed_in is None:
            self._signed_in = self.session()
        return self._signed_in

    def of(self, method: str, resource: str) -> Replay:
        make: Callable[[], Replay] | None = {
            ("POST", "/v1/login"): self._login,
            ("POST", "/v1/token"): self._refresh,
            ("POST", "/v1/revoke"): self._revoke,
            ("GET", "/v1/keys/{name}"): lambda: self._with("name", self._delivered),
            ("POST", "/v1/proxy/{key}"): lambda: self._with("key", self._proxied),
            ("DELETE", "/v1/sessions"): lambda: Replay(self.session("ends-others")),
            ("DELETE", "/v1/sessions/{id}"): self._end_one,
            ("PUT", "/v1/device/encryption-key"): lambda: Replay(self.session()),
            ("POST", "/v1/mfa/totp/confirm"): self._confirm,
            ("POST", "/v1/mfa/totp/remove"): self._remove,
            ("POST", "/v1/password"): self._password,
            ("POST", "/v1/invitations/redeem"): self._redeem,
            ("POST", "/v1/register"): self._register,
        }.get((method, resource))
        return make() if make else Replay(self.signed_in)

    def _login(self) -> Replay:
        username, password = self.user("main")
        phone = Phone(self._api, nonce=self.signed_in.nonce)
        return Replay(phone, {"username": username, "password": password, "device": phone.device})

    def _refresh(self) -> Replay:
        phone = self.session()
        return Replay(phone, {"refresh_token": phone.tokens["refresh_token"]})

    def _revoke(self) -> Replay:
        phone = self.session()
        return Replay(phone, {"token": phone.tokens["refresh_token"]})

    def _with(self, parameter: str, key: str | None) -> Replay:
        """Without a key that will do, the sample's own, which is answered with `not_found`."""
        return Replay(self.signed_in, path={parameter: key} if key else {})

    def _end_one(self) -> Replay:
        return Replay(self.signed_in, path={"id": self.session().tokens["session_id"]})

    def _confirm(self) -> Replay:
        phone = self.session("confirms-totp")
        begun = phone.call("POST", "/v1/mfa/totp")
        return Replay(phone, {"code": _code(begun["secret"], steps_ahead=1)})

    def _remove(self) -> Replay:
        phone = self.session("removes-totp")
        secret = phone.call("POST", "/v1/mfa/totp")["secret"]
        confirmed = phone.call("POST", "/v1/mfa/totp/confirm", {"code": _code(secret)})
        return Replay(phone, {"code": confirmed["recovery_codes"][0]})

    def _password(self) -> Replay:
        phone = self.session("changes-password")
        _, password = self.user("changes-password")
        return Replay(
            phone, {"current_password": password, "new_password": secrets.token_urlsafe(18)}
        )

    def _redeem(self) -> Replay:
        name = f"{SAMPLE_USER}-invited-{secrets.token_hex(4)}"
        invited = self._functions.operate("users.invite", username=name)
        body = {"username": name, "code": invited["code"], "password": secrets.token_urlsafe(18)}
        return Replay(Phone(self._api), body)

    def _register(self) -> Replay:
        name = f"{SAMPLE_USER}-registered-{secrets.token_hex(4)}"
        return Replay(Phone(self._api), {"username": name, "password": secrets.token_urlsafe(18)})


def _by_password(entry: Mapping[str, Any]) -> bool:
    """Whether an iOS app may have the key after a login by password alone, roles aside."""
    policy = entry["policy"] or {"platforms": []}
    return bool({"ios", "*"} & set(policy["platforms"])) and not (
        policy["second_factor"] or policy["attested"]
    )


def _code(secret: str, *, steps_ahead: int = 0) -> str:
    """The TOTP code of a Base32 secret; of the next step it is good for longer."""
    step = int(time.time()) // totp.STEP_SECONDS + steps_ahead
    return totp.code_at(base64.b32decode(secret + "=" * (-len(secret) % 8)), step)


def of_route(sample: Event, api: Api, replay: Replay, *, now: float) -> Event:
    """A proxy event of this API, as ``sample`` is one of another."""
    parameters = {**(sample["pathParameters"] or {}), **replay.path}
    path = sample["resource"]
    for name, value in parameters.items():
        path = path.replace(f"{{{name}}}", value)
    headers = _headers(sample, api.domain, now=now)
    if "x-api-key" in headers:
        headers["x-api-key"] = api.client_key
    _authenticate(headers, replay.phone, sample["httpMethod"], api.issuer + path)
    context = _context(sample, api.api_id, api.stage, api.domain, now=now) | {
        "path": f"/{api.stage}{path}",
        "accountId": api.account,
    }
    identity = context["identity"]
    if identity.get("userArn"):  # signed: whoever it is, of this account
        theirs = str(identity["accountId"])
        context["identity"] = identity | {
            "accountId": api.account,
            "userArn": identity["userArn"].replace(theirs, api.account),
        }
    if "apiKeyId" in identity:
        context["identity"] |= {"apiKey": api.client_key, "apiKeyId": api.client_key_id}
    return sample | {
        "path": path,
        "pathParameters": parameters or None,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "requestContext": context,
        "body": _with_members(sample, replay.body),
    }


def of_another_api(sample: Event, api: Api, phone: Phone, *, now: float) -> Event:
    """The question of another API's authorizer, for a user who is logged in here."""
    theirs = sample["requestContext"]
    url = f"https://{theirs['domainName']}{theirs['path']}"
    if api.endpoint:  # where an API has no domain of its own
        url = f"{api.endpoint}/restapis/{theirs['apiId']}/{theirs['stage']}/_user_request_"
        url += sample["path"]
    headers = _headers(sample, theirs["domainName"], now=now)
    _authenticate(headers, phone, sample["httpMethod"], url)
    return sample | {
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "requestContext": _context(
            sample, theirs["apiId"], theirs["stage"], theirs["domainName"], now=now
        ),
    }


def of_custom_resource(sample: Event, api: Api) -> Event:
    """CloudFormation's request, with the issuer and the clients that the stack has."""
    clients = {platform: [key] for platform, key in api.client_key_ids.items()}
    properties = sample["ResourceProperties"] | {"Issuer": api.issuer, "Clients": clients}
    return sample | {"ResourceProperties": properties}


def _headers(sample: Event, domain: str, *, now: float) -> dict[str, str]:
    trace = f"Root=1-{int(now):08x}-{secrets.token_hex(12)}"
    return {**sample["headers"], "Host": domain, "X-Amzn-Trace-Id": trace}


def _authenticate(headers: dict[str, str], phone: Phone, method: str, url: str) -> None:
    """Put a token and a proof where the sample has them."""
    token = phone.tokens["access_token"] if "Authorization" in headers else None
    if token:
        headers["Authorization"] = f"DPoP {token}"
    if "DPoP" in headers:
        headers["DPoP"] = phone.proof(method, url, access_token=token)


def _context(sample: Event, api_id: str, stage: str, domain: str, *, now: float) -> dict[str, Any]:
    return {
        **sample["requestContext"],
        "apiId": api_id,
        "stage": stage,
        "domainName": domain,
        "domainPrefix": domain.partition(".")[0],
        "requestId": str(uuid.uuid4()),
        "requestTime": f"{datetime.fromtimestamp(now, UTC):%d/%b/%Y:%H:%M:%S +0000}",
        "requestTimeEpoch": int(now * 1000),
        "identity": dict(sample["requestContext"]["identity"]),
    }


def _with_members(sample: Event, members: Mapping[str, Any]) -> str | None:
    """The body of ``sample``, JSON or form, with some of its members replaced."""
    text: str | None = sample["body"]
    if text is None or not members:
        return text
    if sample["isBase64Encoded"]:
        text = base64.b64decode(text).decode()
    if sample["headers"]["Content-Type"].startswith(_JSON):
        text = json.dumps({**json.loads(text), **members})
    else:
        text = urlencode({**dict(parse_qsl(text, strict_parsing=True)), **members})
    return base64.b64encode(text.encode()).decode() if sample["isBase64Encoded"] else text
