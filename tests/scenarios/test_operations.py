"""What docs/operations.md promises: a domain that changes, and metrics that alarms stand on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jwt
import pytest

from tests.e2e.test_main_path import is_error
from tests.scenarios.system import Reply

if TYPE_CHECKING:
    from tests.scenarios.system import Phone, System

MOVED = "https://auth.example.com"


class TestAnotherDomain:
    def test_nobody_is_logged_out(self, system: System, phone: Phone) -> None:
        assert phone.keys().status_code == 200
        system.move(MOVED)
        phone = replace(phone, api_url=MOVED)
        is_error(phone.keys(), 401, "invalid_token")
        assert phone.refresh().status_code == 200
        claims = jwt.decode(phone.tokens["access_token"], options={"verify_signature": False})
        assert (claims["iss"], claims["aud"]) == (MOVED, MOVED)
        assert phone.keys().status_code == 200

    def test_a_proof_for_the_old_address_is_refused(self, system: System, phone: Phone) -> None:
        old = phone.fresh_proof("POST", "/v1/token")
        system.move(MOVED)
        phone = replace(phone, api_url=MOVED)
        is_error(phone.refresh(keep=False, proof=old), 400, "invalid_dpop_proof")
        assert phone.refresh().status_code == 200


class TestMetrics:
    @pytest.mark.parametrize(
        ("failure", "status", "metric"),
        [
            (Reply(400, "ThrottlingException"), 503, "Unavailable"),
            (Reply(500), 503, "Unavailable"),
            (Reply(400, "ValidationException"), 500, "RequestFailed"),
        ],
        ids=str,
    )
    def test_a_table_that_fails(
        self, system: System, phone: Phone, failure: Reply, status: int, metric: str
    ) -> None:
        system.metrics()
        with system.failing("dynamodb:UpdateItem", failure):
            assert phone.refresh(keep=False).status_code == status
        assert system.metrics() == [metric]

    @pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
    def test_kms_that_throttles_or_refuses(self, system: System, phone: Phone, code: str) -> None:
        system.start_cold()
        system.metrics()
        with system.failing("kms:Decrypt", Reply(400, code)):
            assert phone.refresh(keep=False).status_code == 503
        assert system.metrics() == ["KmsUnavailable"]

    def test_every_run_of_the_keyring_is_counted(self, system: System) -> None:
        system.metrics()
        system.keyring("keyring.rotate")
        assert system.metrics() == ["KeyringMaintained"], "nothing was due"
        system.sleep(61 * 86_400)
        system.keyring("keyring.rotate")
        assert system.metrics() == ["KeyringMaintained", "KeyringChanged"]

    def test_a_run_that_fails_is_not(self, system: System) -> None:
        system.metrics()
        with system.failing("dynamodb:GetItem", Reply(400, "ThrottlingException")):
            answer = system.invoke("rotate_keyring", {"command": "keyring.rotate"})
        assert answer["error"]["error"] == "temporarily_unavailable"
        assert system.metrics() == []
