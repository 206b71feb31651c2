"""The page of `make demo` is whole by itself, and shows text as text."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from keyferry_cli.local.demo import Step
from keyferry_cli.local.demo_page import page

STEPS = [
    Step("Login <b>", "a & b", "login 200", Counter({"PutItem": 1, "BatchGetItem": 2}), Counter()),
    Step("Refresh", "'x' → \"y\"", "token 200\ntoken 200", Counter(), Counter({"Decrypt": 3})),
]


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_it_shows_every_step_and_loads_nothing(tmp_path: Path) -> None:
    made = page(STEPS, seconds=61.4, pictures=tmp_path)
    found = Elements(made)
    assert found.names["li"] == len(STEPS)
    assert found.names["b"] == 0
    assert found.names["script"] == found.names["img"] == found.names["link"] == 0
    assert all(link.startswith("file://") for link in found.links)
    assert "Login &lt;b&gt;" in made
    assert "a &amp; b" in made
    assert "in 61 s" in made
    assert "2 BatchGetItem\n1 PutItem" in made
    assert re.search(r"https?://", made) is None
