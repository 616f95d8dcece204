"""``kmp-smsd journal``: what became of messages."""

from __future__ import annotations

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
@json_option
@click.pass_obj
def list_(settings: Settings, mdn: str | None, as_json: bool) -> None:
    """List the journal, the oldest entry first.

    Every bound, moved and newly held message has an entry; of other outcomes one per MDN and hour has.
    """
    with settings.store() as store:
        listing(
            pages(lambda after: store.journal(mdn=mdn, after=after, limit=PAGE), 0, lambda row: int(row["entry"])),
            COLUMNS,
            as_json=as_json,
            nothing="no entries",
        )
