"""Requests that a gateway hands in: a command keeps them, intake decides them, the command tells the outcome."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from kmp_smsd.domain.facts import Decision
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.rows import STEP_ROWS, in_steps
from kmp_smsd.storage.subscribers import hear
from kmp_smsd.storage.waiting import said


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a submission. `app_id` is the app that was meant, where that was clear."""

    outcome: Outcome
    app_id: str | None
    why: str


def answer_submissions(connection: Any, decisions: Sequence[Decision | Unfit]) -> None:
    """Keep what became of the submissions among `decisions`, in the caller's transaction."""
    answers = [
        (one.outcome.value, one.app_id, one.why or None, one.request.submission)
        for one in decisions
        if isinstance(one, Decision) and one.request.submission is not None
    ]
    if answers:
        connection.executemany(
            "UPDATE submissions SET outcome = ?, app_meant = ?, why = ? WHERE id = ? AND outcome IS NULL", answers
        )


def answer_faulty_submission(connection: Any, submission: int) -> None:
    """Keep that a submission could not be settled, in the caller's transaction."""
    connection.execute(
        "UPDATE submissions SET outcome = ? WHERE id = ? AND outcome IS NULL", (Outcome.ERROR.value, submission)
    )


def _submit(connection: Any, request: SyncRequest, now: int) -> int:
    (number,) = connection.execute(
        """INSERT INTO submissions (subscriber, key_id, app, counter, tag, gateway, received_at)
           VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id""",
        (hear(connection, request.mdn, now), *said(request)),
    ).fetchone()
    return int(number)


class Submissions:
    """The command's side."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, requests: Sequence[SyncRequest], now: int) -> list[int]:
        """Keep requests, in order and in steps, for intake to decide; their numbers.

        Where it fails, those of earlier steps are kept all the same: to hand them in again is harmless.
        """
        numbers: list[int] = []
        for step in in_steps(requests, STEP_ROWS):
            with self._database.transaction() as connection:
                numbers += [_submit(connection, one, now) for one in step]
        return numbers

    def answers(self, submissions: Sequence[int]) -> dict[int, Answer]:
        """What became of those that intake has decided."""
        return {
            number: Answer(Outcome(outcome), app_id, why or "")
            for number, outcome, app_id, why in self._database.rows(
                """SELECT s.id, s.outcome, s.app_meant, s.why
                   FROM json_each(?) j CROSS JOIN submissions s ON s.id = j.value WHERE s.outcome IS NOT NULL""",
                (json.dumps(list(submissions)),),
            )
        }

    def undecided(self, submissions: Sequence[int]) -> set[int]:
        """Those that are kept and not decided; what is neither here nor answered was erased with its number."""
        return {
            number
            for (number,) in self._database.rows(
                "SELECT s.id FROM json_each(?) j CROSS JOIN submissions s ON s.id = j.value WHERE s.outcome IS NULL",
                (json.dumps(list(submissions)),),
            )
        }

    def forget(self, submissions: Sequence[int]) -> None:
        """Forget, in steps, those whose answer was told."""
        for step in in_steps(submissions, STEP_ROWS):
            with self._database.transaction() as connection:
                connection.executemany(
                    "DELETE FROM submissions WHERE id = ? AND outcome IS NOT NULL", [(one,) for one in step]
                )

    def expire(self, before: int) -> int:
        """Forget decided ones received before that time, in Unix milliseconds: nobody asked for their answer.

        How many, at most STEP_ROWS a call. They are numbered in the order in which they came. Those that nobody decides
        stay, however many stand at the head.
        """
        oldest_first = "SELECT id, received_at, outcome FROM submissions ORDER BY id"
        with self._database.faults(), closing(self._database.connection.execute(oldest_first)) as rows:
            old = takewhile(lambda row: row[1] < before, rows)
            found = list(islice((number for number, _, outcome in old if outcome is not None), STEP_ROWS))
        if found:
            self.forget(found)
        return len(found)
