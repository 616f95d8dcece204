"""``kmp-smsd keys``: terminals' keys, from the vendor's file to their destruction. None is ever printed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.arguments import KEY_ID, REASON, FilePath, dry_run_option, json_option, yes_option
from kmp_smsd.cli.carefully import confirm, each, interrupt_tells
from kmp_smsd.cli.failures import NO_PERMISSION, Failed
from kmp_smsd.cli.file_faults import tell_faults
from kmp_smsd.cli.output import listing, pages, record
from kmp_smsd.cli.progress import progress
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.did_you_mean import did_you_mean
from kmp_smsd.domain.shown import shown
from kmp_smsd.vault.own_process import make_undumpable

if TYPE_CHECKING:
    from kmp_smsd.importing.import_keys import Report
    from kmp_smsd.storage import Store

COLUMNS = {
    "key": "key_id",
    "vendor": "vendor",
    "serial": "serial",
    "reserved for": "app_id",
    "algorithm": "algorithm",
    "KCV": "kcv",
    "state": "state",
    "bound at": "mdn",
    "app": "bound_app_id",
}
IMPORTS = {
    "import": "import",
    "vendor": "vendor",
    "keys": "keys",
    "imported": "imported_at",
    "file": "file",
    "SHA-256": "digest",
}


@click.group()
def keys() -> None:
    """Import terminals' keys, show them, end them."""


@keys.command("import")
@click.argument("file", type=FilePath(exists=True, dir_okay=False, path_type=Path))
@click.option("--vendor", required=True, help="Whose terminals these are.")
@click.option("--plaintext", is_flag=True, help="The keys in FILE are in clear, and that is all right.")
@click.option(
    "--encoding", type=click.Choice(["hex", "base64"]), help="How FILE writes keys; else the first key tells."
)
@dry_run_option
@click.pass_obj
def import_(settings: Settings, file: Path, vendor: str, plaintext: bool, encoding: str | None, dry_run: bool) -> None:
    """Import the keys of a CSV FILE: all of them or, where anything is wrong with it, none.

    The first line names the columns: key_id,key[,serial][,app_id][,algorithm][,kcv][,valid_from][,valid_until]. A key
    ID that exists already is a fault.
    """
    from kmp_smsd.importing.import_keys import ImportRefused, import_keys
    from kmp_smsd.importing.key_text import KeyEncoding
    from kmp_smsd.vault.master_key import PublicKey

    make_undumpable()
    public_path = settings.config.secrets.public_key
    try:
        public_key = PublicKey.load(public_path)
    except FileNotFoundError:
        raise Failed(
            f"no {public_path}: make the master key with 'kmp-smsd master-key create'", NO_PERMISSION
        ) from None
    with settings.store() as store:
        _tell_of_a_like_vendor(vendor, store.imports.vendors())
        with interrupt_tells(lambda: f"{'all of it' if store.imports.last_is_live else 'nothing'} was imported"):
            try:
                with progress(file.name) as told:
                    report = import_keys(
                        store.imports,
                        file,
                        vendor,
                        public_key,
                        clock=now_ms,
                        plaintext=plaintext,
                        dry_run=dry_run,
                        encoding=KeyEncoding(encoding) if encoding else None,
                        served=settings.served_apps,
                        progress=told,
                    )
            except ImportRefused as error:
                raise click.UsageError(str(error), click.get_current_context()) from None
            # Before the store is closed, which takes a while: ^C hides nothing.
            _tell(report, file, vendor, dry_run=dry_run)


def _tell_of_a_like_vendor(vendor: str, known: list[str]) -> None:
    """A name that is new and like another may be mistyped: no terminal has keys of two vendors, and imports stand."""
    hint = did_you_mean(vendor, known, cutoff=0.8)
    if hint and vendor not in known:
        click.echo(f"kmp-smsd: nothing of vendor '{shown(vendor)}' was imported before{hint}", err=True)


def _tell(report: Report, file: Path, vendor: str, *, dry_run: bool) -> None:
    """Say how an import ended. Raises Failed where there are faults."""
    tell_faults(file, report.faults, report.warnings, "nothing was imported")
    if dry_run:
        click.echo(f"{file}: {counted(report.keys, 'key')}, nothing wrong; a dry run, nothing was imported")
    else:
        click.echo(f"{file}: {counted(report.keys, 'key')} of {vendor} imported, import {report.import_id}")
        click.echo(f"kmp-smsd: the keys are in clear in {file}: erase it, and every copy of it", err=True)


@keys.command()
@json_option
@click.pass_obj
def imports(settings: Settings, as_json: bool) -> None:
    """List imports in their order: whose keys, how many, and of which file.

    The digest is the SHA-256 of the file, as sha256sum prints it. An import without a time is under way, or was broken
    off: its keys do not exist, and the next import removes it.
    """
    with settings.store() as store:
        listing(
            pages(store.imports.listing, "import"),
            IMPORTS,
            as_json=as_json,
            nothing="no imports",
        )


