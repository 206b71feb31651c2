"""The summary of `make demo` as one HTML file that needs nothing else: no script, no font, no server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final, Protocol

_STYLE: Final = """
  :root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --page: #fff;
          --card: #f6f8fa; --good: #1a7f37; --db: #bc4c00; --kms: #8250df; }
  @media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
          --page: #0d1117; --card: #161b22; --good: #3fb950; --db: #f0883e; --kms: #a371f7; } }
  body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
         max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; margin: 0 } header p, footer { color: var(--soft) }
  ol { list-style: none; padding: 0; counter-reset: step }
  li { counter-increment: step; background: var(--card); border: 1px solid var(--line);
       border-radius: 8px; padding: .8rem 1rem; margin: .6rem 0; display: grid;
       grid-template-columns: 1fr 15rem; gap: .3rem 1.5rem }
  h2 { font-size: 1rem; margin: 0 } h2::before { content: counter(step) ". "; color: var(--soft) }
  h2::after { content: " \\2713"; color: var(--good) }
  li p { margin: .2rem 0 0; color: var(--soft); overflow-wrap: anywhere }
  dl { margin: 0; font: 12px/1.6 ui-monospace, monospace; display: grid;
       grid-template-columns: auto 1fr; gap: 0 .7rem; align-content: start }
  dt { color: var(--soft) } dd { margin: 0; white-space: pre-line }
  .db { color: var(--db) } .kms { color: var(--kms) }
  @media (max-width: 44rem) { li { grid-template-columns: 1fr } }
"""


class Told(Protocol):
    """What the page shows of a step of the demonstration."""

    title: str
    seen: str
    http: str
    dynamodb: Counter[str]
    kms: Counter[str]


def page(steps: Iterable[Told], *, seconds: float, pictures: Path) -> str:
    """The page. ``pictures`` is the folder of the repository's drawings, which are linked and not
    copied. What is shown of secrets is what the steps say, which is never a whole one."""
    cards = "\n".join(_card(step) for step in steps)
    links = " · ".join(
        f'<a href="{escape((pictures / file).as_uri())}">{title}</a>'
        for file, title in (
            ("architecture.svg", "what may touch what"),
            ("simulation.svg", "honest phones and thieves, simulated"),
        )
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Keyferry: what happened, and what it cost</title>
<style>{_STYLE}</style>
<header>
<h1>What happened, and what it cost</h1>
<p>A stack on this machine, an operator, a phone, lost replies, thieves and a flood. Everything held, in {seconds:.0f} s.</p>
</header>
<ol>
{cards}
</ol>
<footer>
<p>A function's first call, and each container more that parallel calls start, also reads and unwraps the keyring. Warm calls do not.</p>
<p>{links}</p>
</footer>
</html>
"""


def _card(step: Told) -> str:
    rows = (
        ("HTTP", "", step.http),
        ("DynamoDB", "db", _calls(step.dynamodb)),
        ("KMS", "kms", _calls(step.kms)),
    )
    cells = "".join(
        f'<dt>{name}</dt><dd class="{css}">{escape(text)}</dd>' for name, css, text in rows
    )
    return f"<li><div><h2>{escape(step.title)}</h2><p>{escape(step.seen)}</p></div><dl>{cells}</dl></li>"


def _calls(calls: Counter[str]) -> str:
    return "\n".join(f"{count} {operation}" for operation, count in sorted(calls.items())) or "none"
