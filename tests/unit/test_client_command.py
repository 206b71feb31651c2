"""`python -m keyferry_client`: the device's part of a request, for curl."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from keyferry_client.__main__ import main
from keyferry_client.device import SoftwareDeviceKeys
from keyferry_client.dpop import access_token_hash
from keyferry_client.jose import b64decode, json_object

TOKENS = {"access_token": "a.b.c", "refresh_token": "kfr_secret"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "session.json").write_text(json.dumps(TOKENS))
    return tmp_path


def claims(header_line: str) -> dict[str, object]:
    proof = header_line.removeprefix('header = "DPoP: ').removesuffix('"')
    return json_object(b64decode(proof.split(".")[1]))


def test_device_keys_are_made_once_and_for_their_owner_only(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["proof", "POST", "https://h/v1/login"]) == 0
    capsys.readouterr()
    file = folder / "keyferry-device.json"
    assert file.stat().st_mode & 0o077 == 0
    first, second = SoftwareDeviceKeys.restore(json.loads(file.read_text())), file.read_text()
    assert main(["proof", "POST", "https://h/v1/login"]) == 0
    assert file.read_text() == second
    assert first.signing_jwk["crv"] == "P-256"


def test_proof_is_printed_as_curl_configuration(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["proof", "get", "https://h/v1/keys?names=a", "--session", "session.json"]) == 0
    proof, authorization = capsys.readouterr().out.splitlines()
    assert claims(proof)["htm"] == "GET"
    assert claims(proof)["htu"] == "https://h/v1/keys"
    assert claims(proof)["ath"] == access_token_hash("a.b.c")
    assert authorization == 'header = "Authorization: DPoP a.b.c"'
    assert (folder / "keyferry-device.json.jti").read_text() == claims(proof)["jti"]


def test_refresh_adds_the_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["proof", "POST", "https://h/v1/token", "--refresh", "session.json", "--nonce", "n"]
    assert main(arguments) == 0
    proof, data = capsys.readouterr().out.splitlines()
    assert claims(proof)["nonce"] == "n"
    assert "ath" not in claims(proof)
    assert data == 'data = "grant_type=refresh_token&refresh_token=kfr_secret"'


def test_login_body_takes_the_password_from_standard_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('pass"word\n'))
    assert main(["--device", "other.json", "login-body", "ana"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["username"], body["password"]) == ("ana", 'pass"word')
    device = SoftwareDeviceKeys.restore(json.loads((folder / "other.json").read_text()))
    assert body["device"]["encryption_key"] == device.encryption_jwk


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"access_token": 1, "refresh_token": "x"}'])
def test_what_is_no_session_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (folder / "session.json").write_text(text)
    assert main(["proof", "GET", "https://h/v1/keys", "--session", "session.json"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "keyferry_client: session.json is not a token response\n"


@pytest.mark.parametrize("text", ["", "[]", '{"signing": "x", "encryption": "y"}'])
def test_what_are_no_device_keys_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (folder / "keyferry-device.json").write_text(text)
    assert main(["proof", "GET", "https://h/v1/keys"]) == 1
    assert capsys.readouterr().err.endswith("does not hold device keys\n")


def test_empty_password_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main(["login-body", "ana"]) == 1
    assert "no password" in capsys.readouterr().err
