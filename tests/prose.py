"""The fenced blocks of the Markdown pages, and what is to become of each.

The first word after the fence is the language. A shell block (``sh``) is run, unless the rest says
otherwise: ``serve`` is started and stays up, ``not-run: reason`` needs what a test does not have, and
``elsewhere: file`` is run, in effect, by that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

_BLOCK: Final = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)

NOT_RUN: Final = "not-run: "
ELSEWHERE: Final = "elsewhere: "


@dataclass(frozen=True)
class Block:
    """``text`` is without the indentation of a list that the block stands in."""

    page: Path
    line: int
    language: str
    said: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language == "sh" and self.said == ""


def pages() -> list[Path]:
    """Every page of the repository, but those that came with an installation."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "events").glob("*.md")]
    found += [*(ROOT / ".github").rglob("*.md"), *(ROOT / "tests").glob("*/README.md")]
    return sorted(path for path in found if "node_modules" not in path.parts)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        indentation, _, info, body = match.groups()
        language, _, said = info.strip().partition(" ")
        lines = (line.removeprefix(indentation) for line in body.splitlines())
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, language, said, "\n".join(lines) + "\n")
    fences = [each for each in text.splitlines() if each.lstrip().startswith("```")]
    if len(fences) != 2 * len(_BLOCK.findall(text)):
        raise ValueError(f"{page}: a fence is not closed where it was opened")


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]
