"""Sealing every data key anew, to another master key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from kmp_smsd.storage.database import open_database
from kmp_smsd.storage.errors import NotPossible, StoreUnavailable
from kmp_smsd.storage.locks import SchemaLock
from kmp_smsd.storage.schema import check_schema


def reseal(path: Path, before: str, after: str, sealed_anew: Callable[[str, bytes], bytes]) -> tuple[int, bool]:
    """Replace every sealed data key in one transaction, and the fingerprint `before` by `after`.

    The number of keys, and whether what was sealed before is in no file any more; where it is, dispatch sees to it.

    `sealed_anew` makes of a data key's ID and what is sealed to master key `before` what is sealed to `after`. What it
    raises changes nothing. Raises StoreBusy while anybody has the database open, and NotPossible where its keys are
    sealed to another master key than `before`.
    """
    with closing(SchemaLock(path, exclusive=True)), closing(open_database(path)) as database:
        check_schema(database.connection, path)
        with database.transaction() as connection:
            ((known,),) = connection.execute("SELECT master_key FROM store").fetchall()
            if known != before:
                raise NotPossible(f"the keys in {path} are sealed to master key {known}, not to {before}")
            sealed = connection.execute("SELECT id, sealed FROM data_keys").fetchall()
            connection.executemany(
                "UPDATE data_keys SET sealed = ? WHERE id = ?",
                [(sealed_anew(data_key_id, octets), data_key_id) for data_key_id, octets in sealed],
            )
            connection.execute("UPDATE store SET master_key = ?, erase_log = erase_log + 1", (after,))
        is_cleared = False
        with suppress(StoreUnavailable):  # what counts is done
            is_cleared = database.scrubber.scrub()
    return len(sealed), is_cleared
