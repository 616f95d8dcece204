"""Requests of the carrier's business system: each is done once, however often it comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.renumbering import renumber
from kmp_smsd.storage.room import leaving_room, with_short_log
from kmp_smsd.storage.rows import STEP_ROWS, delete_some
from kmp_smsd.storage.subscribers import Registration, register, unregister

BATCH_ROWS = STEP_ROWS  # after so many, or so many requests, a transaction takes no further one; each may change 2,000


@dataclass(frozen=True, slots=True)
class Add:
    """Register `mdn`, canonical, for apps."""

    mdn: str
    app_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove registrations of `mdn`; None for all that it has."""

    mdn: str
    app_ids: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Renumber:
    """Give MDN `to` all that `mdn` has."""

    mdn: str
    to: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What came is no request; the sentence says why, and names no number."""

    reason: str


@dataclass(frozen=True, slots=True)
class Request:
    """What came under `id`, None where even that could not be read. `digest` is of all that it says."""

    id: str | None
    digest: bytes
    wish: Add | Remove | Renumber | Fault


#: ``{"result": "done" | "refused" | "error", ...}``; names no number.
Result = dict[str, Any]


class Requests:
    """Does requests, and remembers what became of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, requests: Sequence[Request], now: int) -> list[Result]:
        """Do the first of `requests`, at least one and as many as a transaction may, in order; their results.

        Done and refused ones are remembered: when they come again they get the same result, and nothing is done. Errors
        are not; the same ID may come again with the fault mended. All results are on disk, those that are repeated too.
        Raises NoRoom where too little would be left of the volume.
        """
        results: list[Result] = []
        requests = requests[:BATCH_ROWS]
        grows = any(isinstance(request.wish, Add | Renumber) for request in requests)
        with leaving_room(self._database) if grows else with_short_log(self._database) as connection:
            before = connection.total_changes
            known = self._known(connection, requests)
            for request in requests:
                results.append(self._answer(connection, known, request, now))
                if connection.total_changes - before >= BATCH_ROWS:
                    break
            if connection.total_changes == before:
                # What is only repeated may come from a commit that was killed before its sync: this one's brings both
                # to the disk. The field of the file's header is one that nobody reads.
                connection.execute(f"PRAGMA user_version = {now // 1000 & 0x7FFFFFFF}")
        return results

    @staticmethod
    def _known(connection: Any, requests: Sequence[Request]) -> dict[str, tuple[bytes, str]]:
        ids = json.dumps([request.id for request in requests if request.id is not None])
        return {
            id: (digest, result)
            for id, digest, result in connection.execute(
                "SELECT r.id, r.digest, r.result FROM json_each(?) j CROSS JOIN requests r ON r.id = j.value", (ids,)
            )
        }

    @staticmethod
    def _answer(connection: Any, known: dict[str, tuple[bytes, str]], request: Request, now: int) -> Result:
        if request.id in known:
            digest, told = known[request.id]
            if digest != request.digest:
                return _error("this ID was given to another request: take a new one for each")
            result: Result = json.loads(told)
            return result
        if isinstance(request.wish, Fault):
            return _error(request.wish.reason)
        assert request.id is not None
        try:
            result = {"result": "done", **_do(connection, request.wish, now)}
        except NotPossible as error:
            result = {"result": "refused", "reason": str(error)}
        told = json.dumps(result)
        connection.execute(
            "INSERT INTO requests (id, digest, result, at) VALUES (?, ?, ?, ?)", (request.id, request.digest, told, now)
        )
        known[request.id] = request.digest, told
        return result

    def expire(self, before: int) -> int:
        """Forget requests from before that time, in Unix milliseconds; how many, at most STEP_ROWS a call."""
        return delete_some(self._database, "requests", "id", "at < ?", before)


def _do(connection: Any, wish: Add | Remove | Renumber, now: int) -> dict[str, int]:
    match wish:
        case Add(mdn, app_ids):
            new = register(connection, [Registration(mdn, app_id) for app_id in app_ids], now)
            return {"added": new, "unchanged": len(app_ids) - new}
        case Remove(mdn, app_ids):
            removed = unregister(connection, mdn, app_ids, now)
            unchanged = len(app_ids) - len(removed.app_ids) if app_ids is not None else 0
            return {"removed": len(removed.app_ids), "unchanged": unchanged, "bindings": removed.bindings}
        case Renumber(mdn, to):
            renumbered = renumber(connection, mdn, to, now)
            return {"registrations": len(renumbered.app_ids), "bindings": len(renumbered.key_ids)}


def _error(reason: str) -> Result:
    return {"result": "error", "reason": reason}
