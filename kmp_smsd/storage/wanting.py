"""Wanting a key at a place, or nothing: the one way in which the outbox gets a new version."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kmp_smsd.storage.rows import write_rows

Route = tuple[str, int]  # the platform of an app, and whether rows of the app are still moving to it
UNROUTED: Route = ("", 0)  # an app without a platform
Row = tuple[int, str, str, int | None, int, int]  # subscriber, app, platform, key, above, now

# Versions are made here alone: each higher than any that this MDN + app ever had, and never behind the clock.
# Where the MDN was erased, it may have had any that went with an erased number; where a backup was restored, with the
# database that was replaced.
# Where no platform is configured nothing was ever delivered, so wanting nothing there is confirmed at once.
_WANT = """
WITH wanted (subscriber, app, platform, key, above, now) AS (VALUES {rows})
INSERT INTO outbox (subscriber, app, platform, key, wanted_version, confirmed_version, wanted_at, try_at)
SELECT subscriber, app, platform, key, version, iif(key IS NULL AND platform = '', version, 0), now, now
FROM (
  SELECT w.*, max(w.now, w.above + 1, 1 + (SELECT blanked_version FROM store), 1 + coalesce((
    SELECT max(max(wanted_version, confirmed_version)) FROM outbox o WHERE o.subscriber = w.subscriber AND o.app = w.app
  ), 0)) AS version
  FROM wanted w)
WHERE true
ON CONFLICT (subscriber, app, platform) DO UPDATE SET
  key = excluded.key, wanted_version = excluded.wanted_version, wanted_at = excluded.wanted_at,
  confirmed_version = max(confirmed_version, excluded.confirmed_version),
  try_at = excluded.try_at, attempts = 0, error = NULL
"""


class Want(NamedTuple):
    """At `subscriber` + `app_id` the `key` (its number) is wanted from now on, or nothing.

    `platform` None means wherever the app is routed. `above` is a version that the new one must exceed.
    """

    subscriber: int
    app_id: str
    key: int | None
    platform: str | None = None
    above: int = 0


# Two platforms' names may lead to one store on the far side, which keeps what has the higher version.
_OUTBID_BY_NOTHING = """
SELECT o.subscriber, o.app, o.key, o.platform FROM json_each(?) j
CROSS JOIN outbox o ON o.subscriber = j.value ->> 0 AND o.app = j.value ->> 1
WHERE o.key IS NOT NULL AND o.wanted_version < (
  SELECT max(wanted_version) FROM outbox WHERE subscriber = o.subscriber AND app = o.app)"""


def routes_of(connection: Any, app_ids: Iterable[str]) -> dict[str, Route]:
    """Where each of these apps is routed."""
    apps = list(app_ids)
    return dict.fromkeys(apps, UNROUTED) | {
        app: (platform, moving)
        for app, platform, moving in connection.execute(
            "SELECT app, platform, moving FROM routes JOIN json_each(?) ON app = value", (json.dumps(apps),)
        )
    }


def want(connection: Any, wants: Iterable[Want], now: int, routes: Mapping[str, Route] | None = None) -> None:
    """Write `wants` inside the caller's transaction, each at a new version.

    Where nothing is wanted any more, but the same MDN and app have a key elsewhere, that key is wanted again above it.
    While an app moves to another platform, what is wanted of it leaves the old one here, where its row has not followed
    yet: at every commit a key is wanted at one platform. `routes` are those of all these apps, where they are known.
    """
    wants = list(wants)
    if routes is None:
        routes = routes_of(connection, {one.app_id for one in wants})
    rows: list[Row] = []
    for one in wants:
        platform, moving = routes[one.app_id] if one.platform is None else (one.platform, 0)
        if moving:
            rows += [
                (one.subscriber, one.app_id, old, None, one.above, now)
                for (old,) in connection.execute(
                    """SELECT platform FROM outbox
                       WHERE subscriber = ? AND app = ? AND platform <> ? AND key IS NOT NULL""",
                    (one.subscriber, one.app_id, platform),
                )
            ]
        rows.append((one.subscriber, one.app_id, platform, one.key, one.above, now))
    _write(connection, rows)
    emptied = [(subscriber, app) for subscriber, app, _, key, *_ in rows if key is None]
    if emptied:
        outbid = connection.execute(_OUTBID_BY_NOTHING, (json.dumps(emptied),)).fetchall()
        _write(connection, [(subscriber, app, platform, key, 0, now) for subscriber, app, key, platform in outbid])


def _write(connection: Any, rows: Sequence[Row]) -> None:
    """In order: a later row of a place gets a higher version. So no statement has two of one place."""
    together: list[Row] = []
    places: set[tuple[int, str]] = set()
    for row in rows:
        if row[:2] in places:
            write_rows(connection, _WANT, together)
            together, places = [], set()
        together.append(row)
        places.add(row[:2])
    write_rows(connection, _WANT, together)
