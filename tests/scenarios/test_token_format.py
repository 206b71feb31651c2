"""Tokens that were changed, outlived, mistaken for one another, or written down."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import jwt
import pytest
from joserfc import jwe
from joserfc.jwk import ECKey

from keyferry.config import DAY
from keyferry.jose import base64url, rfc7515_jws
from keyferry.tokens.refresh import PREFIX
from tests.conftest import ROOT
from tests.e2e import test_secrets as secrets
from tests.e2e.device import new_key
from tests.e2e.test_main_path import is_error
from tests.scenarios.system import IDLE

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack
    from tests.scenarios.system import Phone, System


class TestForgery:
    def test_26_each_bit_flipped(self, system: System, phone: Phone) -> None:
        """Refused, and nothing in AWS is asked: neither the table nor KMS."""
        assert phone.refresh().status_code == 200
        token = phone.tokens["refresh_token"]
        raw = base64url.decode(token.removeprefix(PREFIX))
        proof = phone.proof("POST", "/v1/token")
        calls = len(system.aws.calls)
        for bit in range(8 * len(raw)):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            forged = PREFIX + base64url.encode(bytes(flipped))
            is_error(phone.refresh(forged, proof=proof), 400, "invalid_grant")
        assert len(system.aws.calls) == calls
        assert phone.refresh(proof=proof).status_code == 200
        assert len(system.aws.calls) == calls + 1

    def test_26_each_character_changed(self, system: System, phone: Phone) -> None:
        """The text has no bit that does not count."""
        assert phone.refresh().status_code == 200
        token = phone.tokens["refresh_token"]
        proof = phone.proof("POST", "/v1/token")
        calls = len(system.aws.calls)
        for position, character in enumerate(token):
            for other in (chr(ord(character) ^ 1), "", character + character):
                forged = token[:position] + other + token[position + 1 :]
                is_error(phone.refresh(forged, proof=proof), 400, "invalid_grant")
        assert len(system.aws.calls) == calls


class TestMacKeys:
    def test_27_an_old_mac_key_until_it_is_retired(self, system: System, phone: Phone) -> None:
        lost = phone.refresh(keep=False).json()["refresh_token"]
        old = system.parse(phone.tokens["refresh_token"]).kid
        system.sleep(2 * DAY)
        system.keyring("keyring.rotate", now=True)
        system.start_cold()
        assert phone.refresh().json()["refresh_token"] == lost, "also across a rotation of keys"
        assert system.parse(lost).kid == old
        old_token = phone.tokens["refresh_token"]
        assert phone.refresh().status_code == 200
        assert system.parse(phone.tokens["refresh_token"]).kid != old
        # No session that could still need the old key lives as long as it is kept.
        system.sleep(2 * IDLE + DAY - 1)
        system.keyring("keyring.rotate")
        system.start_cold()
        assert self.reaches_the_table(system, phone, old_token), "kept until the last second"
        system.sleep(1)
        system.keyring("keyring.rotate")
        system.start_cold()
        assert old not in {key["kid"] for key in system.keyring("keyring.show")["keys"]}
        assert not self.reaches_the_table(system, phone, old_token), "refused by its MAC"

    def test_27_a_revoked_mac_key_within_a_minute(self, system: System, phone: Phone) -> None:
        assert phone.refresh().status_code == 200
        kid = system.parse(phone.tokens["refresh_token"]).kid
        system.keyring("keyring.revoke", kid=kid)
        assert self.reaches_the_table(system, phone, phone.tokens["refresh_token"])
        system.sleep(60)
        assert not self.reaches_the_table(system, phone, phone.tokens["refresh_token"])
        again = system.phone(phone.username)
        assert again.refresh().status_code == 200

    def reaches_the_table(self, system: System, phone: Phone, token: str) -> bool:
        calls = len(system.aws.calls)
        response = phone.refresh(token, keep=False)
        asked = "dynamodb:UpdateItem" in system.aws.operations()[calls:]
        if not asked:
            is_error(response, 400, "invalid_grant")
        return asked


class TestMistakenIdentity:
    def test_28_a_refresh_token_sent_as_access_token(self, phone: Phone) -> None:
        phone.tokens["access_token"] = phone.tokens["refresh_token"]
        refused_as_access_token(phone)

    def test_28_an_access_token_sent_as_refresh_token(self, phone: Phone) -> None:
        is_error(phone.refresh(phone.tokens["access_token"]), 400, "invalid_grant")

    def test_28_a_delivery_sent_as_either(self, phone: Phone) -> None:
        """It is a JWT, and signed with the same key as an access token."""
        key = ECKey.import_key(phone.private_encryption_jwk())
        opened = jwe.decrypt_compact(phone.keys().text, key, algorithms=["ECDH-ES", "A256GCM"])
        signed = (opened.plaintext or b"").decode()
        is_error(phone.refresh(signed), 400, "invalid_grant")
        phone.tokens["access_token"] = signed
        refused_as_access_token(phone)

    def test_28_a_proof_sent_as_access_token(self, phone: Phone) -> None:
        phone.tokens["access_token"] = phone.proof("GET", "/v1/keys")
        refused_as_access_token(phone)

    @pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt", None])
    def test_28_an_id_token_sent_as_either(
        self, system: System, phone: Phone, typ: str | None
    ) -> None:
        """Another issuer's, with the claims and the kid of ours; and were it ever ours, by typ."""
        claims = jwt.decode(phone.tokens["access_token"], options={"verify_signature": False})
        kid, ours = system.unwrapped().signing_key()
        foreign = jwt.encode(claims, new_key(), algorithm="ES256", headers={"typ": typ, "kid": kid})
        tokens = [foreign]
        if typ != "at+jwt":
            tokens.append(rfc7515_jws.sign_es256(typ=typ or "", kid=kid, claims=claims, key=ours))
        good = phone.tokens["access_token"]
        for token in tokens:
            is_error(phone.refresh(token), 400, "invalid_grant")
            phone.tokens["access_token"] = token
            refused_as_access_token(phone)
        phone.tokens["access_token"] = good
        assert phone.keys().status_code == 200


def refused_as_access_token(phone: Phone) -> None:
    for method, path in (("GET", "/v1/keys"), ("GET", "/v1/sessions"), ("DELETE", "/v1/sessions")):
        is_error(phone.resource(method, path), 401, "invalid_token")


class TestWrittenDown:
    def test_29_no_token_in_logs_metrics_or_tables(
        self, lived: list[str], stack: LocalStack
    ) -> None:
        """Metrics are lines of the log. ``lived`` has looked at the bodies of errors."""
        secrets.test_logs(lived, stack)
        secrets.test_tables(lived, stack)

    def test_29_no_token_in_access_logs_or_traces(self) -> None:
        template = (ROOT / "template.yaml").read_text(encoding="utf-8")
        (line,) = re.findall(r"^ +Format: '(.+)'$", template, re.MULTILINE)
        assert set(json.loads(line).values()) == {
            f"$context.{name}"
            for name in (
                *("requestId", "identity.sourceIp", "httpMethod", "resourcePath", "status"),
                *("identity.apiKeyId", "responseLatency", "error.responseType"),
                *("tlsVersion", "waf.status", "xrayTraceId"),
            )
        }
        assert "DataTraceEnabled: true" not in template
        for source in ROOT.glob("layers/keyferry/keyferry/**/*.py"):
            text = source.read_text(encoding="utf-8")
            # Lines name the trace that they belong to; nothing else here has to do with traces.
            text = text.replace("xray_trace_id", "")
            assert not re.search("xray|tracer|put_annotation|put_metadata", text.lower()), source
