"""``kmp-smsd registrations``: which MDN may be bound to which app."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.apply import apply
from kmp_smsd.cli.arguments import APP_ID, MDN, NEW_MDN, FilePath, dry_run_option, json_option, yes_option
from kmp_smsd.cli.carefully import confirm, interrupt_tells
from kmp_smsd.cli.failures import Failed
from kmp_smsd.cli.file_faults import tell_faults
from kmp_smsd.cli.output import listing, pages
from kmp_smsd.cli.progress import progress
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.counted import counted

if TYPE_CHECKING:
    from kmp_smsd.importing.faults import Faults
    from kmp_smsd.importing.lines import Lines
    from kmp_smsd.storage.renumbering import Renumbered
    from kmp_smsd.storage.subscribers import Registration

COLUMNS = {"MDN": "mdn", "app": "app_id", "registered": "registered_at"}


@click.group()
def registrations() -> None:
    """Say which MDN may be bound to which app."""


registrations.add_command(apply)


@registrations.command()
@click.argument("mdn", type=NEW_MDN)
@click.argument("app_ids", metavar="APP...", type=APP_ID, nargs=-1, required=True)
@click.pass_obj
def add(settings: Settings, mdn: str, app_ids: tuple[str, ...]) -> None:
    """Register MDN for apps. What is registered already stays as it is."""
    from kmp_smsd.importing.csv_registrations import unserved_app
    from kmp_smsd.storage.subscribers import Registration

    wanted = [Registration(mdn, app_id) for app_id in dict.fromkeys(app_ids)]
    with settings.store() as store:
        standing = store.registrations.existing(wanted)
        store.registrations.add(wanted, now_ms())
    served = settings.served_apps
    for one in wanted:
        click.echo(f"{mdn} {one.app_id}: {'was registered already' if one in standing else 'registered'}")
        if one.app_id not in served:
            click.echo(f"kmp-smsd: {unserved_app(one.app_id)}", err=True)


@registrations.command()
@click.argument("mdn", type=MDN)
@click.argument("app_ids", metavar="APP...", type=APP_ID, nargs=-1, required=True)
@click.pass_obj
def remove(settings: Settings, mdn: str, app_ids: tuple[str, ...]) -> None:
    """Remove MDN's registrations for apps; their bindings end and the platforms give up the keys."""
    wanted = list(dict.fromkeys(app_ids))
    with settings.store() as store:
        bound = {row["app_id"]: row["key_id"] for row in store.bindings.of(mdn) if row["state"] == "bound"}
        removed = store.registrations.remove(mdn, wanted, now_ms())
    for app_id in removed:
        ended = f", key {bound[app_id]} is withdrawn" if app_id in bound else ""
        click.echo(f"{mdn} {app_id}: removed{ended}")
    if missing := [app_id for app_id in wanted if app_id not in removed]:
        raise Failed(f"{mdn} is not registered for {', '.join(missing)}: see 'kmp-smsd registrations list --mdn {mdn}'")


@registrations.command()
@click.argument("old", type=MDN)
@click.argument("new", type=NEW_MDN)
@dry_run_option
@yes_option
@click.pass_obj
def renumber(settings: Settings, old: str, new: str, dry_run: bool, yes: bool) -> None:
    """Give the number NEW all that OLD has: registrations, bindings and what waits. OLD is left with nothing."""
    with settings.store() as store:
        found = store.renumbering.preview(old, new)
        if not dry_run:
            known = store.erasing.show(old)
            confirm(_question(old, new, found, known["holds"] if known else 0), yes=yes)
            found = store.renumbering.renumber(old, new, now_ms())
    be, bound = ("would be ", "would be") if dry_run else ("", "is")
    for app_id in found.app_ids:
        key_id = found.key_ids.get(app_id)
        click.echo(f"{new} {app_id}: {be}registered{f', key {key_id} {bound} bound' if key_id else ''}")
    if dry_run:
        click.echo("kmp-smsd: a dry run, nothing was changed", err=True)


def _question(old: str, new: str, found: Renumbered, holds: int) -> str:
    """What will happen."""
    gains = f"{counted(len(found.app_ids), 'registration')} and {counted(len(found.key_ids), 'key')}"
    closed = f"; {counted(holds, 'hold')} of {old} will be closed" if holds else ""
    return f"{old} will lose {gains}, and {new} will have them{closed}."


@registrations.command("list")
@click.option("--mdn", type=MDN, help="Only those of this number.")
@click.option("--app", "app_id", type=APP_ID, help="Only those for this app.")
@json_option
@click.pass_obj
def list_(settings: Settings, mdn: str | None, app_id: str | None, as_json: bool) -> None:
    """List registrations in the order of their MDNs; with --app alone, as their numbers became known."""
    with settings.store() as store:
        listing(
            pages(partial(store.registrations.listing, mdn=mdn, app_id=app_id), "mdn", "app_id", "subscriber"),
            COLUMNS,
            as_json=as_json,
            nothing="no registrations",
        )


@registrations.command("import")
@click.argument("file", type=FilePath(exists=True, dir_okay=False, path_type=Path))
@dry_run_option
@click.pass_obj
def import_(settings: Settings, file: Path, dry_run: bool) -> None:
    """Register what a CSV FILE has: mdn,app_id on each line. Where anything is wrong with it, nothing is registered."""
    from kmp_smsd.importing.csv_registrations import check_registrations
    from kmp_smsd.importing.faults import Faults
    from kmp_smsd.importing.lines import Lines
    from kmp_smsd.storage.errors import NotPossible, StoreUnavailable

    canonical = settings.config.numbering.parse
    faults, warnings = Faults(str(file)), Faults(str(file))
    left = "nothing was registered" if dry_run else "what of it is registered stands, import it again"
    with settings.store() as store, progress(file.name) as told, interrupt_tells(lambda: left):
        try:
            lines = Lines(file, passes=1 if dry_run else 2, progress=told)
        except ValueError as error:
            raise click.UsageError(str(error), click.get_current_context()) from None
        new = 0
        with lines:
            rows = check_registrations(lines, faults, warnings, canonical, settings.served_apps)
            digest = lines.digest
            if not faults and not dry_run:
                for step in _steps(lines, settings, changed := Faults(str(file))):
                    try:
                        new += store.registrations.add(step, now_ms())
                    except NotPossible as error:
                        raise Failed(f"{error}; {new:,} of {file} are registered: import it again then") from None
                    except StoreUnavailable as error:
                        raise StoreUnavailable(f"{error}; {new:,} of {file} are registered: import it again") from None
                if changed or lines.digest != digest:
                    raise Failed(f"{file} changed while it was read, {new:,} are registered: import it again")
    tell_faults(file, faults, warnings, "nothing was registered")
    if dry_run:
        click.echo(f"{file}: {counted(rows, 'registration')}, nothing wrong; a dry run, nothing was registered")
    else:
        click.echo(f"{file}: {counted(rows, 'registration')}, {new:,} of them new")


def _steps(lines: Lines, settings: Settings, faults: Faults) -> Iterator[list[Registration]]:
    from kmp_smsd.importing.csv_registrations import read_registrations
    from kmp_smsd.storage.rows import STEP_ROWS, in_steps
    from kmp_smsd.storage.subscribers import Registration

    rows = read_registrations(lines, faults, settings.config.numbering.parse)
    return in_steps((Registration(row.mdn, row.app_id) for row in rows), STEP_ROWS)
