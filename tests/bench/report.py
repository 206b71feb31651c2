"""Tables (Markdown), the plot (SVG) and the JSON of a run; and where they go."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from tests.bench import startup, suite
from tests.bench.cases import delivery_of
from tests.bench.measure import KMS
from tests.conftest import ROOT

RESULTS: Final = ROOT / "tests" / "bench" / "results"
PERFORMANCE: Final = ROOT / "docs" / "performance.md"
README: Final = ROOT / "README.md"
VAULT: Final = ROOT / "docs" / "vault.md"
OPERATIONS: Final = ROOT / "docs" / "operations.md"
PLOT: Final = ROOT / "docs" / "img" / "performance.svg"

PACKAGES: Final = (
    "aws-lambda-powertools",
    "boto3",
    "botocore",
    "cryptography",
    "pydantic",
    "pyjwt",
)

Result = Mapping[str, Any]


def circumstances() -> dict[str, Any]:
    """Under which a run is made: versions and the kind of machine, nothing that names it."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def save(name: str, result: Result) -> None:
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def load(name: str) -> Result:
    found: Result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def between(page: str, marker: str) -> str:
    """The text of a page between two markers."""
    _, _, rest = page.partition(f"<!-- {marker}: begin -->\n")
    text, found, _ = rest.partition(f"<!-- {marker}: end -->")
    if not found:
        raise LookupError(f"no markers for {marker}")
    return text


def write(path: Path, marker: str, text: str) -> None:
    page = path.read_text(encoding="utf-8")
    old = between(page, marker)
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->"
    path.write_text(page.replace(begin + old + end, begin + text + end), encoding="utf-8")


def made_under(result: Result) -> str:
    under = result["circumstances"]
    packages = ", ".join(f"{name} {version}" for name, version in under["packages"].items())
    return (
        f"{under['date']}: Python {under['python']}, {under['system']} on {under['machine']},"
        f" {under['processors']} processors, load {under['load']}; {packages}.\n"
    )


# ---------------------------------------------------------------- the handlers


