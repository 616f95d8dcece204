"""``kmp-smsd outbox``: what platforms are to hold and have not confirmed."""

from __future__ import annotations

from functools import partial

import click

from kmp_smsd.cli import completing
from kmp_smsd.cli.arguments import MDN, json_option
from kmp_smsd.cli.output import Columns, Row, delivery, listing, pages, platform
from kmp_smsd.cli.platforms import check_name
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.shown import NO_PLATFORM


def _wanted(row: Row) -> str:
    return "nothing" if row["key_id"] is None else str(row["key_id"])


COLUMNS: Columns = {
    "MDN": "mdn",
    "app": "app_id",
    "platform": platform,
    "wanted": _wanted,
    "KCV": "kcv",
    "delivery": delivery,
    "since": "wanted_at",
    "next try": "try_at",
    "rejected": "rejected_at",
    "tries": "attempts",
    "error": "error",
}

_platform = partial(click.option, "--platform", "name", metavar="NAME", shell_complete=completing.platforms)
_mdn = click.option("--mdn", type=MDN, help="Only what concerns this number.")


@click.group()
def outbox() -> None:
    """Show and hurry what is to be delivered."""


@outbox.command("list")
@_platform(help=f"Only what goes to this platform, or to none: '{NO_PLATFORM}'.")
@_mdn
@click.option("--all", "everything", is_flag=True, help="Also what is confirmed.")
@json_option
@click.pass_obj
def list_(settings: Settings, name: str | None, mdn: str | None, everything: bool, as_json: bool) -> None:
    """List what waits for each platform's receipt, by the next try, and what it rejected."""
    with settings.store() as store:
        if name == NO_PLATFORM:
            name = ""
        elif name is not None:
            check_name(settings, store, name)
        listing(
            store.outbox.unconfirmed(name)
            if mdn is None and not everything
            else pages(partial(store.outbox.listing, platform=name, mdn=mdn, everything=everything), "id"),
            COLUMNS,
            as_json=as_json,
            nothing="nothing waits for a platform",
        )


@outbox.command()
@_platform(help="Only what goes to this platform.")
@_mdn
@click.pass_obj
def retry(settings: Settings, name: str | None, mdn: str | None) -> None:
    """Make waiting deliveries due now, and offer rejected ones once more.

    Dispatch tries them at once; of a platform that is held back, one of them. Where a platform is paused or has no
    enabled file, they stay due until that ends.
    """
    with settings.store() as store:
        if name is not None:
            check_name(settings, store, name)
        retried = store.renewing.retry(now_ms(), platform=name, mdn=mdn)
    one = "delivery that was put off or rejected is"
    many = "deliveries that were put off or rejected are"
    click.echo(f"{counted(retried, one, many)} due now, with all that was due already")
