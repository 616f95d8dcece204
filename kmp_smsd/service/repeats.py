"""What would be said again and again is said once in a while."""

from __future__ import annotations

SAY_EVERY_S = 10.0


class Repeats:
    """Remembers what was said lately."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}

    def worth_saying(self, text: str, now: float) -> bool:
        """Whether `text` was not said in the 10 seconds before `now` (monotonic seconds); then it counts as said."""
        self._said_at = {said: at for said, at in self._said_at.items() if now - at < SAY_EVERY_S}
        if text in self._said_at:
            return False
        self._said_at[text] = now
        return True
