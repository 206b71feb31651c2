"""A stack with ``RequireDPoP=false``: clients without a device key, under the stricter rule."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from keyferry.sessions.rotation import BEARER_RETRIES_PER_DAY
from tests.e2e.conftest import PASSWORD
from tests.e2e.test_accounts import NEW_PASSWORD
from tests.e2e.test_attacks import thief_of
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.device import Device


def keys(device: Device) -> httpx.Response:
    headers = {"Authorization": f"Bearer {device.tokens['access_token']}"}
    return device.call("GET", "/v1/keys", headers=headers, proof=None)


def refresh(device: Device, token: str | None = None, *, keep: bool = True) -> httpx.Response:
    return device.refresh(token, keep=keep, proof=None)


def test_bearer_tokens(bearer_device: Device) -> None:
    assert bearer_device.tokens["token_type"] == "Bearer"
    response = keys(bearer_device)
    assert response.status_code == 200
    assert bearer_device.open(response)["proof_jti"] is None
    assert refresh(bearer_device).status_code == 200


def test_lost_replies_within_the_budget(bearer_device: Device) -> None:
    token = bearer_device.tokens["refresh_token"]
    successor = refresh(bearer_device, token).json()["refresh_token"]
    for _ in range(BEARER_RETRIES_PER_DAY):
        assert refresh(bearer_device, token).json()["refresh_token"] == successor
    is_error(refresh(bearer_device, token, keep=False), 400, "invalid_grant")
    is_error(refresh(bearer_device, successor, keep=False), 400, "invalid_grant")
    is_error(keys(bearer_device), 401, "invalid_token")


def test_an_ancestor_is_theft(bearer_device: Device) -> None:
    thief = thief_of(bearer_device, with_key=False)
    refresh(bearer_device)
    refresh(bearer_device)
    is_error(refresh(thief), 400, "invalid_grant")
    is_error(refresh(bearer_device), 400, "invalid_grant")


def test_a_shadow_is_found_within_the_budget(bearer_device: Device) -> None:
    """A thief who follows each refresh by a moment uses up the budget and ends the session."""
    for cycle in range(2 * BEARER_RETRIES_PER_DAY):
        token = bearer_device.tokens["refresh_token"]
        if refresh(bearer_device).status_code != 200:
            break
        refresh(bearer_device, token, keep=False)
        assert cycle <= BEARER_RETRIES_PER_DAY
    else:
        raise AssertionError("the thief was never found")
    is_error(refresh(bearer_device), 400, "invalid_grant")


def test_bound_sessions_stay_bound(checked_device: Device) -> None:
    """A device with a key is as safe here as where keys are required."""
    # Not invalid_grant: a header lost on the way must not send the owner to the login screen.
    is_error(refresh(checked_device), 400, "invalid_dpop_proof")
    headers = {"Authorization": f"Bearer {checked_device.tokens['access_token']}"}
    response = checked_device.call("GET", "/v1/keys", headers=headers, proof=None)
    is_error(response, 401, "invalid_token")
    assert checked_device.refresh().status_code == 200


def test_a_bearer_session_can_not_be_taken_over_with_a_key(bearer_device: Device) -> None:
    is_error(bearer_device.refresh(), 400, "invalid_grant")
    assert refresh(bearer_device).status_code == 200


def test_a_retry_a_moment_too_late(bearer_device: Device, bearer_stack: LocalStack) -> None:
    """The row is set back in time instead of waiting for a minute."""
    token = bearer_device.tokens["refresh_token"]
    refresh(bearer_device)
    client = bearer_stack.boto3_client("dynamodb")
    table = bearer_stack.outputs["SessionsTable"]
    items = client.scan(TableName=table)["Items"]
    sid = bearer_device.tokens["session_id"]
    (row,) = (item for item in items if item["sid"]["S"] == sid)
    client.update_item(
        TableName=table,
        Key={"sub": row["sub"], "sid": row["sid"]},
        UpdateExpression="SET rotated_at = :then",
        ExpressionAttributeValues={":then": {"N": str(int(time.time()) - 61)}},
    )
    client.close()
    is_error(refresh(bearer_device, token), 400, "invalid_grant")
    is_error(keys(bearer_device), 401, "invalid_token")


def test_a_password_change_clears_the_account(bearer_device: Device) -> None:
    """Without a device key there is no known device: what is counted is the account's."""

    def change(current: str, new: str) -> tuple[int, str | None]:
        while True:
            response = bearer_device.http.post(
                f"{bearer_device.api_url}/v1/password",
                headers={
                    "x-api-key": bearer_device.client_key,
                    "Authorization": f"Bearer {bearer_device.tokens['access_token']}",
                },
                json={"current_password": current, "new_password": new},
            )
            error = response.json().get("error")
            if error != "temporarily_unavailable":  # from the usage plan
                return response.status_code, error
            time.sleep(1)

    wrong = [change("wrong", NEW_PASSWORD) for _ in range(4)]
    assert change(PASSWORD, NEW_PASSWORD) == (200, None)
    wrong += [change("wrong", NEW_PASSWORD) for _ in range(4)]
    assert wrong == 8 * [(403, "wrong_password")]  # of five that are free
