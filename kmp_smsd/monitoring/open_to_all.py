"""A snapshot as every user of the machine may read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_MDN_LIKE = re.compile(r"[0-9](?:[ -]?[0-9]){6,}")
# Peers, or the configuration's values, may be part of them.
_SENTENCES = frozenset({"last_error", "last_reload_error", "error", "differences", "not_ready", "degraded"})


def open_to_all(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """`snapshot`, but what may be an MDN in a sentence of it, of which a peer may have written a part, is masked."""
    return {name: _open(name, value) for name, value in snapshot.items()}


def masked(sentences: Iterable[str]) -> list[str]:
    """`sentences` in the same way."""
    return [_MDN_LIKE.sub(_stars, sentence) for sentence in sentences]


def _open(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return open_to_all(value)
    if isinstance(value, list | tuple):
        return [_open(name, one) for one in value]
    if isinstance(value, str) and name in _SENTENCES:
        return _MDN_LIKE.sub(_stars, value)
    return value


def _stars(number: re.Match[str]) -> str:
    return "*" * (len(number[0]) - 2) + number[0][-2:]
