"""What arrives marks the requests that wait for it; intake then decides them again.

A mark is no time but AT_ONCE: the clock of whoever marks may be ahead of intake's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

AT_ONCE = 0  # waiting.again_at, which is in Unix milliseconds otherwise


def wake_mdns(connection: Any, mdns: Iterable[str]) -> None:
    """Have decided again what waits of these MDNs, whose registrations changed; in the caller's transaction."""
    connection.execute(
        """UPDATE waiting SET again_at = ? WHERE subscriber IN (
             SELECT s.number FROM json_each(?) j CROSS JOIN subscribers s ON s.mdn = j.value)""",
        (AT_ONCE, json.dumps(list(mdns))),
    )


def wake_key(connection: Any, key: int) -> None:
    """Have decided again what waits for this key, which may be bound again; in the caller's transaction."""
    connection.execute(
        "UPDATE waiting SET again_at = ? WHERE key_id = (SELECT key_id FROM keys WHERE id = ?)", (AT_ONCE, key)
    )
