"""The class of an error says what to do; its text is for people."""

from __future__ import annotations

from kmp_smsd.storage.remedies import is_damage, remedy


class StoreError(Exception):
    """Anything that the store could not do."""


class StoreUnavailable(StoreError):
    """Not now: the disk is full, broken or slow. Nothing was changed; the same call may succeed later.

    Raised from the disk's error, with a sentence that names the file, it also says what to do.
    """

    def __str__(self) -> str:
        todo = remedy(self.__cause__)
        return super().__str__() if todo is None else f"{super().__str__()}: {todo}"

    @property
    def is_damage(self) -> bool:
        """Whether later will be no better: the database is damaged."""
        return is_damage(self.__cause__)


class NoRoom(StoreUnavailable):
    """What was to be written would leave too little of the volume to the messages."""


class StoreUnusable(StoreError):
    """This is not our database: missing, of another schema, or in a place where it must not lie (exit 78)."""


class StoreBusy(StoreError):
    """A role or command has the database open, or somebody migrates or restores it (exit 75)."""


class NotPossible(StoreError):
    """The wish contradicts what is stored; the text says how, and what to do instead."""
