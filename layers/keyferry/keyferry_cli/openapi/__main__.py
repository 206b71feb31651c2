"""`python -m keyferry_cli.openapi FILE` writes the document of no stack in particular."""

import sys
from pathlib import Path

from keyferry_cli.openapi.document import text

Path(sys.argv[1]).write_text(text(), encoding="utf-8")
