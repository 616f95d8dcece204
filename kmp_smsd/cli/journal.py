"""``kmp-smsd journal``: what became of messages."""

from __future__ import annotations

from itertools import islice
from typing import Any

import click

from kmp_smsd.cli.arguments import MDN, json_option
from kmp_smsd.cli.completing import links
from kmp_smsd.cli.output import PAGE, listing, pages
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.spans import HOUR_MS

COLUMNS = {
    "at": "at",
    "MDN": "mdn",
    "outcome": "outcome",
    "link": "link",
    "key": "key_id",
    "app": "app_id",
    "why": "why",
    "hold": "hold",
}
COUNTS = {"link": "link", "outcome": "outcome", "messages": "count"}
SENDERS = {"link": "link", "outcome": "outcome", "senders": "sender", "messages": "count"}
HOURS_MAX = 1_000_000  # more than a database may be old

outcome_option = click.option(
    "--outcome", type=click.Choice([one.value for one in Outcome]), help="Only messages with this outcome."
)
hours_option = click.option(
    "--hours",
    type=click.IntRange(1, HOURS_MAX),
    default=24,
    show_default=True,
    help="Of so many hours, the running one included.",
)


@click.group()
def journal() -> None:
    """Show what became of messages."""


@journal.command("list")
@click.option("--mdn", type=MDN, help="Only messages from this number.")
@click.option("--link", shell_complete=links, help="Only messages that came by this link or gateway.")
@outcome_option
@click.option("--limit", "most", type=click.IntRange(1, PAGE), help="Stop after so many entries.")
@json_option
@click.pass_obj
def list_(
    settings: Settings, mdn: str | None, link: str | None, outcome: str | None, most: int | None, as_json: bool
) -> None:
    """List the journal, the newest entry first.

    Every bound, moved and newly held message has an entry; of other outcomes one per MDN and hour has. The journal is
    looked through from its end: in a large one --limit gives what is new without reading the rest.
    """
    with settings.store() as store:

        def older(*, after: int | None = None, limit: int) -> list[dict[str, Any]]:
            return store.journal.listing(
                mdn=mdn, link=link, outcome=_chosen(outcome), before=after, limit=most or limit
            )

        listing(
            islice(pages(older, "entry"), 1 if most else None),
            COLUMNS,
            as_json=as_json,
            nothing="no entries",
        )


@journal.command()
@hours_option
@json_option
@click.pass_obj
def counts(settings: Settings, hours: int, as_json: bool) -> None:
    """Count messages by their link and outcome.

    Every message is counted, also those that have no entry in the journal. The hours are whole ones in UTC.
    """
    with settings.store() as store:
        rows = store.journal.tallies(since_hour=_since(hours))
    listing([rows] if rows else [], COUNTS, as_json=as_json, nothing="no messages")


@journal.command()
@outcome_option
@hours_option
@json_option
@click.pass_obj
def senders(settings: Settings, outcome: str | None, hours: int, as_json: bool) -> None:
    """Count messages of unknown senders by their first digits and length.

    These are the messages that have no entry in the journal. With --outcome invalid_mdn it shows which range of numbers
    is missing in the numbering plan.
    """
    with settings.store() as store:
        rows = store.journal.senders(since_hour=_since(hours), outcome=_chosen(outcome))
    listing([rows] if rows else [], SENDERS, as_json=as_json, nothing="no messages without an entry")


def _chosen(outcome: str | None) -> Outcome | None:
    return None if outcome is None else Outcome(outcome)


def _since(hours: int) -> int:
    """The first of the last `hours`, since 1970 in UTC."""
    return now_ms() // HOUR_MS - hours + 1
