"""What fails again and again is told once in a while: a store that is unavailable, or a fault of ours."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.repeats import Repeats
from kmp_smsd.storage import StoreUnavailable


class Faults:
    """Tells of what fails for one who works with the store, by its own logger `log`."""

    def __init__(self, log: Logger, monotonic: Callable[[], float]) -> None:
        self.log = log
        self._monotonic = monotonic
        self._repeats = Repeats()

    def left_to_tell(self, failure: Failure, unavailable: str = "store unavailable: {reason}") -> bool:
        """Whether this is a fault of ours, for the caller to tell of; of a store that is unavailable this tells.

        It does so in the words of `unavailable`. What was told in the last 10 seconds is not told again.
        """
        reason = failure.getErrorMessage()
        if not self._repeats.worth_saying(reason, self._monotonic()):
            return False
        if failure.check(StoreUnavailable):
            self.log.error(unavailable, event="store_unavailable", reason=reason)
            return False
        return True
