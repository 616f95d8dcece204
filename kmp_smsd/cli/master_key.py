"""``kmp-smsd master-key``: the key that protects all others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.arguments import FilePath, yes_option
from kmp_smsd.cli.carefully import confirm
from kmp_smsd.cli.failures import NO_PERMISSION, Failed, forbidden
from kmp_smsd.cli.settings import Settings
from kmp_smsd.domain.counted import counted
from kmp_smsd.vault.own_process import make_undumpable

if TYPE_CHECKING:
    from kmp_smsd.vault.master_key import PublicKey

_KEEP = (
    "kmp-smsd: keep a copy of the private half in a safe, apart from the backups of the database: without it every"
    " imported key is lost"
)

private_option = click.option(
    "--private",
    "private_path",
    type=FilePath(path_type=Path),
    help="Where the private half lies. Default: the file that [secrets] master_key names, or credentials/NAME beside "
    "the configuration for a credential.",
)


@contextmanager
def _of_root() -> Iterator[None]:
    """What the halves lie in is closed to the service's group, or for it to read only."""
    try:
        yield
    except PermissionError as error:
        code, sentence = forbidden(error, root_alone=True)
        raise Failed(sentence, code) from None


@click.group()
def master_key() -> None:
    """Make and replace the key that protects all others."""


@master_key.command()
@private_option
@click.pass_obj
@_of_root()
def create(settings: Settings, private_path: Path | None) -> None:
    """Make a master key: the public half into the file that [secrets] public_key names, the private one for dispatch.

    Nothing is ever overwritten. Without the private half every imported key is lost: keep a copy of it in a safe.
    """
    from kmp_smsd.vault.key_files import create_master_key

    make_undumpable()
    public_path = settings.config.secrets.public_key
    private_path = private_path or _private_path(settings)
    _no_keys_sealed_to_another(settings, all_there=private_path.exists() and public_path.exists())
    for path in (private_path, public_path):
        if path.exists():
            raise Failed(f"{path} exists: a master key is never overwritten")
        if not path.parent.is_dir():
            raise Failed(f"no directory {path.parent}: create it first, for root alone ('install -d -m 700')")
    made = create_master_key(private_path, public_path)
    click.echo(f"master key {made.fingerprint}")
    click.echo(f"public half: {public_path}")
    click.echo(f"private half: {private_path}")
    click.echo(_KEEP, err=True)


@master_key.command()
@private_option
@click.option(
    "--from",
    "from_path",
    type=FilePath(path_type=Path),
    help="The private half that opens the keys of the database. Default: the present one.",
)
@yes_option
@click.pass_obj
@_of_root()
def rotate(settings: Settings, private_path: Path | None, from_path: Path | None, yes: bool) -> None:
    """Replace the master key by a new one, to which every imported key is sealed from then on. Stop the daemon first.

    Where the database came from a backup whose keys are sealed to an older master key, they are sealed to the present
    one; --from names the older private half. What was broken off is finished when the command is run again. The halves
    that are replaced stay beside the new ones: backups from before need them.
    """
    from kmp_smsd.vault.replacing import alone

    make_undumpable()
    public_path = settings.config.secrets.public_key
    with alone(public_path):
        _rotate(settings, private_path or _private_path(settings), public_path, from_path, yes=yes)


def _rotate(settings: Settings, private_path: Path, public_path: Path, from_path: Path | None, *, yes: bool) -> None:
    from kmp_smsd.vault.master_key import PublicKey
    from kmp_smsd.vault.replacing import check_coming, kept, next_fingerprint, take_place

    present = PublicKey.load(public_path)
    with settings.store() as store:
        known = store.master_key()
    if known is None:
        raise Failed(
            f"no key was imported yet: remove {private_path} and {public_path}, then run 'kmp-smsd master-key create'"
        )
    if next_fingerprint(public_path) != known:  # else it was broken off when all was sealed
        known = _reseal(settings, known, present, private_path, from_path, yes=yes).fingerprint
        if known == present.fingerprint:
            return
    check_coming(private_path, known)
    for half, path in (("private", private_path), ("public", public_path)):
        take_place(path, present.fingerprint)
        click.echo(f"{half} half: {path}; the one before: {kept(path, present.fingerprint)}")
    click.echo(_KEEP, err=True)
    click.echo("kmp-smsd: start the roles, then make a backup: those from before need the halves from before", err=True)


def _reseal(
    settings: Settings, known: str, present: PublicKey, private_path: Path, from_path: Path | None, *, yes: bool
) -> PublicKey:
    """Seal the keys of the database, which are sealed to `known`, to a new master key, or to the present one."""
    from kmp_smsd.storage.resealing import reseal
    from kmp_smsd.vault.master_key import MasterKey
    from kmp_smsd.vault.replacing import check_private, next_key

    database = settings.config.storage.path
    try:
        opening = MasterKey.load(from_path or private_path)
    except FileNotFoundError as error:
        remedy = "" if from_path else ": where it lies elsewhere, or encrypted, --private names it, or a decrypted copy"
        raise Failed(f"{error.filename}: {error.strerror}{remedy}", NO_PERMISSION) from None
    if opening.fingerprint != known:
        raise Failed(
            f"{from_path or private_path} is of master key {opening.fingerprint}, the keys in {database} are sealed to"
            f" {known}: name its private half with --from"
        )
    renewed = known == present.fingerprint
    if not renewed:
        check_private(private_path, present.fingerprint)
    what = "a new master key" if renewed else f"master key {present.fingerprint}"
    confirm(f"The keys in {database} will be sealed to {what}, and no more to {known}.", yes=yes)
    sealing = next_key(private_path, settings.config.secrets.public_key) if renewed else present
    resealed, is_cleared = reseal(
        database,
        known,
        sealing.fingerprint,
        lambda data_key_id, sealed: sealing.seal(opening.open(data_key_id, sealed)),
    )
    click.echo(f"master key {sealing.fingerprint}: {counted(resealed, 'data key')} sealed to it")
    if not is_cleared:
        click.echo(
            f"kmp-smsd: as they were sealed to {known} they are still in the files of the database, because it is being"
            " read; dispatch clears these as soon as it can",
            err=True,
        )
    return sealing


def _private_path(settings: Settings) -> Path:
    ref = settings.config.secrets.master_key
    if ref is None:
        raise Failed("[secrets] master_key is missing: say where the private half goes with --private FILE")
    return ref.file or settings.path.parent / "credentials" / str(ref.credential)


def _no_keys_sealed_to_another(settings: Settings, *, all_there: bool) -> None:
    """A second master key beside a database in use could open nothing in it."""
    if not settings.config.storage.path.exists():
        return
    with settings.store() as store:
        known = store.master_key()
    if known is not None:
        way_on = "its two files are in their places" if all_there else "restore its two files from their copies"
        raise Failed(
            f"the keys in {settings.config.storage.path} are sealed to master key {known}, and a new one could not open"
            f" them: {way_on}"
        )
