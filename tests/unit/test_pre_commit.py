"""The hooks are make targets, and fetch nothing."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.prose import ROOT


def test_every_hook_is_a_target_that_there_is() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(text)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        make, target, *rest = hook["entry"].split()
        assert make == "make"
        assert re.search(rf"^{target}: ", makefile, re.MULTILINE)
        for word in rest:
            path = word.strip("'")
            assert not path.startswith("tests/") or (ROOT / path).is_file()
