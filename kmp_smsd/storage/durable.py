"""Files that survive a power cut, written without a long wait for the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

SYNC_EVERY_S = 0.005


def sync(path: Path) -> None:
    """Make the file and its name survive a power cut."""
    for one in (path, path.parent):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def synced_meanwhile(path: Path) -> Iterator[None]:
    """Around the writing of a large file: bring what is written to the disk as it comes.

    Where all of it is left for the end, each commit of the roles waits for all of it. Raises OSError.
    """
    written = Event()
    with ThreadPoolExecutor(1, "sync") as thread:
        syncing = thread.submit(_sync_until, written, path)
        try:
            yield
        finally:
            written.set()
        syncing.result()


def _sync_until(written: Event, path: Path) -> None:
    with open(path, "rb") as file:
        while not written.wait(SYNC_EVERY_S):
            os.fdatasync(file.fileno())
        os.fdatasync(file.fileno())