def handlers(result: Result) -> str:
    lines = [
        f"{result['rounds']} rounds; a figure is the median of them, each the mean of up to"
        f" {result['batch']} requests.",
        "",
        "| request | CPU, ms | quartiles | DynamoDB | KMS | bytes to AWS | from AWS | of the answer |",
        "|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for name, cpu in result["cpu_ms"].items():
        made = result["cost"].get(name)
        cells = ["", "", "", "", ""]
        if made is not None:
            database = [f"{n} {each}" for each, n in made["calls"].items() if each not in KMS]
            kms = sum(n for each, n in made["calls"].items() if each in KMS)
            sizes = (made["sent"], made["received"], made["answer"])
            cells = [", ".join(database) or "none", str(kms), *(f"{size:,}" for size in sizes)]
        spread = f"{cpu['lower']:.2f}–{cpu['upper']:.2f}"
        lines.append(f"| {name} | {cpu['median']:.2f} | {spread} | {' | '.join(cells)} |")
    lines += ["", *ratios(result["ratios"], suite.TARGETS, suite.RATIOS), ""]
    return "\n".join(lines)


def ratios(
    found: Mapping[str, Any],
    targets: Mapping[str, float],
    pairs: Mapping[str, tuple[str, str]],
) -> list[str]:
    lines = [
        "| CPU of | by that of | ratio | quartiles | target |",
        "|---|---|--:|--:|--:|",
    ]
    for name, (of, to) in pairs.items():
        each = found[name]
        target = f"≤ {targets[name]}" if name in targets else ""
        spread = f"{each['lower']:.2f}–{each['upper']:.2f}"
        lines.append(f"| {of} | {to} | **{each['median']:.2f}** | {spread} | {target} |")
    return lines


def starts(result: Result) -> str:
    lines = [
        f"{result['rounds']} rounds of fresh processes, in turn; CPU from the first line to the loaded handler.",
        "",
        "| | CPU, ms | quartiles | by the hello-world | quartiles | target | modules | memory, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, each in sorted(
        result["starts"].items(), key=lambda item: item[1]["cpu_ms"]["median"]
    ):
        cpu, by = each["cpu_ms"], result["ratios"][name]
        target = f"≤ {startup.TARGETS[name]}" if name in startup.TARGETS else ""
        title = f"`{name}`" if (ROOT / "functions" / name).is_dir() else name
        lines.append(
            f"| {title} | {cpu['median']:.0f} | {cpu['lower']:.0f}–{cpu['upper']:.0f} |"
            f" **{by['median']:.2f}** | {by['lower']:.2f}–{by['upper']:.2f} | {target} |"
            f" {each['modules']} | {each['rss_mib']:.0f} |"
        )
    lines += ["", f"The hello-world that is compared with: {result['hello']}.", ""]
    return "\n".join(lines)


def deliveries(result: Result) -> str:
    """The table of docs/vault.md."""
    lines = [
        "| keys | AWS calls, warm | read units | bytes of the answer | processor time | of a 304 |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    base = result["cpu_ms"][delivery_of(1)]["median"]
    for size in suite.VAULTS:
        name = delivery_of(size)
        made = result["cost"][name]
        calls = ", ".join(f"{n} {each}" for each, n in made["calls"].items())
        full = result["cpu_ms"][name]["median"] / base
        none = result["cpu_ms"][f"{name}, nothing new"]["median"] / base
        lines.append(
            f"| {size} | {calls} | {result['read_units'][name]} | {made['answer']:,} |"
            f" {full:.2f} | {none:.2f} |"
        )
    return "\n".join([*lines, ""])


def headline() -> str:
    """The table of the README, of what is kept under `RESULTS`."""
    bench, peers = load("bench"), load("peers")
    warm, started, others = bench["handlers"]["ratios"], bench["starts"]["ratios"], peers["ratios"]
    lines = ["| processor time of | by that of | ratio |", "|---|---|--:|"]
    for of, to, found in (
        ("a refresh", "the same work [all by hand](tests/bench/floor.py)", warm["refresh"]),
        ("a delivery", "the same work all by hand", warm["delivery"]),
        ("a refresh over HTTP", "npm's oidc-provider, with DPoP", others["oidc-provider, DPoP"]),
        ("a refresh over HTTP", "django-oauth-toolkit", others["django-oauth-toolkit"]),
        *(
            (f"a start of `{name}`", "a hello-world with Logger and boto3", started[name])
            for name in startup.TARGETS
        ),
    ):
        lines.append(f"| {of} | {to} | {found['median']:.2f} |")
    return "\n".join([*lines, ""])


# ---------------------------------------------------------------- the plot

_WIDTH: Final = 900
_LEFT: Final = 330
_ROW: Final = 24


def plot(groups: Sequence[tuple[str, Sequence[tuple[str, float, float | None]]]]) -> str:
    """Bars: for each group a title, and for each bar its name, its length and a target, if any."""
    parts: list[str] = []
    y = 20
    for title, bars in groups:
        y += 22
        parts.append(_text(20, y, title, weight="bold"))
        y += 10
        scale = (_WIDTH - _LEFT - 90) / max(max(length, aim or 0) for _, length, aim in bars)
        for name, length, aim in bars:
            within = aim is None or length <= aim
            colour = "#8a9ba8" if aim is None else "#2a9d6f" if within else "#d1495b"
            parts += [
                _text(_LEFT - 10, y + 16, name, anchor="end"),
                f'<rect x="{_LEFT}" y="{y + 3}" width="{max(length * scale, 1):.1f}"'
                f' height="{_ROW - 7}" fill="{colour}"/>',
                _text(_LEFT + length * scale + 8, y + 16, f"{length:.2f}"),
            ]
            if aim is not None:
                x = _LEFT + aim * scale
                parts.append(
                    f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + _ROW - 2}"'
                    ' stroke="#111" stroke-dasharray="3 2"/>'
                )
            y += _ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 16}"'
        ' font-family="system-ui, sans-serif" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{y + 16}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
        f' fill="#111">{escape(text)}</text>'
    )


def bars(result: Result) -> list[tuple[str, list[tuple[str, float, float | None]]]]:
    """Of a run of `make bench`."""
    found, started = result["handlers"]["ratios"], result["starts"]["ratios"]
    return [
        (
            "CPU of a warm request, by that of the other one; dashed: target",
            [
                (f"{of} / {to}", found[name]["median"], suite.TARGETS.get(name))
                for name, (of, to) in suite.RATIOS.items()
            ],
        ),
        (
            "CPU of a start, by that of the hello-world",
            [
                (name, each["median"], startup.TARGETS.get(name))
                for name, each in sorted(started.items(), key=lambda item: item[1]["median"])
            ],
        ),
    ]
