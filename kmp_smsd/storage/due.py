"""Which rows of the outbox are due or rejected, and whether the time of one has come."""

from __future__ import annotations

from kmp_smsd.domain.spans import DAY_MS

TRY_WITHIN_MS = DAY_MS  # nobody waits longer for a try: a later one was set before the clock was set back
DUE = "wanted_version <> confirmed_version AND wanted_version <> rejected_version"
REJECTED = "wanted_version = rejected_version"


def _platforms_with(condition: str) -> str:
    """A query for the platforms that have such rows, and the empty name.

    Each is looked for behind the one before, since an index may hold millions of such rows of one.
    """
    return f"""
WITH RECURSIVE found (name) AS (
  SELECT '' UNION ALL
  SELECT (SELECT min(platform) FROM outbox WHERE platform > name AND {condition}) FROM found WHERE name IS NOT NULL)
SELECT name FROM found WHERE name IS NOT NULL"""


DUE_PLATFORMS, REJECTING_PLATFORMS = _platforms_with(DUE), _platforms_with(REJECTED)

# The due rows of platform ?1 behind the one that is number ?3 of those to be tried at ?2, at most ?4. In two halves,
# because SQLite does not look for a pair of which one half is the row's number.
BEHIND = f"""
SELECT * FROM (SELECT * FROM outbox WHERE platform = ?1 AND {DUE} AND try_at = ?2 AND id > ?3 ORDER BY id LIMIT ?4)
UNION ALL
SELECT * FROM (SELECT * FROM outbox WHERE platform = ?1 AND {DUE} AND try_at > ?2 ORDER BY try_at, id LIMIT ?4)
LIMIT ?4"""

# The rows that platform ?1 rejected behind the one that is number ?3, at most ?4.
REJECTED_BEHIND = f"""
SELECT * FROM outbox INDEXED BY outbox_rejected WHERE platform = ?1 AND {REJECTED} AND id > ?3 ORDER BY id LIMIT ?4"""


def has_come(try_at: int, now: int) -> bool:
    """Whether at `now` it is time to try what is to be tried at `try_at` (both in Unix milliseconds)."""
    return not now < try_at <= now + TRY_WITHIN_MS
