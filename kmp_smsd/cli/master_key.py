"""``kmp-smsd master-key``: the key that protects all others."""

from __future__ import annotations

from pathlib import Path

import click

from kmp_smsd.cli.failures import Failed
from kmp_smsd.cli.settings import Settings
from kmp_smsd.cli.undumpable import make_undumpable


@click.group()
def master_key() -> None:
    """Make the key that protects all others."""


@master_key.command()
@click.option(
    "--private",
    "private_path",
    type=click.Path(path_type=Path),
    help="Where the private half goes. Default: the file that [secrets] master_key names, or credentials/NAME beside "
    "the configuration for a credential.",
)
@click.pass_obj
def create(settings: Settings, private_path: Path | None) -> None:
    """Make a master key: the public half into the file that [secrets] public_key names, the private one for dispatch.

    Nothing is ever overwritten. Without the private half every imported key is lost: keep a copy of it in a safe.
    """
    from kmp_smsd.vault.key_files import create_master_key

    make_undumpable()
    public_path = settings.config.secrets.public_key
    private_path = private_path or _private_path(settings)
    _no_keys_sealed_to_another(settings)
    for path in (private_path, public_path):
        if path.exists():
            raise Failed(f"{path} exists: a master key is never overwritten")
        if not path.parent.is_dir():
            raise Failed(f"no directory {path.parent}: create it first, for root alone ('install -d -m 700')")
    made = create_master_key(private_path, public_path)
    click.echo(f"master key {made.fingerprint}")
    click.echo(f"public half: {public_path}")
    click.echo(f"private half: {private_path}")
    click.echo(
        "kmp-smsd: keep a copy of the private half in a safe, apart from the backups of the database: without it every"
        " imported key is lost",
        err=True,
    )


def _private_path(settings: Settings) -> Path:
    ref = settings.config.secrets.master_key
    if ref is None:
        raise Failed("[secrets] master_key is missing: say where the private half goes with --private FILE")
    return ref.file or settings.path.parent / "credentials" / str(ref.credential)


def _no_keys_sealed_to_another(settings: Settings) -> None:
    """A second master key beside a database in use could open nothing in it."""
    if not settings.config.storage.path.exists():
        return
    with settings.store() as store:
        known = store.master_key()
    if known is not None:
        raise Failed(
            f"the keys in {settings.config.storage.path} are sealed to master key {known}, and a new one could not open"
            " them: restore its two files from their copies"
        )
