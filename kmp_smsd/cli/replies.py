"""``kmp-smsd replies``: what terminals were told."""

from __future__ import annotations

from functools import partial

import click

from kmp_smsd.cli.arguments import MDN, json_option
from kmp_smsd.cli.output import Columns, Row, listing, pages
from kmp_smsd.cli.settings import Settings


def _status(row: Row) -> str:
    from kmp_smsd.smpp.constants import name_of

    return "-" if row["command_status"] is None else name_of(int(row["command_status"]))


COLUMNS: Columns = {
    "MDN": "mdn",
    "app": "app_id",
    "key": "key_id",
    "link": "link",
    "reply": "state",
    "wanted": "wanted_at",
    "sent": "sent_at",
    "expires": "expires_at",
    "the SMSC said": _status,
    "its number": "message_id",
}


@click.group()
def replies() -> None:
    """Show what terminals were told."""


@replies.command("list")
@click.option("--mdn", type=MDN, help="Only replies to this number.")
@json_option
@click.pass_obj
def list_(settings: Settings, mdn: str | None, as_json: bool) -> None:
    """List replies to terminals, the oldest first: those on their way, and for a day those that have ended.

    A reply is waiting for the platform's receipt or for the SMSC, sending, sent, refused by the SMSC, unknown (it left,
    and no answer came), or expired.
    """
    with settings.store() as store:
        listing(
            pages(partial(store.replies.listing, mdn=mdn), "reply"),
            COLUMNS,
            as_json=as_json,
            nothing="no replies",
        )
