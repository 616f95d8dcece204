"""``kmp-smsd journal``: what became of messages."""

from __future__ import annotations

from itertools import islice
from typing import Any

import click

from kmp_smsd.cli.arguments import MDN, json_option
from kmp_smsd.cli.output import PAGE, listing, pages
from kmp_smsd.cli.settings import Settings

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


@click.group()
def journal() -> None:
    """Show what became of messages."""


@journal.command("list")
@click.option("--mdn", type=MDN, help="Only messages from this number.")
@click.option("--limit", "most", type=click.IntRange(1, PAGE), help="Stop after so many entries.")
@json_option
@click.pass_obj
def list_(settings: Settings, mdn: str | None, most: int | None, as_json: bool) -> None:
    """List the journal, the newest entry first.

    Every bound, moved and newly held message has an entry; of other outcomes one per MDN and hour has. For one number
    the journal is looked through from its end: in a large one --limit gives what is new without reading the rest.
    """
    with settings.store() as store:

        def older(*, after: int | None = None, limit: int) -> list[dict[str, Any]]:
            return store.journal.listing(mdn=mdn, before=after, limit=most or limit)

        listing(
            islice(pages(older, "entry"), 1 if most else None),
            COLUMNS,
            as_json=as_json,
            nothing="no entries",
        )
