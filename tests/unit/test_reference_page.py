"""The page of `make serve`: whole by itself, and for this machine alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from keyferry_cli.local.environments import EnvironmentFailedError
from keyferry_cli.local.reference_page import files, served
from keyferry_cli.openapi.document import document

API_URL = "http://127.0.0.1:4566/restapis/a1/dev/_user_request_"


@pytest.fixture(scope="module")
def page(node_modules: Path) -> Iterator[str]:
    with served(files(API_URL)) as url:
        yield url


def test_it_shows_the_document_of_the_stack(page: str) -> None:
    answer = httpx.get(page + "openapi.json", trust_env=False)
    assert answer.json() == json.loads(json.dumps(document(API_URL)))


def test_everything_that_it_names_is_served_here(page: str) -> None:
    html = httpx.get(page, trust_env=False).text
    scripts = re.findall(r'src="([^"]*)"', html)
    named = [*scripts]
    for script in scripts:
        source = httpx.get(page + script.lstrip("/"), trust_env=False).text
        named += re.findall(r'(?:from |fetch\()"([^"]*)"', source)
    assert len(named) == 3
    for path in named:
        assert path.startswith("/")
        assert not path.startswith("//")
        assert httpx.get(page + path.lstrip("/"), trust_env=False).status_code == 200


def test_it_may_load_nothing_from_elsewhere(page: str) -> None:
    policy = httpx.get(page, trust_env=False).headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|\*|unsafe-eval", policy)
    assert "script-src 'self';" in policy


def test_it_is_on_this_machine_under_no_other_name(page: str) -> None:
    assert urlsplit(page).hostname == "127.0.0.1"
    other = httpx.get(page, headers={"Host": "rebound.example"}, trust_env=False)
    assert other.status_code == 421


def test_another_path_is_none(page: str) -> None:
    assert httpx.get(page + "etc/passwd", trust_env=False).status_code == 404


def test_without_npm_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFailedError, match="npm is not installed"):
        files(API_URL)
