from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.domain.decide import decide
from kmp_smsd.domain.facts import Binding, Facts, Key
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import SyncRequest

NOW = 1_732_380_000_000
MOVING = SyncPolicy(on_sim_change=OnConflict.MOVED, on_terminal_change=OnConflict.MOVED, late_hours=0)
NUMBERS = {"1": 1, "2": 2, "3": 3}
KEYS = {"a": 11, "b": 12, "c": 13}


def facts(policy: SyncPolicy = MOVING) -> Facts:
    return Facts(
        NOW,
        policy,
        next_binding=5,
        subscribers=dict(NUMBERS),
        registrations=dict.fromkeys(NUMBERS.values(), ("meter", "tracker")),
        keys={key_id: Key(number, True, None, 1) for key_id, number in KEYS.items()},
    )


def sync(mdn: str, key_id: str, app_id: str = "meter") -> SyncRequest:
    return SyncRequest(mdn=mdn, key_id=key_id, app_id=app_id, received_at=NOW, link="north")


def fold(known: Facts, *requests: SyncRequest) -> list[Outcome]:
    return [known.apply(decide(one, known)).outcome for one in requests]


def test_later_request_sees_what_an_earlier_one_bound() -> None:
    known = facts(SyncPolicy())
    assert fold(known, sync("1", "a"), sync("1", "a"), sync("2", "a"), sync("1", "b")) == [
        Outcome.BOUND,
        Outcome.ALREADY_BOUND,
        Outcome.HELD,
        Outcome.HELD,
    ]


def test_binding_from_before_the_batch_ends_once_however_often_its_key_moves() -> None:
    known = facts()
    old = Binding(1, KEYS["a"], 1, "meter", NOW)
    known.know(old)
    assert fold(known, sync("2", "a"), sync("3", "a"), sync("1", "a")) == [Outcome.MOVED] * 3
    assert known.ended == [old]
    assert [(one.number, one.subscriber, one.ended) for one in known.made] == [
        (5, 2, True),
        (6, 3, True),
        (7, 1, False),
    ]
    assert known.wanted == {(1, "meter"): KEYS["a"], (2, "meter"): None, (3, "meter"): None}


def test_binding_from_before_the_batch_ends_though_the_batch_made_another_first() -> None:
    known = facts()
    old = Binding(1, KEYS["a"], 1, "meter", NOW)
    known.know(old)
    assert fold(known, sync("2", "b"), sync("3", "a")) == [Outcome.BOUND, Outcome.MOVED]
    assert known.ended == [old]


def test_refusal_is_over_once_its_key_was_bound_there_all_the_same() -> None:
    known = facts()
    known.refusals[KEYS["a"], 1, "meter"] = frozenset({4})
    assert fold(known, sync("1", "a"), sync("2", "a"), sync("1", "a")) == [
        Outcome.BOUND,
        Outcome.MOVED,
        Outcome.MOVED,
    ]


def test_binding_found_by_its_key_and_by_its_place_is_one_binding() -> None:
    known = facts()
    known.know(Binding(1, KEYS["a"], 1, "meter", NOW))
    known.know(Binding(1, KEYS["a"], 1, "meter", NOW))
    assert known.bound_keys[KEYS["a"]] is known.bound_places[1, "meter"]


def test_superseded_key_is_late_at_once() -> None:
    known = facts(SyncPolicy(on_sim_change=OnConflict.MOVED))
    assert fold(known, sync("1", "a"), sync("2", "a"), sync("1", "a")) == [Outcome.BOUND, Outcome.MOVED, Outcome.HELD]


requests = st.builds(sync, st.sampled_from("123"), st.sampled_from("abc"), st.sampled_from(["meter", "tracker"]))


@given(st.lists(requests, max_size=20), st.sampled_from(OnConflict), st.sampled_from(OnConflict))
def test_at_most_one_binding_per_key_and_per_place_and_what_is_wanted_is_what_is_bound(
    asked: list[SyncRequest], sim: OnConflict, terminal: OnConflict
) -> None:
    known = facts(SyncPolicy(on_sim_change=sim, on_terminal_change=terminal, late_hours=0))
    fold(known, *asked)
    standing = [one for one in known.made if not one.ended]
    assert len({one.key for one in standing}) == len({one.place for one in standing}) == len(standing)
    assert {one.key: one for one in standing} == known.bound_keys
    assert {one.place: one for one in standing} == known.bound_places
    assert {place: key for place, key in known.wanted.items() if key is not None} == {
        one.place: one.key for one in standing
    }
