"""``kmp-smsd waiting``: requests that lack something which may still come."""

from __future__ import annotations

from functools import partial

import click

from kmp_smsd.cli.arguments import MDN, json_option
from kmp_smsd.cli.output import Columns, Row, listing, pages
from kmp_smsd.cli.settings import Settings

_WAITS_FOR = {
    "not_registered": "a registration of the number",
    "unknown_key": "an import of the key",
    "key_not_usable": "the key's resumption or validity",
    "app_not_registered": "a registration for the app",
    "app_required": "one app only, or another message",
}


def _waits_for(row: Row) -> str:
    return _WAITS_FOR[row["outcome"]]


COLUMNS: Columns = {
    "MDN": "mdn",
    "key": "key_id",
    "app named": "app_id",
    "waits for": _waits_for,
    "received": "received_at",
    "link": "link",
}


@click.group()
def waiting() -> None:
    """Show the requests that came before what they need."""


@waiting.command("list")
@click.option("--mdn", type=MDN, help="Only requests of this number.")
@json_option
@click.pass_obj
def list_(settings: Settings, mdn: str | None, as_json: bool) -> None:
    """List what intake decides again by itself when the missing piece arrives."""
    with settings.store() as store:
        listing(
            pages(partial(store.waiting.listing, mdn=mdn), "subscriber", "key_id"),
            COLUMNS,
            as_json=as_json,
            nothing="no request waits",
        )
