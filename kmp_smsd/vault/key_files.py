"""Writing the two halves of a master key: durable, exact permissions, and never over something that exists."""

from __future__ import annotations

import os
from pathlib import Path

from kmp_smsd.vault.master_key import PublicKey, create


def create_master_key(private_path: Path, public_path: Path) -> PublicKey:
    """Create a master key in two new files, mode 0600 and 0644, both on disk when this returns.

    Raises FileExistsError or another OSError, and then leaves neither file: a public half without its private one would
    seal keys that nobody can ever open.
    """
    private, public = create()
    write_new(private_path, private, 0o600)
    try:
        write_new(public_path, public, 0o644)
    except BaseException:  # an interrupt too
        private_path.unlink()
        raise
    return PublicKey.load(public_path)


def write_new(path: Path, octets: bytes, mode: int) -> None:
    """Write a file that is not there yet, durably. Raises OSError, and then leaves nothing of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask is
            file.write(octets)
            file.flush()
            os.fsync(descriptor)
        sync_directory(path.parent)
    except BaseException:  # an interrupt too: half a key is none
        path.unlink()
        raise


def sync_directory(path: Path) -> None:
    """A new file survives a power cut only when its name does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
