"""The tables (Markdown) and the plot (SVG) of a run."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from keyferry.config import DAY
from tests.simulation.phones import HOUR, MINUTE, Happened, Logouts
from tests.simulation.rules import KEYFERRY, RULES
from tests.simulation.thieves import THEFTS, THIEVES, Fate, Result


@dataclass(frozen=True, slots=True)
class Run:
    """What was simulated, and what came out."""

    devices: int
    thefts: int
    days: int
    seed: int
    happened: Happened
    logouts: Mapping[str, Logouts]
    results: Mapping[tuple[str, str], Sequence[Result]]
    """By thief and theft."""


def tables(run: Run) -> str:
    return "\n".join([*_phones(run), "", *_thieves(run), ""])


def _phones(run: Run) -> list[str]:
    happened = run.happened
    lines = [
        f"{run.devices:,} phones, {run.days} days, seed {run.seed}: {happened.refreshes:,} refreshes, of them"
        f" {happened.at_once:,} by two threads at once; {happened.without_reply:,} attempts left the"
        f" phone without a new token, {happened.slept:,} of them before a sleep of 8 hours.",
        "",
        "| rule | as in | phones logged out | of all | logouts | for each phone |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, logouts in run.logouts.items():
        lines.append(
            f"| {name} | {RULES[name].like} | {logouts.devices:,} |"
            f" {100 * logouts.devices / run.devices:.1f} % | {logouts.events:,} |"
            f" {logouts.events / run.devices:.2f} |"
        )
    lines += [
        "",
        f"Of these phones Keyferry reported {run.logouts[KEYFERRY].reported:,} as followed by a thief.",
    ]
    return lines


def _thieves(run: Run) -> list[str]:
    lines = [
        f"{run.thefts:,} thefts of each kind, {run.days} days, seed {run.seed}.",
        "",
        f"| rule | {' | '.join(THEFTS)} |",
        "|---|" + "---|" * len(THEFTS),
    ]
    for thief in THIEVES:
        cells = " | ".join(describe(run.results[thief, theft]) for theft in THEFTS)
        lines.append(f"| {thief} | {cells} |")
    return lines


def describe(results: Sequence[Result]) -> str:
    """What became of the thefts, the most frequent first, with the median time it took."""
    counted = Counter(result.fate for result in results).most_common()
    parts = []
    for fate, count in counted:
        share = 100 * count / len(results)
        text = f"{fate}" if len(counted) == 1 else f"{fate} {share:.3g} %"
        if fate in (Fate.ENDED, Fate.LOCKED_OUT, Fate.REPORTED):
            seconds = statistics.median(each.seconds for each in results if each.fate is fate)
            text += f" ({duration(seconds)})"
        parts.append(text)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    if seconds < 1:
        return "at once"
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


_COLOURS: Final = {
    Fate.REFUSED: "#2a9d6f",
    Fate.LOCKED_OUT: "#8fcfae",
    Fate.ENDED: "#f2c14e",
    Fate.REPORTED: "#e98a3c",
    Fate.UNDETECTED: "#d1495b",
    Fate.THIEF_KEEPS: "#6d1a36",
}
_MEANING: Final = {
    Fate.REFUSED: "refused: the thief never gets in",
    Fate.LOCKED_OUT: "locked out: the thief gets in, not for long",
    Fate.ENDED: "ended: theft seen, everybody is out",
    Fate.REPORTED: "reported: the operator is told",
    Fate.UNDETECTED: "undetected: both stay",
    Fate.THIEF_KEEPS: "the owner is out, the thief stays",
}
_LEFT: Final = 290
_WIDTH: Final = 1180
_ROW: Final = 24


def plot(run: Run) -> str:
    """Bars for the phones, and under them a field for every rule and kind of theft."""
    parts = [
        _text(20, 32, "How honest phones fare, and how thieves do", size=20, weight="bold"),
        _text(
            20,
            54,
            f"{run.devices:,} phones, 5 % of replies lost; {run.thefts:,} thefts of each kind;"
            f" {run.days} days; seed {run.seed}",
            colour="#555",
        ),
        _text(20, 92, f"Phones logged out at least once in {run.days} days", weight="bold"),
    ]
    y = 104
    scale = _WIDTH - _LEFT - 240
    for name, logouts in run.logouts.items():
        share = logouts.devices / run.devices
        parts += [
            _text(_LEFT - 12, y + 16, name, anchor="end"),
            _box(_LEFT, y + 3, max(share * scale, 1), _ROW - 6, "#d1495b" if share else "#2a9d6f"),
            _text(
                _LEFT + share * scale + 8,
                y + 16,
                f"{100 * share:.1f} %, {logouts.events / run.devices:.2f} logouts each",
            ),
        ]
        y += _ROW
    y += 34
    parts.append(_text(20, y, "Thefts", weight="bold"))
    width = (_WIDTH - _LEFT - 20) / len(THEFTS)
    for column, theft in enumerate(THEFTS):
        for line, words in enumerate(theft.split(", ")):
            parts.append(
                _text(
                    _LEFT + (column + 0.5) * width, y + 15 * line, words, anchor="middle", size=11
                )
            )
    y += 42
    for thief in THIEVES:
        parts.append(_text(_LEFT - 12, y + 16, thief, anchor="end"))
        for column, theft in enumerate(THEFTS):
            parts += _field(run.results[thief, theft], _LEFT + column * width, y, width - 3)
        y += _ROW
    y += 22
    x = 20.0
    for fate, meaning in _MEANING.items():
        parts += [_box(x, y - 11, 14, 14, _COLOURS[fate]), _text(x + 20, y, meaning, size=11)]
        x += 28 + 5.4 * len(meaning)
    height = y + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="system-ui, sans-serif" font-size="13">\n'
        + _box(0, 0, _WIDTH, height, "#ffffff")
        + "\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _field(results: Sequence[Result], x: float, y: float, width: float) -> list[str]:
    """Each fate as wide as it is frequent, and the median time of the endings."""
    counted = Counter(result.fate for result in results)
    parts, left = [], x
    for fate in Fate:
        share = counted[fate] / len(results) * width
        if share:
            parts.append(_box(left, y + 2, share, _ROW - 4, _COLOURS[fate]))
        left += share
    ended = [each.seconds for each in results if each.fate in (Fate.ENDED, Fate.REPORTED)]
    if ended:
        text = duration(statistics.median(ended))
        parts.append(_text(x + width / 2, y + 16, text, anchor="middle", size=11))
    return parts


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "normal",
    colour: str = "#111",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )
