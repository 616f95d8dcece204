"""``kmp-smsd db``: the database as a whole."""

from __future__ import annotations

from pathlib import Path

import click

from kmp_smsd.cli.arguments import FilePath, json_option, yes_option
from kmp_smsd.cli.carefully import confirm
from kmp_smsd.cli.failures import NO_PERMISSION, Failed
from kmp_smsd.cli.output import local_time
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.counted import counted


@click.group()
def db() -> None:
    """Create, migrate, back up, restore and check the database."""


@db.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Create the database, or bring it to this version's schema; a snapshot is made first. Stop the daemon before."""
    from kmp_smsd.storage import migrating

    path = settings.config.storage.path
    done = migrating.migrate(path)
    if not done.applied:
        click.echo(f"{path}: up to date")
        return
    click.echo(f"{path}: applied {', '.join(done.applied)}")
    if done.snapshot is not None:
        click.echo(f"the database as it was: {done.snapshot}")


@db.command()
@click.option("--known", is_flag=True, help="That of this program instead.")
@click.pass_obj
def schema(settings: Settings, known: bool) -> None:
    """Print the schema of the database: the last migration that was applied to it. Exits 78 where there is none."""
    from kmp_smsd.storage.schema import applied_schema, known_schema

    click.echo(known_schema() if known else applied_schema(settings.config.storage.path))


@db.command()
@click.argument("file", type=FilePath(path_type=Path))
@click.pass_obj
def backup(settings: Settings, file: Path) -> None:
    """Write a copy of the database to FILE, which must not exist, while everything goes on."""
    from kmp_smsd.storage.backup import backup as write_backup
    from kmp_smsd.storage.inbox_files import directory

    if str(file) == "-":  # a pipe behind it would take what is said for the copy
        raise click.UsageError("a backup is not written to standard output: name a file")
    path = settings.config.storage.path
    with settings.store() as store:
        octets = write_backup(path, file)
        click.echo(f"{file}: {counted(octets, 'octet')}")
        if (fingerprint := store.master_key()) is not None:
            click.echo(
                f"kmp-smsd: its keys are encrypted; who restores it needs the private half of master key {fingerprint}",
                err=True,
            )
        if waiting := len(store.waiting_in_inbox()):
            left = f"{counted(waiting, 'message')} in {directory(path)}, answered and not decided yet"
            click.echo(f"kmp-smsd: not in it: {left}", err=True)


@db.command()
@click.argument("file", type=FilePath(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--other-master-key", is_flag=True, help="Take it even where its keys are sealed to another master key than ours."
)
@yes_option
@click.pass_obj
def restore(settings: Settings, file: Path, other_master_key: bool, yes: bool) -> None:
    """Put the backup FILE in the place of the database, and deliver everything again. Stop the daemon first.

    What was imported, registered and bound since the backup is lost; the present database is kept beside the new one.
    """
    from kmp_smsd.storage import restoring

    path = settings.config.storage.path
    restoring.check_names(path, file)  # before anybody is asked
    public_half = _public_half(settings, must_be_good=not other_master_key)
    written = local_time(int(file.stat().st_mtime * 1000))
    if path.exists():
        lost = f"{path} will be replaced by {file}, written {written}; everything since that backup is lost."
    else:
        lost = f"{path}, which is missing, will be made of {file}, written {written}."
    confirm(lost, yes=yes)
    done = restoring.restore(path, file, now_ms(), public_half=public_half, other_master_key=other_master_key)
    click.echo(f"{path}: restored from {file}; {counted(done.wanted_again, 'row')} wanted again at the platforms")
    if done.previous is not None:
        click.echo(f"the database as it was: {done.previous}")
    click.echo(
        "kmp-smsd: import, register and revoke again what was done since the backup; SMSCs may send again what they"
        " still have",
        err=True,
    )
    if done.master_key is not None and done.master_key != public_half:
        ours = (
            "there is no good public half here"
            if public_half is None
            else f"the configured public half is {public_half}"
        )
        click.echo(
            f"kmp-smsd: its keys need both halves of master key {done.master_key}, and {ours}: put them where [secrets]"
            " says before you start the roles; 'kmp-smsd doctor' tells whether they fit",
            err=True,
        )


@db.command()
@json_option
@click.pass_obj
def check(settings: Settings, as_json: bool) -> None:
    """Check that the database is whole, and that what it says is true of all its rows. Nothing is written.

    Roles and commands go on. All of the database is read: while its largest table is, the write-ahead log grows by what
    is written meanwhile. Exits 1 where something is to be looked at, and 78 where the database is damaged or untrue.
    """
    from kmp_smsd.cli import findings
    from kmp_smsd.cli.checks import integrity
    from kmp_smsd.diagnosis.finding import exit_code

    with settings.store() as store:
        report = integrity(store)
    if as_json:
        click.echo(findings.as_json(report))
    else:
        findings.show(report)
        findings.show_count([report])
    raise click.exceptions.Exit(exit_code([report]))


def _public_half(settings: Settings, *, must_be_good: bool) -> str | None:
    """The fingerprint of the configured public half; None where the machine is new and has none yet.

    Raises Failed where the file `must_be_good` and is not.
    """
    from kmp_smsd.vault.master_key import MasterKeyFileFault, PublicKey

    try:
        return PublicKey.load(settings.config.secrets.public_key).fingerprint
    except FileNotFoundError:
        return None
    except MasterKeyFileFault as fault:
        if must_be_good:
            raise Failed(f"{fault}; to restore without it, say --other-master-key", NO_PERMISSION) from None
        return None
