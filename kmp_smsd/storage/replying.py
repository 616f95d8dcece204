"""Replies as intake's decisions want them, in the transaction that decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kmp_smsd.domain.facts import Decision, Facts
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.reply import ReplyTo, earns_reply
from kmp_smsd.domain.request import Unfit
from kmp_smsd.domain.spans import DAY_MS

# An SMSC whose answer was lost sends the same message again within that time; a terminal that asks again waits longer
# (docs/payload.rst).
REDELIVERED_MS = 300_000

# A newer reply for the same MDN + app takes the place of one that has not left. What changes nothing may be a message
# that the SMSC sends once more, and its terminal was told just now.
_WRITE = """
INSERT INTO replies (subscriber, app, key, link, reply_to, wanted_at, expires_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?6 + ?7
WHERE ?8 > (SELECT count(*) FROM replies WHERE subscriber = ?1 AND sent_at > ?6 - ?9)
         + (SELECT count(*) FROM replies WHERE subscriber = ?1 AND state = 'waiting' AND app <> ?2)
  AND NOT (?10 AND EXISTS (
    SELECT 1 FROM replies WHERE subscriber = ?1 AND app = ?2 AND key = ?3 AND sent_at > ?6 - ?11))
ON CONFLICT (subscriber, app) WHERE state = 'waiting' DO UPDATE SET
  key = excluded.key, link = excluded.link, reply_to = excluded.reply_to, wanted_at = excluded.wanted_at,
  expires_at = excluded.expires_at, command_status = NULL"""


def write_replies(connection: Any, facts: Facts, decisions: Sequence[Decision | Unfit]) -> None:
    """Want a reply for each decision that earns one and whose request says where to."""
    earned = [
        one
        for one in decisions
        if isinstance(one, Decision) and one.request.reply_to is not None and earns_reply(one.outcome)
    ]
    if not earned:
        return
    policy = facts.policy
    connection.executemany(
        _WRITE,
        [
            (
                facts.subscribers[one.request.mdn],
                one.app_id,
                facts.keys[one.request.key_id].number,
                one.request.link,
                dump_reply_to(one.request.reply_to),
                facts.now,
                policy.reply_expire_s * 1000,
                policy.mdn_replies_a_day,
                DAY_MS,
                one.outcome is Outcome.ALREADY_BOUND,
                REDELIVERED_MS,
            )
            for one in earned
        ],
    )


def dump_reply_to(reply_to: ReplyTo | None) -> str | None:
    """As it lies in a column."""
    return None if reply_to is None else msgspec.json.encode(reply_to).decode()


def load_reply_to(column: str | None) -> ReplyTo | None:
    """What `dump_reply_to` wrote."""
    return None if column is None else msgspec.json.decode(column, type=ReplyTo)
