"""Whether answered messages wait to be decided for longer than they should, or lie where nobody reads them."""

from __future__ import annotations

from collections.abc import Sequence

from kmp_smsd.diagnosis.finding import Finding, ok, warning
from kmp_smsd.domain.shown import shown

WAIT_GOOD_MS = 60_000
NAMED_MAX = 5  # files that are named; the others are counted


def judge_inbox(path: str, received_at: Sequence[int], now: int) -> Finding:
    """`received_at`: when each message in the inbox at `path` came that is not decided; all in Unix milliseconds."""
    if not received_at:
        return ok(f"no message waits in {path}")
    wait_ms = now - min(received_at)
    waiting = (
        f"answered messages wait in {path} to be decided: {len(received_at):,}, the oldest for {wait_ms // 1000:,} s"
    )
    if wait_ms <= WAIT_GOOD_MS:
        return ok(waiting)
    return warning(
        f"{waiting}; no SMSC has them any more",
        "start intake where it does not run; else 'kmp-smsd status' says what keeps it, do not remove the directory",
    )


def judge_unread(path: str, names: Sequence[str]) -> list[Finding]:
    """`names` of what lies in the inbox at `path` and is not read."""
    if not names:
        return []
    more = f" and {len(names) - NAMED_MAX:,} more" if len(names) > NAMED_MAX else ""
    return [
        warning(
            f"in {path} nobody reads {', '.join(map(shown, names[:NAMED_MAX]))}{more}",
            "of *.damaged answered messages may be lost: 'journalctl KMP_EVENT=inbox_damaged' tells; remove it when"
            " nobody needs it. Give a file of messages its old name back, then restart intake; take all else away",
        )
    ]
