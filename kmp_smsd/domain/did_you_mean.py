"""A hint for who wrote a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`` (did you mean 'meter'?)`` where one of `known` is as close to `word` as `cutoff` (0 to 1), or closer; else ''.

    In whatever case they are written. The space is in front, so that it can be put behind the word.
    """
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=cutoff)
    return f" (did you mean '{folded[close[0]]}'?)" if close else ""
