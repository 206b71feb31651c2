"""The reference client shows, ends and leaves sessions of a deployed stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyferry_client import (
    Config,
    KeyferryClient,
    LoggedOut,
    MemoryStorage,
    Rejected,
    SoftwareDeviceKeys,
)
from tests.e2e.conftest import PASSWORD, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyferry_cli.local.stack import LocalStack


@pytest.fixture
def apps(stack: LocalStack, username: str) -> Iterator[list[KeyferryClient]]:
    """One user's app on three devices, the oldest first."""
    config = Config(stack.api_url, client_id="ios", client_key=stack.client_keys["ios"], timeout=30)
    made = [
        KeyferryClient(config, SoftwareDeviceKeys.generate(), MemoryStorage()) for _ in range(3)
    ]
    for number, app in enumerate(made):
        app.login(username, PASSWORD, device_name=f"Phone {number}", app_version="1.0.0")
    yield made
    for app in made:
        app.close()


def is_over(app: KeyferryClient) -> None:
    with pytest.raises(LoggedOut):
        app.keys()
    assert app.state is None


def test_a_user_sees_and_ends_sessions(apps: list[KeyferryClient]) -> None:
    first, second, third = apps
    sessions = {each.device: each for each in second.sessions()}
    assert set(sessions) == {"Phone 0", "Phone 1", "Phone 2"}
    assert [name for name, each in sessions.items() if each.current] == ["Phone 1"]

    second.end_session(sessions["Phone 0"].id)
    is_over(first)
    with pytest.raises(Rejected, match="not_found"):
        second.end_session(sessions["Phone 0"].id)
    assert second.end_other_sessions() == 1
    is_over(third)
    assert [each.current for each in second.sessions()] == [True]
    assert second.key("maps").value == SECRETS["maps"]


def test_logout_ends_the_session_on_the_server_too(
    apps: list[KeyferryClient], stack: LocalStack
) -> None:
    app, other, _ = apps
    state = app.refresh()
    assert app.logout() is True
    is_over(app)
    assert state.session_id not in {each.id for each in other.sessions()}
    assert '"ended":1,"by":"revoke"' in stack.logs("sessions")
