"""Requests that no SMSC sends: what comes again because a command marked it, and what a gateway handed in."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.holding import answer_approval
from kmp_smsd.storage.replying import load_reply_to
from kmp_smsd.storage.submissions import answer_faulty_submission

log = logging.getLogger(__name__)

_APPROVED = """
SELECT s.mdn, k.key_id, h.app, h.counter, h.tag, h.received_at, h.link, h.reply_to, h.id
FROM holds h JOIN subscribers s ON s.number = h.subscriber JOIN keys k ON k.id = h.key
WHERE h.marked = 1 ORDER BY h.id LIMIT ?"""

_WAITED = """
SELECT s.mdn, w.key_id, w.app, w.counter, w.tag, w.received_at, w.link, w.reply_to
FROM waiting w JOIN subscribers s ON s.number = w.subscriber
WHERE w.again_at <= ? ORDER BY w.again_at, w.received_at, w.subscriber, w.key_id LIMIT ?"""

_SUBMITTED = """
SELECT s.mdn, u.key_id, u.app, u.counter, u.tag, u.received_at, u.gateway, NULL, u.id
FROM submissions u JOIN subscribers s ON s.number = u.subscriber
WHERE u.outcome IS NULL AND u.gateway IN (SELECT value FROM json_each(?)) ORDER BY u.id LIMIT ?"""

_ANY = """
SELECT EXISTS (SELECT 1 FROM holds WHERE marked = 1) OR EXISTS (SELECT 1 FROM waiting WHERE again_at <= ?)
  OR EXISTS (SELECT 1 FROM submissions WHERE outcome IS NULL AND gateway IN (SELECT value FROM json_each(?)))"""

_UNKNOWN_GATEWAY = """
SELECT gateway FROM submissions WHERE outcome IS NULL AND gateway NOT IN (SELECT value FROM json_each(?)) LIMIT 1"""


def any_again(database: Database, now: int, gateways: Iterable[str]) -> bool:
    """Whether `read_again` would find something. Cheap: polled, for a key's validity begins without a commit."""
    return bool(database.rows(_ANY, (now, json.dumps(list(gateways))))[0][0])


def unknown_gateway(database: Database, gateways: Iterable[str]) -> str | None:
    """A gateway that is none of `gateways`, and whose requests wait for that reason."""
    found = database.rows(_UNKNOWN_GATEWAY, (json.dumps(list(gateways)),))
    return found[0][0] if found else None


def read_again(database: Database, now: int, limit: int, gateways: Iterable[str]) -> list[SyncRequest]:
    """Up to `limit` requests that are to be decided at `now`, in Unix milliseconds.

    What others than `gateways` handed in waits: whoever decides does not know their policy yet. The app of an approved
    hold is what the person saw and approved, whether the message named it or not.
    """
    again = [_request(*row, approved_hold=hold) for *row, hold in database.rows(_APPROVED, (limit,))]
    if len(again) < limit:
        again += [_request(*row, waited=True) for row in database.rows(_WAITED, (now, limit - len(again)))]
    if len(again) < limit:
        rows = database.rows(_SUBMITTED, (json.dumps(list(gateways)), limit - len(again)))
        again += [_request(*row, submission=number) for *row, number in rows]
    return again


def settle_faulty_again(connection: Any, request: SyncRequest, now: int) -> None:
    """Answer a request that cannot be settled, so that it does not come for ever; in the caller's transaction."""
    if request.approved_hold is not None:
        answer_approval(connection, request.approved_hold, Outcome.ERROR, now)
    elif request.waited:
        connection.execute(
            """DELETE FROM waiting WHERE subscriber = (SELECT number FROM subscribers WHERE mdn = ?) AND key_id = ?""",
            (request.mdn, request.key_id),
        )
    elif request.submission is not None:
        answer_faulty_submission(connection, request.submission)


def _request(
    mdn: str,
    key_id: str,
    app: str | None,
    counter: int | None,
    tag: str | None,
    received_at: int,
    link: str,
    reply_to: str | None,
    *,
    approved_hold: int | None = None,
    waited: bool = False,
    submission: int | None = None,
) -> SyncRequest:
    return SyncRequest(
        mdn=mdn,
        key_id=key_id,
        app_id=app,
        proof=Proof(counter, tag) if counter is not None and tag is not None else None,
        received_at=received_at,
        link=link,
        approved_hold=approved_hold,
        waited=waited,
        submission=submission,
        reply_to=_reply_to(reply_to, link),
    )


def _reply_to(column: str | None, link: str) -> ReplyTo | None:
    try:
        return load_reply_to(column)
    except ValueError:  # it must not keep all that are behind it from being decided
        log.exception("a reply address cannot be read: nobody is told", extra={"event": "reply_error", "link": link})
        return None
