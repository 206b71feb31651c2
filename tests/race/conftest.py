"""Races run against the deployed stack; its fixtures are those of the end-to-end tests."""

from tests.e2e.conftest import (  # noqa: F401 -- pytest finds fixtures by name in this module
    device,
    http,
    new_device,
    operator,
    pytest_collection_modifyitems,
    stack,
    upstream,
    username,
)
