"""A new master key in the place of the present one, in steps that may be broken off anywhere and done again.

The new halves are made beside the present ones, as FILE.next. Once the data keys are sealed to them, they take their
places; the halves from before stay beside them, as FILE.FINGERPRINT.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kmp_smsd.vault.key_files import create_master_key, sync_directory
from kmp_smsd.vault.master_key import MasterKey, MasterKeyFileFault, PublicKey


@contextmanager
def alone(public_path: Path) -> Iterator[None]:
    """Replace this key while nobody else does, who would remove the halves that it is being sealed to.

    Raises OSError; BlockingIOError, with a sentence of ours, where somebody does.
    """
    directory = os.open(public_path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another 'kmp-smsd master-key rotate' is replacing {public_path}: try again when it has ended"
            ) from None
        yield
    finally:
        os.close(directory)


def next_key(private_path: Path, public_path: Path) -> PublicKey:
    """Make the halves that are to come, on disk when this returns; the public one. Raises OSError.

    Nothing may be sealed to those that were made before: they are made anew.
    """
    private, public = _next(private_path), _next(public_path)
    for half in (private, public):
        half.unlink(missing_ok=True)
    return create_master_key(private, public)


def next_fingerprint(public_path: Path) -> str | None:
    """That of the half that is to come; None where there is none, or its making was broken off. Raises OSError."""
    with suppress(FileNotFoundError, MasterKeyFileFault):
        return PublicKey.load(_next(public_path)).fingerprint
    return None


def check_coming(private_path: Path, fingerprint: str) -> None:
    """Make sure that the private half of master key `fingerprint` is at hand, to come or in its place already.

    Raises MasterKeyFileFault where it is not, and OSError.
    """
    coming = _next(private_path)
    check_private(coming if coming.exists() else private_path, fingerprint)


def check_private(half: Path, fingerprint: str) -> None:
    """Make sure that the file `half` is the private half of master key `fingerprint`.

    Raises MasterKeyFileFault where it is not, and OSError.
    """
    found = MasterKey.load(half).fingerprint
    if found != fingerprint:
        raise MasterKeyFileFault(
            f"{half} is of master key {found}, the keys are sealed to {fingerprint}: put its private half there"
        )


def take_place(path: Path, before: str) -> None:
    """Put the next half in the place of `path`, durably, and keep what was there; `before` is its fingerprint."""
    if not _next(path).exists():
        return  # it has taken it already
    with suppress(FileNotFoundError, FileExistsError):
        os.link(path, kept(path, before))  # no copy, of which a kill could leave a part that is taken for all of it
    sync_directory(path.parent)
    os.replace(_next(path), path)
    sync_directory(path.parent)


def kept(path: Path, fingerprint: str) -> Path:
    """Where the half of master key `fingerprint` lies that was replaced."""
    return path.with_name(f"{path.name}.{fingerprint}")


def _next(path: Path) -> Path:
    return path.with_name(path.name + ".next")
