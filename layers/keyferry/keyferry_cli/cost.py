"""`keyferry cost`: what a month of so many users would cost. It asks AWS nothing."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column

from keyferry_cli.bill import Assumptions, Stack, Usage, month
from keyferry_cli.command_line import AsJson, Output, note, row, table
from keyferry_cli.prices import COGNITO, PRICES, cognito

MOST_USERS = 1_000_000_000
MOST_A_DAY = 24 * 60 * 60.0
"""Once a second."""


def _number(value: float) -> float:
    """Typer takes ``nan`` for a number, and every comparison with it for true."""
    if not math.isfinite(value):
        raise typer.BadParameter("it has to be a number")
    return value


def cost(
    mau: Annotated[
        int, typer.Option(min=1, max=MOST_USERS, help="Users who are active in the month.")
    ],
    refreshes: Annotated[
        float,
        typer.Option(min=0, max=MOST_A_DAY, callback=_number, help="Of each user, each day."),
    ] = 12,
    deliveries: Annotated[
        float,
        typer.Option(min=0, max=MOST_A_DAY, callback=_number, help="Of each user, each day."),
    ] = 2,
    logins: Annotated[
        float,
        typer.Option(min=0, max=MOST_A_DAY, callback=_number, help="Of each user, each month."),
    ] = 1,
    days: Annotated[
        int, typer.Option(min=1, max=31, help="Of the month on which a user is active.")
    ] = 30,
    waf: Annotated[
        bool, typer.Option("--waf/--no-waf", help="With the web application firewall.")
    ] = True,
    traced: Annotated[
        float,
        typer.Option(
            min=0, max=1, callback=_number, help="Share of the requests that X-Ray samples."
        ),
    ] = Stack().traced,
    as_json: AsJson = False,
) -> None:
    """Estimate a monthly bill in USD, beside Amazon Cognito's.

    Counted calls (docs/calls.md), measured processor time (docs/performance.md), dated prices and assumptions
    (docs/costs.md); US East (N. Virginia), without free tiers and data transfer.
    """
    usage = Usage(mau, logins, refreshes, deliveries, days)
    assumed = Assumptions()
    lines = month(usage, Stack(waf=waf, traced=traced), assumed)
    together = sum(lines.values())
    others = {tier: cognito(tier, mau) for tier in COGNITO}
    shown = table(Column("a month"), Column("USD", justify="right"))
    for name, amount in lines.items():
        shown.add_row(*row(name, f"{amount:,.2f}"))
    shown.add_section()
    shown.add_row(*row("Keyferry", f"{together:,.2f}"))
    shown.add_row(*row("for each user", f"{together / mau:,.5f}"))
    for tier, amount in others.items():
        shown.add_row(*row(tier, f"{amount:,.2f}"))
    result = {
        "usage": asdict(usage),
        "requests": {name: round(times) for name, times in usage.requests().items()},
        "assumptions": asdict(assumed),
        "usd": {name: round(amount, 2) for name, amount in lines.items()},
        "together": round(together, 2),
        "for_each_user": round(together / mau, 6),
        "cognito": {tier: round(amount, 2) for tier, amount in others.items()},
        "prices": {
            name: {
                "usd": each.usd,
                "for": f"{each.per:,} {each.unit}",
                "page": f"https://aws.amazon.com/{each.page}",
                "source": each.source,
            }
            for name, each in PRICES.items()
        },
    }
    Output(as_json).result(result, shown)
    if not as_json:
        note(
            "An estimate, not an offer: prices as docs/costs.md has them, with their dates. Cognito signs users in,"
            " and delivers no keys."
        )
