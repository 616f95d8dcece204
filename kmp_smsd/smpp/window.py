"""Our requests that the peer has not answered yet, and the numbers that we give them."""

from __future__ import annotations

from kmp_smsd.smpp.constants import MAX_SEQUENCE_NUMBER, RESPONSE, CommandId


class Window:
    """Numbers requests from 1 to 0x7FFFFFFF and round again, passing over what is outstanding (SMPP 3.4, 5.1.4)."""

    def __init__(self) -> None:
        self._last = 0
        self._outstanding: dict[int, tuple[CommandId, float]] = {}

    def open(self, command_id: CommandId, now: float) -> int:
        """Return the sequence_number for a request sent at `now`, in monotonic seconds."""
        number = self._last
        while True:
            number = number % MAX_SEQUENCE_NUMBER + 1
            if number not in self._outstanding:
                break
        self._last = number
        self._outstanding[number] = (command_id, now)
        return number

    def match(self, command_id: int, sequence_number: int) -> tuple[CommandId, float] | None:
        """Return the request that this response or generic_nack answers, and when it was sent, and forget it.

        None where it answers none.
        """
        found = self._outstanding.get(sequence_number)
        if found is None or command_id not in (found[0] | RESPONSE, CommandId.GENERIC_NACK):
            return None
        del self._outstanding[sequence_number]
        return found

    def holds(self, command_id: CommandId) -> bool:
        """Whether such a request is outstanding."""
        return any(request is command_id for request, _ in self._outstanding.values())

    def expire(self, now: float, within_s: float) -> list[tuple[int, CommandId]]:
        """Forget and return the requests that had no answer within that time, each with its number."""
        late = [number for number, (_, sent) in self._outstanding.items() if now - sent >= within_s]
        return [(number, self._outstanding.pop(number)[0]) for number in late]
