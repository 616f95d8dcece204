"""``kmp-smsd bindings``: which key is bound to which MDN and app."""

from __future__ import annotations

from functools import partial

import click

from kmp_smsd.cli.arguments import APP_ID, MDN, json_option
from kmp_smsd.cli.output import PAGE, Columns, delivery, listing, pages, platform
from kmp_smsd.cli.settings import Settings, now_ms

COLUMNS: Columns = {
    "MDN": "mdn",
    "app": "app_id",
    "key": "key_id",
    "KCV": "kcv",
    "bound": "bound_at",
    "platform": platform,
    "delivery": delivery,
}


@click.group()
def bindings() -> None:
    """Show and withdraw bindings of keys to MDNs."""


@bindings.command("list")
@click.option("--app", "app_id", type=APP_ID, help="Only those for this app.")
@json_option
@click.pass_obj
def list_(settings: Settings, app_id: str | None, as_json: bool) -> None:
    """List what is bound, in the order in which it was; with --app, as its numbers became known."""
    with settings.store() as store:
        listing(
            pages(partial(store.bindings.active, app_id=app_id), "id"),
            COLUMNS,
            as_json=as_json,
            nothing="nothing is bound",
        )


@bindings.command()
@click.argument("mdn", type=MDN)
@json_option
@click.pass_obj
def show(settings: Settings, mdn: str, as_json: bool) -> None:
    """Show every binding that MDN has or had, the newest first."""
    with settings.store() as store:
        found = store.bindings.of(mdn)
        apps = [row["app_id"] for row in store.registrations.listing(mdn=mdn, limit=PAGE)]
    columns: Columns = {"state": "state", **COLUMNS, "ended": "ended_at", "why": "why"}
    registered = f"registered for {', '.join(apps)}" if apps else "not registered"
    listing(
        [found] if found else [], columns, as_json=as_json, nothing=f"{mdn} never had a binding; it is {registered}"
    )


@bindings.command()
@click.argument("mdn", type=MDN)
@click.argument("app_id", metavar="APP", type=APP_ID)
@click.pass_obj
def withdraw(settings: Settings, mdn: str, app_id: str) -> None:
    """End the binding of MDN for APP; its platform gives up the key. The terminal's next message binds again."""
    with settings.store() as store:
        key_id = store.bindings.withdraw(mdn, app_id, now_ms())
    click.echo(f"{mdn} {app_id}: key {key_id} is withdrawn")
    click.echo(
        "kmp-smsd: the terminal's next message binds it again; to prevent that, 'kmp-smsd keys suspend "
        f"{key_id}' or 'kmp-smsd registrations remove {mdn} {app_id}'",
        err=True,
    )
