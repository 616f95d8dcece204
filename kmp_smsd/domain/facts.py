"""What the store knows that bears on one batch of requests, kept true while the batch is folded.

The store fills `Facts` once per batch with a few set-based statements. `apply` then lets a later request of the batch
see what an earlier one changed, and collects the batch's net effect: which bindings ended, which are new, what each
MDN + app wants in the end. Subscribers, keys and bindings are known by their numbers in the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest

Place = tuple[int, str]  # subscriber number, app ID
Triple = tuple[int, int, str]  # key number, subscriber number, app ID: what a hold is about


class Key(Struct, frozen=True, gc=False):
    """A key as a decision needs it: never its octets."""

    number: int
    usable: bool  # pre-active or active
    app_id: str | None  # the app that it is reserved for
    siblings: int | None  # pre-active, active and suspended keys of its terminal, itself included; None: not counted
    valid_from: int | None = None  # Unix milliseconds
    valid_until: int | None = None

    def bindable_at(self, now: int) -> bool:
        return (
            self.usable
            and (self.valid_from is None or self.valid_from <= now)
            and (self.valid_until is None or now < self.valid_until)
        )


class Binding(Struct, eq=False, gc=False):
    """An active binding, or one that this batch made or ended."""

    number: int
    key: int
    subscriber: int
    app_id: str
    received_at: int
    ended: bool = False

    @property
    def place(self) -> Place:
        return self.subscriber, self.app_id


class Approval(Struct, frozen=True, gc=False):
    """A person approved the hold `hold`, seeing the bindings `evidence` (their numbers) in its way."""

    hold: int
    evidence: frozenset[int]


class Decision(Struct, frozen=True, gc=False):
    """What one request means. `conflicts` are the bindings in its way; `why` is for the journal."""

    request: SyncRequest
    outcome: Outcome
    app_id: str | None = None
    why: str = ""
    conflicts: tuple[Binding, ...] = ()


@dataclass(slots=True)
class Facts:
    """Everything `decide` may look at."""

    now: int  # Unix milliseconds
    policy: SyncPolicy
    next_binding: int = 1
    subscribers: dict[str, int] = field(default_factory=dict)
    erasing: set[str] = field(default_factory=set)  # MDNs that are being erased: nothing new may hang on them
    registrations: dict[int, tuple[str, ...]] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    bound_keys: dict[int, Binding] = field(default_factory=dict)
    bound_places: dict[Place, Binding] = field(default_factory=dict)
    superseded: dict[Triple, int] = field(default_factory=dict)  # when it last was
    refusals: dict[Triple, frozenset[int]] = field(default_factory=dict)  # a person refused it on these bindings
    approvals: dict[Triple, Approval] = field(default_factory=dict)
    ended: list[Binding] = field(default_factory=list)  # bindings from before this batch that it ended
    made: list[Binding] = field(default_factory=list)  # bindings that it made, some of them ended again
    wanted: dict[Place, int | None] = field(default_factory=dict)  # place: key number, or nothing

    def know(self, binding: Binding) -> None:
        """Take an active binding from the store."""
        if binding.key not in self.bound_keys:
            self.bound_keys[binding.key] = binding
            self.bound_places[binding.place] = binding

    def apply(self, decision: Decision) -> Decision:
        """Make what `decision` changes visible to the requests behind it."""
        if decision.outcome is Outcome.BOUND or decision.outcome is Outcome.MOVED:
            request = decision.request
            subscriber = self.subscribers[request.mdn]
            key = self.keys[request.key_id].number
            assert decision.app_id is not None
            self.approvals.pop((key, subscriber, decision.app_id), None)
            self.refusals.pop((key, subscriber, decision.app_id), None)
            for conflict in decision.conflicts:
                self._supersede(conflict)
            binding = Binding(self.next_binding, key, subscriber, decision.app_id, request.received_at)
            self.next_binding += 1
            self.made.append(binding)
            self.bound_keys[key] = binding
            self.bound_places[subscriber, decision.app_id] = binding
            self.wanted[subscriber, decision.app_id] = key
        return decision

    def _supersede(self, binding: Binding) -> None:
        binding.ended = True
        del self.bound_keys[binding.key]
        del self.bound_places[binding.place]
        self.superseded[binding.key, binding.subscriber, binding.app_id] = self.now
        for triple in [triple for triple, evidence in self.refusals.items() if binding.number in evidence]:
            del self.refusals[triple]  # a refusal stands until a binding in its evidence ends
        self.wanted[binding.place] = None
        if not self.made or binding.number < self.made[0].number:
            self.ended.append(binding)
