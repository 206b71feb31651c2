"""`make diagram`: write docs/img/architecture.svg."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.architecture.drawing import draw
from tests.architecture.template import read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.parse_args().out.write_text(draw(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
