"""What the layers weigh, and why each package is in them: a table for docs/performance.md.

    python -m tests.bench.layer_weight [--built .aws-sam/build] [--write docs/performance.md]

Reads what `make build` made for Lambda. Megabytes are of 10^6 bytes, unpacked; the limit of a function
with its layers is 250 MB (Lambda quotas).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

REASONS: Final[Mapping[str, str]] = {
    "cryptography": "all cryptography; nine tenths of it are OpenSSL",
    "_cffi_backend": "cryptography's compiled code",
    "bcrypt": "password hashes that other systems made",
    "aws_lambda_powertools": "logger and metrics of every function",
    "jmespath": "imported by Powertools and boto3",
    "typing_extensions": "imported by Powertools and pydantic",
    "pydantic": "bodies of the routes beside login and refresh, operator commands",
    "pydantic_core": "pydantic's compiled code",
    "annotated_types": "imported by pydantic",
    "typing_inspection": "imported by pydantic",
    "jwt": "ID tokens of other issuers",
    "boto3": "AWS client of `operator` and `rotate_keyring`",
    "botocore": "boto3's client code, with the models of DynamoDB and KMS",
    "s3transfer": "imported by boto3",
    "urllib3": "imported by botocore",
    "dateutil": "imported by botocore",
    "six": "imported by dateutil",
    "keyferry": "Keyferry itself",
}

BEGIN, END = "<!-- layers: begin -->\n", "<!-- layers: end -->\n"


class Weight(NamedTuple):
    package: str
    code: int
    """Bytes of sources, compiled libraries and data."""
    byte_code: int


def weigh(packages: Path) -> list[Weight]:
    """The packages of one layer, the heaviest first; metadata of an installation is left out."""
    code: Counter[str] = Counter()
    byte_code: Counter[str] = Counter()
    for file in packages.rglob("*"):
        if not file.is_file():
            continue
        inside = file.relative_to(packages)
        top = inside.parts[0]
        if top.endswith(".dist-info"):
            continue
        if top == "__pycache__":  # of modules that are one file
            top = inside.parts[1]
        counted = byte_code if file.suffix == ".pyc" else code
        counted[top.partition(".")[0]] += file.stat().st_size
    weights = [Weight(name, code[name], byte_code[name]) for name in code.keys() | byte_code.keys()]
    return sorted(weights, key=lambda each: (-each.code - each.byte_code, each.package))


def table(weights: list[Weight]) -> str:
    """Raise `KeyError` for a package that nobody has given a reason for."""

    def megabytes(size: int) -> str:
        return f"{size / 1e6:.1f}"

    rows = [
        f"| `{each.package}` | {megabytes(each.code)} | {megabytes(each.byte_code)} "
        f"| {REASONS[each.package]} |"
        for each in weights
    ]
    code = sum(each.code for each in weights)
    byte_code = sum(each.byte_code for each in weights)
    rows.append(f"| **together** | **{megabytes(code)}** | **{megabytes(byte_code)}** | |")
    head = ["| package | MB | MB of byte code | why |", "|---|--:|--:|---|"]
    return "\n".join([*head, *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--built", type=Path, default=Path(".aws-sam") / "build")
    parser.add_argument("--write", type=Path, help="page with the markers of the table")
    arguments = parser.parse_args()
    layers = [arguments.built / name / "python" for name in ("DepsLayer", "KeyferryLayer")]
    if not all(layer.is_dir() for layer in layers):
        sys.exit(f"no layers in {arguments.built}: run `make build` first")
    weights = [each for layer in layers for each in weigh(layer)]
    text = table(sorted(weights, key=lambda each: -each.code - each.byte_code))
    print(text, end="")  # noqa: T201
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        arguments.write.write_text(before + BEGIN + text + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
