"""The device's part of a request, for use with curl: `python -m keyferry_client --help`.

curl can send everything but a DPoP proof, which has to be signed by the device key. `proof` prints
it in curl's own configuration format, to be read with `curl -K -`; tokens and proofs thus never
stand in an argument list, which every user of a machine can read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from .delivery import TYP, Expected, open_delivery
from .device import SoftwareDeviceKeys
from .discovery import Discovery
from .dpop import make_proof
from .errors import KeyferryError
from .jose import thumbprint, verify_jwt


class Refused(Exception):
    """A mistake in what was asked for, told in one line."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except (Refused, KeyferryError, httpx.HTTPError, OSError) as error:
        print(f"keyferry_client: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m keyferry_client", description=__doc__)
    parser.add_argument(
        "--device",
        type=Path,
        default=Path(os.environ.get("KEYFERRY_DEVICE", "keyferry-device.json")),
        help="file with this device's keys, made when missing (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    login = commands.add_parser("login-body", help="print the body of POST /v1/login")
    login.add_argument("username", help="the password is read from standard input")
    login.add_argument("--platform", default="ios")
    login.add_argument("--app-version", default="1.0.0")

    proof = commands.add_parser("proof", help="print the DPoP header of one request, for curl -K -")
    proof.add_argument("method")
    proof.add_argument("url")
    proof.add_argument("--nonce", help="the newest DPoP-Nonce, when the server asked for one")
    session = proof.add_mutually_exclusive_group()
    session.add_argument(
        "--session", type=Path, help="token response: adds its access token as Authorization"
    )
    session.add_argument(
        "--refresh", type=Path, help="token response: adds its refresh token as request body"
    )

    opening = commands.add_parser("open", help="decrypt and verify a delivery; print its keys")
    opening.add_argument("delivery", type=Path, help="the body of GET /v1/keys")
    opening.add_argument("--session", type=Path, required=True, help="token response")
    opening.add_argument("--issuer", required=True, help="the stack's ApiUrl")
    opening.add_argument("--client-id", default="ios")
    return parser


def _login_body(options: argparse.Namespace) -> None:
    password = sys.stdin.read().removesuffix("\n")
    if not password:
        raise Refused("no password on standard input")
    device = {
        "name": "curl",
        "platform": options.platform,
        "app_version": options.app_version,
        "encryption_key": dict(_device(options.device).encryption_jwk),
    }
    print(json.dumps({"username": options.username, "password": password, "device": device}))


def _proof(options: argparse.Namespace) -> None:
    access_token = None
    if options.session:
        access_token = _session(options.session)["access_token"]
    proof = make_proof(
        _device(options.device),
        options.method.upper(),
        options.url,
        issued_at=int(time.time()),
        nonce=options.nonce,
        access_token=access_token,
        encryption_kid=thumbprint(_device(options.device).encryption_jwk),
    )
    # A delivery repeats the jti of the proof that asked for it; `open` compares the two.
    _write_private(_last_jti(options.device), proof.jti)
    print(f'header = "DPoP: {proof.header}"')
    if access_token:
        print(f'header = "Authorization: DPoP {access_token}"')
    if options.refresh:
        refresh_token = _session(options.refresh)["refresh_token"]
        print(f'data = "grant_type=refresh_token&refresh_token={refresh_token}"')


def _open(options: argparse.Namespace) -> None:
    with httpx.Client(timeout=10) as http:
        discovery = Discovery(
            options.issuer, lambda url: http.get(url).raise_for_status(), time.time
        )
        access_token = _session(options.session)["access_token"]
        proof = _last_jti(options.device)
        session = verify_jwt(
            access_token, typ="at+jwt", jwk=discovery.key_for(access_token, typ="at+jwt")
        )
        expected = Expected(
            issuer=discovery.metadata().issuer,
            client_id=options.client_id,
            subject=session["sub"],
            session_id=session["sid"],
            proof_jti=proof.read_text(),
        )
        delivery = open_delivery(
            options.delivery.read_text().strip(),
            _device(options.device),
            expected,
            signing_key=lambda token: discovery.key_for(token, typ=TYP),
        )
    for name, key in delivery.keys.items():
        print(f"{name}\tversion {key.version}\t{key.value}")
    for name, reason in delivery.refused.items():
        print(f"{name}\twithheld: {reason}", file=sys.stderr)


_COMMANDS = {"login-body": _login_body, "proof": _proof, "open": _open}


def _device(path: Path) -> SoftwareDeviceKeys:
    if not path.exists():
        _write_private(path, json.dumps(SoftwareDeviceKeys.generate().export()))
    try:
        return SoftwareDeviceKeys.restore(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} does not hold device keys") from error


def _last_jti(device: Path) -> Path:
    return device.with_name(device.name + ".jti")


def _session(path: Path) -> dict[str, Any]:
    try:
        reply = json.loads(path.read_text())
        if isinstance(reply["access_token"], str) and isinstance(reply["refresh_token"], str):
            return dict(reply)
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is not a token response") from error
    raise Refused(f"{path} is not a token response")


def _write_private(path: Path, text: str) -> None:
    # Created readable by its owner only; a chmod after the fact would leave a moment for others.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