@keys.command("list")
@click.option("--vendor", help="Only keys of this vendor.")
@click.option("--serial", help="Only keys of the terminal with this serial number.")
@json_option
@click.pass_obj
def list_(settings: Settings, vendor: str | None, serial: str | None, as_json: bool) -> None:
    """List keys in the order of their IDs; with --vendor alone, in that of their import."""
    with settings.store() as store:
        listing(
            pages(partial(store.keys.listing, vendor=vendor, serial=serial), "key_id"),
            COLUMNS,
            as_json=as_json,
            nothing="no keys",
        )


@keys.command()
@click.argument("key_id", type=KEY_ID)
@json_option
@click.pass_obj
def show(settings: Settings, key_id: str, as_json: bool) -> None:
    """Show a key by its check value (KCV)."""
    with settings.store() as store:
        found = store.keys.get(key_id)
    if found is None:
        raise Failed(f"no key {key_id}: see 'kmp-smsd keys list'")
    record(found, as_json=as_json)


@keys.command()
@click.argument("key_ids", metavar="KEY_ID...", type=KEY_ID, nargs=-1, required=True)
@click.option("--reason", type=REASON, help="For others to read.")
@click.pass_obj
def suspend(settings: Settings, key_ids: tuple[str, ...], reason: str | None) -> None:
    """Let nothing new be bound to a key until it is resumed. What is bound stays so."""
    with settings.store() as store:

        def one(key_id: str) -> None:
            store.keys.suspend(key_id, reason)
            click.echo(f"key {key_id} is suspended")

        each(key_ids, one)


@keys.command()
@click.argument("key_ids", metavar="KEY_ID...", type=KEY_ID, nargs=-1, required=True)
@click.pass_obj
def resume(settings: Settings, key_ids: tuple[str, ...]) -> None:
    """End a suspension; deliveries that waited for it leave at once."""
    with settings.store() as store:

        def one(key_id: str) -> None:
            store.keys.resume(key_id, now_ms())
            click.echo(f"key {key_id} may be bound again")

        each(key_ids, one)


@keys.command()
@click.argument("key_ids", metavar="KEY_ID...", type=KEY_ID, nargs=-1, required=True)
@click.option("--reason", type=REASON, help="For others to read.")
@click.option("--compromised", is_flag=True, help="Somebody else may know the key.")
@yes_option
@click.pass_obj
def revoke(settings: Settings, key_ids: tuple[str, ...], reason: str | None, compromised: bool, yes: bool) -> None:
    """End a key for good, and withdraw it where it is bound."""
    with settings.store() as store:
        whose = _named(store, key_ids)
        confirm(f"{whose} will never be bound again, and platforms give up what they hold of it.", yes=yes)

        def one(key_id: str) -> None:
            before = store.keys.get(key_id)
            ended = store.keys.revoke(key_id, reason, now_ms(), compromised=compromised)
            was = f", withdrawn from {before['mdn']} {before['bound_app_id']}" if before and ended else ""
            click.echo(f"key {key_id} is {'compromised' if compromised else 'deactivated'}{was}")

        each(key_ids, one)


@keys.command()
@click.argument("key_ids", metavar="KEY_ID...", type=KEY_ID, nargs=-1, required=True)
@yes_option
@click.pass_obj
def destroy(settings: Settings, key_ids: tuple[str, ...], yes: bool) -> None:
    """Delete a key that is bound nowhere and that no platform may still hold. Backups keep what they have."""
    with settings.store() as store:
        confirm(f"{_named(store, key_ids)} will be deleted for good.", yes=yes)

        def one(key_id: str) -> None:
            store.keys.destroy(key_id, now_ms())
            click.echo(f"key {key_id} is destroyed")

        def clear() -> None:
            if not store.erasing.clear():
                click.echo(
                    "kmp-smsd: the encrypted form may still be in the files of the database, because it is being read;"
                    " dispatch clears these as soon as it can",
                    err=True,
                )

        each(key_ids, one, then=clear)


def _named(store: Store, key_ids: tuple[str, ...]) -> str:
    """What a person is asked about, and who uses it. Raises Failed where there is none of it."""
    found = [key for key_id in dict.fromkeys(key_ids) if (key := store.keys.get(key_id))]
    if not found:
        none = f"no key {key_ids[0]}" if len(key_ids) == 1 else f"none of {len(key_ids):,} keys exists"
        raise Failed(f"{none}: see 'kmp-smsd keys list'")
    bound = [key for key in found if key["mdn"]]
    if len(found) == 1:
        where = f", bound to {bound[0]['mdn']} for {bound[0]['bound_app_id']}," if bound else ""
        return f"Key {found[0]['key_id']}{where}"
    return f"Each of {len(found):,} keys, {len(bound):,} of them bound,"
