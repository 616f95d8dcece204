"""Which requests wait for what is still missing: a registration, a key, its resumption (docs/rules.rst)."""

from __future__ import annotations

from kmp_smsd.domain.facts import Decision, Facts
from kmp_smsd.domain.outcome import Outcome

_MISSING = frozenset({Outcome.UNKNOWN_KEY, Outcome.KEY_NOT_USABLE, Outcome.APP_NOT_REGISTERED, Outcome.APP_REQUIRED})


def waits(decision: Decision, facts: Facts) -> bool:
    """Whether the request is kept, to be decided again when something changes.

    Of an MDN without registration only where its key is known, so that a forger of senders fills nothing; of one that
    is being erased nothing.
    """
    if decision.outcome is Outcome.NOT_REGISTERED:
        return decision.request.key_id in facts.keys and decision.request.mdn not in facts.erasing
    return decision.outcome in _MISSING


def again_at(decision: Decision, facts: Facts) -> int | None:
    """When a waiting request is due again by itself, in Unix milliseconds: at the beginning of its key's validity."""
    key = facts.keys.get(decision.request.key_id)
    if key is None or not key.usable or key.valid_from is None or key.valid_from <= facts.now:
        return None
    return key.valid_from
