"""No block of the documentation is left to itself: it is run, or it says why not."""

from __future__ import annotations

import ast
import json
import re

import pytest

from tests.prose import ELSEWHERE, NOT_RUN, ROOT, Block, all_blocks

NOT_TESTED = re.compile(r"not run by this project", re.IGNORECASE)

COMPILED = {
    ("java", "docs/mobile/android.md"): "tests/mobile/test_vectors.py",
    ("ts", "docs/clients/typescript/README.md"): "tests/e2e/clients/script_apps.py",
}
"""Blocks of one language on one page, and what of the tests compiles them all."""

WITHOUT_EFFECT = {"text", "mermaid"}
"""For people to read, in no language that could be run."""


@pytest.mark.parametrize("block", all_blocks(), ids=str)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    match block.language:
        case "sh":
            if block.said.startswith(ELSEWHERE):
                assert (ROOT / block.said.removeprefix(ELSEWHERE)).is_file()
            else:
                reason = block.said.removeprefix(NOT_RUN)
                assert block.said in ("", "serve") or (reason != block.said and len(reason) > 10)
        case "json":
            json.loads(block.text)
        case "python":
            ast.parse(block.text)
        case language if (language, page := block.page.relative_to(ROOT).as_posix()) in COMPILED:
            source = (ROOT / COMPILED[language, page]).read_text(encoding="utf-8")
            assert f"```{language}" in source or f'block.language == "{language}"' in source
        case language if language not in WITHOUT_EFFECT:
            # No compiler for it here: the block says so itself, where whoever copies it sees it.
            assert language in ("dart", "kotlin", "swift", "ts", "xml"), (
                "a language that is not known"
            )
            assert NOT_TESTED.search(block.text.splitlines()[0])


def test_what_was_run_is_said_at_the_head_of_every_mobile_guide() -> None:
    guides = sorted((ROOT / "docs" / "mobile").glob("*.md"))
    assert [each.name for each in guides] == [
        "android.md",
        "flutter.md",
        "ios.md",
        "react-native.md",
    ]
    for guide in guides:
        assert "**What was run.**" in guide.read_text(encoding="utf-8")[:800]
        assert "\n## The first hour\n" in guide.read_text(encoding="utf-8")
