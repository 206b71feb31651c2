"""The drawing: who calls, by which routes, which function answers, and what its role lets it touch.

A matrix in place of a web of arrows: with twelve functions and ten stores, arrows would cross.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from tests.architecture.template import Function, System

ROW: Final = 17
"""Height of one route."""
GAP: Final = 12
PAD: Final = 9
TOP: Final = 172
ROUTES_X, FUNCTION_X, MATRIX_X = 232, 528, 680
COLUMN: Final = 42
FUNCTION_WIDTH: Final = 118

# Who calls what has no route: the template says only that it has none.
CALLERS: Final = {
    "authorizer": "your own APIs",
    "operator": "operator (IAM)",
    "rotate_keyring": "every day · operator",
}

STYLE: Final = """
  svg { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; }
  .page { fill: #ffffff } .ink, text { fill: #1f2328 } .soft { fill: #59636e }
  .route { font: 11px ui-monospace, SFMono-Regular, Menlo, monospace }
  .name { font-weight: 600 } .head { font-weight: 600; font-size: 15px }
  .card { fill: #f6f8fa; stroke: #d1d9e0 } .band { fill: #f6f8fa }
  .line { stroke: #8c959f; fill: none; stroke-width: 1.3 } .grid { stroke: #d1d9e0; stroke-width: 1 }
  .api { fill: #ddf4ff; stroke: #54aeff } .writes { fill: #bc4c00; stroke: #bc4c00 }
  .reads { fill: #ffffff; stroke: #bc4c00 } .seals { fill: #8250df; stroke: #8250df }
  .opens { fill: #ffffff; stroke: #8250df } .mark { stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .ink, text { fill: #e6edf3 } .soft { fill: #9198a1 }
    .card { fill: #161b22; stroke: #3d444d } .band { fill: #161b22 }
    .line { stroke: #8b949e } .grid { stroke: #30363d } .api { fill: #0c2d4b; stroke: #388bfd }
    .writes { fill: #f0883e; stroke: #f0883e } .reads { fill: #0d1117; stroke: #f0883e }
    .seals { fill: #a371f7; stroke: #a371f7 } .opens { fill: #0d1117; stroke: #a371f7 }
  }
"""


def height(function: Function) -> int:
    return max(len(function.routes), 1) * ROW + 2 * PAD


def draw(system: System) -> str:
    """An SVG, the same for the same system."""
    ours = [function for function in system.functions if function.routes]
    others = [function for function in system.functions if not function.routes]
    width = MATRIX_X + COLUMN * len(system.columns) + 40
    tops: dict[str, int] = {}
    y = TOP
    for function in ours:
        tops[function.name] = y
        y += height(function) + GAP
    below = y + 16
    y = below
    for function in others:
        tops[function.name] = y
        y += height(function) + GAP
    bottom = y
    parts = [
        f'<rect class="page" width="{width}" height="{bottom + 44}" rx="6"/>',
        _text(24, 34, "Keyferry, from its template", "head"),
        _text(
            24,
            54,
            "who calls · by which route · which function answers · what its role lets it touch",
            "soft",
        ),
        *_stripes([*ours, *others], tops, width),
        *_columns(system, bottom),
        *_edge(system, ours, tops, below),
        *_others(others, tops),
    ]
    for function in system.functions:
        parts += _row(function, system, tops[function.name])
    parts += _legend(bottom + 20)
    body = "\n".join(parts)
    title = "Architecture: phones, API Gateway, functions, tables and KMS keys"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 44}"'
        f' width="{width}" height="{bottom + 44}" role="img" aria-label="{title}">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def _text(x: float, y: float, text: str, css: str = "", extra: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x:g}" y="{y:g}"{kind}{extra}>{escape(text)}</text>'


def _card(x: int, y: int, width: int, tall: int, css: str = "card") -> str:
    return f'<rect class="{css}" x="{x}" y="{y}" width="{width}" height="{tall}" rx="6"/>'


def _line(*points: tuple[float, float], arrow: bool = False) -> str:
    path = " L".join(f"{x:g} {y:g}" for x, y in points)
    drawn = f'<path class="line" d="M{path}"/>'
    if arrow:
        x, y = points[-1]
        drawn += f'<path class="line" d="M{x - 6:g} {y - 4:g} L{x:g} {y:g} L{x - 6:g} {y + 4:g}"/>'
    return drawn


def _stripes(rows: list[Function], tops: dict[str, int], width: int) -> Iterator[str]:
    """Every second row has a ground, so that the eye keeps to it."""
    for number, function in enumerate(rows):
        if number % 2:
            y, tall = tops[function.name], height(function)
            yield (
                f'<rect class="band" x="{ROUTES_X - 8}" y="{y}" width="{width - ROUTES_X - 8}"'
                f' height="{tall}" rx="6"/>'
            )


def _columns(system: System, bottom: int) -> Iterator[str]:
    for number, name in enumerate(system.columns):
        x = MATRIX_X + COLUMN * number + COLUMN / 2
        yield f'<path class="grid" d="M{x:g} {TOP - 8} V{bottom - GAP}"/>'
        label = name.removesuffix("Table")
        if name in system.keys:
            label = f"KMS {name.removesuffix('Key').lower()}"
        turned = f' transform="rotate(-48 {x:g} {TOP - 14})"'
        yield _text(x, TOP - 14, label, "name", turned)


def _edge(system: System, ours: list[Function], tops: dict[str, int], below: int) -> Iterator[str]:
    """Phones, the firewall, and API Gateway before the functions that have routes."""
    top, tall = TOP, below - 16 - GAP - TOP
    middle = top + tall / 2
    platforms = " · ".join(system.platforms)
    yield _card(24, int(middle) - 44, 92, 88)
    yield _text(70, middle - 20, "phone", "name", ' text-anchor="middle"')
    for number, line in enumerate((platforms, "two keys in", "its hardware")):
        yield _text(70, middle - 2 + 15 * number, line, "soft", ' text-anchor="middle"')
    yield _card(152, top, 58, tall, "api")
    for number, line in enumerate(
        (
            "firewall (WAF), in prod",
            "usage plan and client key for each platform",
            "API Gateway, REST",
        )
    ):
        x = 168 + 16 * number
        turned = f' text-anchor="middle" transform="rotate(-90 {x} {middle:g})"'
        yield _text(x, middle, line, "name" if number == 2 else "", turned)
    yield _line((116, middle), (150, middle), arrow=True)
    for function in ours:
        center = tops[function.name] + height(function) / 2
        yield _line((210, center), (ROUTES_X - 8, center), arrow=True)


def _others(others: list[Function], tops: dict[str, int]) -> Iterator[str]:
    for function in others:
        center = tops[function.name] + height(function) / 2
        who = CALLERS[function.name]
        yield _text(ROUTES_X, center + 4, who, "soft")
        yield _line((ROUTES_X + 150, center), (FUNCTION_X - 4, center), arrow=True)


def _row(function: Function, system: System, y: int) -> Iterator[str]:
    tall = height(function)
    for number, route in enumerate(function.routes):
        yield _text(ROUTES_X, y + PAD + ROW * number + 12, route, "route")
    yield _card(FUNCTION_X, y + 4, FUNCTION_WIDTH, tall - 8)
    yield _text(
        FUNCTION_X + FUNCTION_WIDTH / 2,
        y + tall / 2 + 4,
        function.name,
        "name",
        ' text-anchor="middle"',
    )
    yield _line((FUNCTION_X + FUNCTION_WIDTH, y + tall / 2), (MATRIX_X, y + tall / 2))
    for number, name in enumerate(system.columns):
        if name in function.uses:
            x = MATRIX_X + COLUMN * number + COLUMN / 2
            does = function.uses[name]
            kms = name in system.keys
            css = ("seals" if does else "opens") if kms else ("writes" if does else "reads")
            yield f'<circle class="mark {css}" cx="{x:g}" cy="{y + tall / 2:g}" r="6"/>'


def _legend(y: int) -> Iterator[str]:
    x = ROUTES_X
    for css, label in (
        ("writes", "reads and writes the table"),
        ("reads", "reads it"),
        ("seals", "encrypts under the KMS key"),
        ("opens", "decrypts alone"),
    ):
        yield f'<circle class="mark {css}" cx="{x}" cy="{y - 4}" r="6"/>'
        yield _text(x + 14, y, label, "soft")
        x += 34 + 7 * len(label)
