from __future__ import annotations

from itertools import product

import pytest
from msgspec.structs import replace

from kmp_smsd.domain.decide import decide
from kmp_smsd.domain.facts import Approval, Binding, Decision, Facts, Key, Triple
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import SyncRequest

NOW = 1_732_380_000_000
HOUR = 3_600_000
HERE, THERE = 1, 2  # subscribers
MINE, OTHER = 10, 11  # keys
MDNS = {HERE: "8613900000001", THERE: "8613900000002"}

MOVED, HELD, REFUSED = OnConflict.MOVED, OnConflict.HELD, OnConflict.REFUSED


def binding(key: int, subscriber: int, app_id: str = "meter", received_at: int = NOW - 100 * HOUR) -> Binding:
    return Binding(key * 100 + subscriber, key, subscriber, app_id, received_at)


def facts(
    *,
    apps: tuple[str, ...] = ("meter",),
    key: Key | None = Key(MINE, True, None, 1),  # noqa: B008  a frozen value
    bindings: tuple[Binding, ...] = (),
    policy: SyncPolicy = SyncPolicy(),  # noqa: B008  a frozen value
) -> Facts:
    found = Facts(NOW, policy, next_binding=10_000, subscribers={mdn: number for number, mdn in MDNS.items()})
    if apps:
        found.registrations[HERE] = apps
    if key is not None:
        found.keys["mine"] = key
    found.keys["other"] = Key(OTHER, True, None, 1)
    found.registrations[THERE] = ("meter",)
    for one in bindings:
        found.know(replace(one))  # applying a decision changes it
    return found


def request(app_id: str | None = None, *, received_at: int = NOW, approved_hold: int | None = None) -> SyncRequest:
    return SyncRequest(
        mdn=MDNS[HERE],
        key_id="mine",
        app_id=app_id,
        received_at=received_at,
        link="north",
        approved_hold=approved_hold,
    )


def outcome(known: Facts, asked: SyncRequest | None = None) -> Outcome:
    return decide(asked or request(), known).outcome


KEY = Key(MINE, True, None, 1)


# Row 5


def test_row_5_mdn_that_was_never_heard_of_is_not_registered() -> None:
    assert outcome(facts(), replace(request(), mdn="8613999999999")) is Outcome.NOT_REGISTERED


def test_row_5_mdn_without_a_registration_is_not_registered() -> None:
    assert outcome(facts(apps=())) is Outcome.NOT_REGISTERED


# Rows 6 and 7


def test_row_6_key_that_nobody_imported_is_unknown() -> None:
    assert outcome(facts(key=None)) is Outcome.UNKNOWN_KEY


@pytest.mark.parametrize(
    ("key", "usable"),
    [
        (replace(KEY, usable=False), False),
        (replace(KEY, valid_from=NOW), True),
        (replace(KEY, valid_from=NOW + 1), False),
        (replace(KEY, valid_until=NOW), False),
        (replace(KEY, valid_until=NOW + 1), True),
        (replace(KEY, valid_from=NOW - 1, valid_until=NOW + 1), True),
    ],
)
def test_row_7_key_is_bound_only_while_it_is_usable_and_valid(key: Key, usable: bool) -> None:
    assert outcome(facts(key=key)) is (Outcome.BOUND if usable else Outcome.KEY_NOT_USABLE)


# Row 8


def test_row_8_named_app_must_be_registered() -> None:
    decision = decide(request("tracker"), facts())
    assert decision.outcome is Outcome.APP_NOT_REGISTERED
    assert decision.why == "no registered app is the app named in the message, tracker"


def test_row_8_app_that_the_key_is_reserved_for_must_be_registered() -> None:
    decision = decide(request(), facts(key=replace(KEY, app_id="tracker")))
    assert decision.outcome is Outcome.APP_NOT_REGISTERED
    assert decision.why == "no registered app is the app that the key is reserved for, tracker"


def test_row_8_named_app_must_be_the_one_that_the_key_is_reserved_for() -> None:
    decision = decide(request("meter"), facts(apps=("meter", "tracker"), key=replace(KEY, app_id="tracker")))
    assert decision.outcome is Outcome.APP_NOT_REGISTERED
    assert "reserved for, tracker" in decision.why


def test_row_8_standing_binding_limits_a_message_that_names_no_app() -> None:
    """Its key was bound to `tracker` here and that registration is gone."""
    known = facts(bindings=(binding(MINE, HERE, "tracker"),))
    decision = decide(request(), known)
    assert decision.outcome is Outcome.APP_NOT_REGISTERED
    assert decision.why == "no registered app is the binding that stands, tracker"


# Row 9


def test_row_9_several_registered_apps_need_a_name() -> None:
    assert outcome(facts(apps=("meter", "tracker"))) is Outcome.APP_REQUIRED
    assert outcome(facts(apps=("meter", "tracker")), request("tracker")) is Outcome.BOUND


def test_row_9_reservation_names_the_app_as_well() -> None:
    decision = decide(request(), facts(apps=("meter", "tracker"), key=replace(KEY, app_id="tracker")))
    assert (decision.outcome, decision.app_id) == (Outcome.BOUND, "tracker")


@pytest.mark.parametrize(
    ("key", "app_id", "bindings", "expected"),
    [
        (replace(KEY, siblings=2), None, (), Outcome.APP_REQUIRED),
        (replace(KEY, siblings=1), None, (), Outcome.BOUND),
        (replace(KEY, siblings=2), "meter", (), Outcome.BOUND),
        (replace(KEY, siblings=2, app_id="meter"), None, (), Outcome.BOUND),
        (replace(KEY, siblings=2), None, (binding(MINE, HERE),), Outcome.ALREADY_BOUND),
        (replace(KEY, siblings=2), None, (binding(MINE, THERE),), Outcome.APP_REQUIRED),
    ],
)
def test_row_9_terminal_with_several_keys_must_say_which_app(
    key: Key, app_id: str | None, bindings: tuple[Binding, ...], expected: Outcome
) -> None:
    assert outcome(facts(key=key, bindings=bindings), request(app_id)) is expected


# Row 10


def test_row_10_terminal_that_repeats_its_payload_stays_bound() -> None:
    assert outcome(facts(bindings=(binding(MINE, HERE),))) is Outcome.ALREADY_BOUND


def test_row_10_binding_stands_although_its_owner_added_an_app() -> None:
    known = facts(apps=("meter", "tracker"), bindings=(binding(MINE, HERE),))
    decision = decide(request(), known)
    assert (decision.outcome, decision.app_id) == (Outcome.ALREADY_BOUND, "meter")


def test_row_10_old_repeat_of_what_stands_is_no_conflict() -> None:
    known = facts(bindings=(binding(MINE, HERE, received_at=NOW),))
    assert outcome(known, request(received_at=NOW - HOUR)) is Outcome.ALREADY_BOUND


# Row 11


@pytest.mark.parametrize("on_late", [HELD, REFUSED])
@pytest.mark.parametrize("standing", [binding(MINE, THERE), binding(OTHER, HERE)])
def test_row_11_old_message_never_undoes_a_newer_binding(on_late: OnConflict, standing: Binding) -> None:
    policy = SyncPolicy(on_sim_change=MOVED, on_terminal_change=MOVED, on_late=on_late)
    standing = replace(standing, received_at=NOW)
    assert outcome(facts(bindings=(standing,), policy=policy), request(received_at=NOW)) is Outcome.MOVED
    late = decide(request(received_at=NOW - 1), facts(bindings=(standing,), policy=policy))
    assert late.outcome.value == on_late.value
    assert late.why == "older than the binding that stands"
    assert [one.number for one in late.conflicts] == [standing.number]


@pytest.mark.parametrize(("hours", "late"), [(0, True), (71, True), (72, False), (1_000, False), (-24, True)])
def test_row_11_key_superseded_here_not_long_ago_does_not_come_back_by_itself(hours: int, late: bool) -> None:
    known = facts()
    known.superseded[MINE, HERE, "meter"] = NOW - hours * HOUR
    assert outcome(known) is (Outcome.HELD if late else Outcome.BOUND)


@pytest.mark.parametrize("place", [(MINE, THERE, "meter"), (MINE, HERE, "tracker"), (OTHER, HERE, "meter")])
def test_row_11_key_superseded_in_another_place_may_be_bound_here(place: tuple[int, int, str]) -> None:
    known = facts()
    known.superseded[place] = NOW - HOUR
    assert outcome(known) is Outcome.BOUND


# Row 12

IN_THE_WAY = {
    "sim": (binding(MINE, THERE),),
    "other app of this number": (binding(MINE, HERE, "tracker"),),
    "terminal": (binding(OTHER, HERE),),
    "both": (binding(MINE, THERE), binding(OTHER, HERE)),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
@pytest.mark.parametrize(("sim", "terminal"), list(product(OnConflict, OnConflict)))
def test_row_12_refused_beats_held_beats_moved(case: str, sim: OnConflict, terminal: OnConflict) -> None:
    policy = SyncPolicy(on_sim_change=sim, on_terminal_change=terminal)
    asked = {"sim": {sim}, "other app of this number": {sim}, "terminal": {terminal}, "both": {sim, terminal}}[case]
    expected = next(one for one in (REFUSED, HELD, MOVED) if one in asked)
    known = facts(apps=("meter", "tracker"), bindings=IN_THE_WAY[case], policy=policy)
    decision = decide(request("meter"), known)
    assert decision.outcome.value == expected.value
    assert [one.number for one in decision.conflicts] == [one.number for one in IN_THE_WAY[case]]
    assert ("the key is bound elsewhere" in decision.why) == (case != "terminal")
    assert ("another key is bound here" in decision.why) == (case in ("terminal", "both"))


def test_row_12_named_app_moves_a_key_that_is_bound_to_another_app_here() -> None:
    known = facts(
        apps=("meter", "tracker"), bindings=(binding(MINE, HERE, "tracker"),), policy=SyncPolicy(on_sim_change=MOVED)
    )
    decision = known.apply(decide(request("meter"), known))
    assert (decision.outcome, decision.app_id) == (Outcome.MOVED, "meter")
    assert known.wanted == {(HERE, "tracker"): None, (HERE, "meter"): MINE}


# Row 13


def test_row_13_free_key_is_bound_to_a_free_place() -> None:
    assert decide(request(), facts()) == Decision(request(), Outcome.BOUND, "meter")


# Every order of rows: with both cases at hand, the earlier row wins.

ROWS = [
    Outcome.NOT_REGISTERED,
    Outcome.UNKNOWN_KEY,
    Outcome.KEY_NOT_USABLE,
    Outcome.APP_NOT_REGISTERED,
    Outcome.APP_REQUIRED,
    "late",
    "conflict",
]


def both(first: str, second: str) -> tuple[Facts, SyncRequest]:
    """Facts and a request to which the rows `first` and `second` apply."""
    cases = {first, second}
    siblings = 2 if Outcome.APP_REQUIRED in cases else 1
    key: Key | None = replace(KEY, usable=Outcome.KEY_NOT_USABLE not in cases, siblings=siblings)
    if Outcome.APP_NOT_REGISTERED in cases and Outcome.APP_REQUIRED in cases:
        apps, reserved = ("meter", "tracker"), "alarm"  # two candidates without the reservation, none with it
        assert key is not None
        key = replace(key, app_id=reserved)
    elif Outcome.APP_NOT_REGISTERED in cases:
        apps = ("tracker",)
        assert key is not None
        key = replace(key, app_id="meter")
    else:
        apps = ("meter",)
    if Outcome.UNKNOWN_KEY in cases:
        key = None
    policy = SyncPolicy(on_sim_change=REFUSED, on_terminal_change=REFUSED, on_late=HELD)
    in_the_way = (binding(MINE, THERE), binding(OTHER, HERE)) if "conflict" in cases else ()
    known = facts(apps=() if Outcome.NOT_REGISTERED in cases else apps, key=key, bindings=in_the_way, policy=policy)
    if "late" in cases:
        known.superseded[MINE, HERE, "meter"] = NOW - HOUR
    return known, request()


@pytest.mark.parametrize(
    ("first", "second"), [(ROWS[i], ROWS[j]) for i in range(len(ROWS)) for j in range(i + 1, len(ROWS))]
)
def test_of_two_rows_that_apply_the_earlier_wins(first: str, second: str) -> None:
    expected = {"late": Outcome.HELD, "conflict": Outcome.REFUSED}
    known, asked = both(first, second)
    assert outcome(known, asked) is expected.get(first, first)
    known, asked = both(second, second)
    assert outcome(known, asked) is expected.get(second, second)


@pytest.mark.parametrize("row", [Outcome.NOT_REGISTERED, Outcome.KEY_NOT_USABLE, Outcome.APP_NOT_REGISTERED])
def test_earlier_rows_win_over_a_binding_that_stands(row: Outcome) -> None:
    known, asked = both(row, row)
    known.know(binding(MINE, HERE))
    assert outcome(known, asked) is row


def test_row_9_wins_over_a_binding_of_the_key_to_another_number() -> None:
    known = facts(apps=("meter", "tracker"), bindings=(binding(MINE, THERE),))
    assert outcome(known) is Outcome.APP_REQUIRED


@pytest.mark.parametrize("in_the_way", IN_THE_WAY.values())
def test_row_10_wins_over_rows_11_and_12(in_the_way: tuple[Binding, ...]) -> None:
    known = facts(bindings=(binding(MINE, HERE, received_at=NOW),), policy=SyncPolicy(on_late=REFUSED))
    known.superseded[MINE, HERE, "meter"] = NOW - HOUR
    for one in in_the_way:
        known.know(replace(one))
    assert outcome(known, request(received_at=NOW - HOUR)) is Outcome.ALREADY_BOUND


# Persons


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_refusal_stands_against_every_policy(case: str) -> None:
    policy = SyncPolicy(on_sim_change=MOVED, on_terminal_change=MOVED)
    known = facts(apps=("meter", "tracker"), bindings=IN_THE_WAY[case], policy=policy)
    known.refusals[MINE, HERE, "meter"] = frozenset(one.number for one in IN_THE_WAY[case])
    decision = decide(request("meter"), known)
    assert decision.outcome is Outcome.REFUSED
    assert "refused before by a person" in decision.why


def test_refusal_concerns_its_own_key_number_and_app_only() -> None:
    for triple in ((OTHER, HERE, "meter"), (MINE, THERE, "meter"), (MINE, HERE, "tracker")):
        known = facts(bindings=IN_THE_WAY["sim"])
        known.refusals[triple] = frozenset()
        assert outcome(known) is Outcome.HELD


def test_refusal_ends_with_a_binding_in_its_evidence() -> None:
    """Inside one batch: `other` leaves this place, and `mine` was refused because of it."""
    standing = binding(MINE, THERE), binding(OTHER, HERE)
    known = facts(bindings=standing, policy=SyncPolicy(on_sim_change=MOVED, on_terminal_change=MOVED))
    known.refusals[MINE, HERE, "meter"] = frozenset(one.number for one in standing)
    leaves = SyncRequest(mdn=MDNS[THERE], key_id="other", received_at=NOW, link="north")
    assert known.apply(decide(leaves, known)).outcome is Outcome.MOVED
    assert outcome(known) is not Outcome.REFUSED


ALL_SEEN = frozenset(range(10_000))


@pytest.mark.parametrize("case", IN_THE_WAY)
@pytest.mark.parametrize("policy", [HELD, REFUSED])
def test_approval_overrides_policies_lateness_and_refusals(case: str, policy: OnConflict) -> None:
    known = facts(
        apps=("meter", "tracker"),
        bindings=tuple(replace(one, received_at=NOW) for one in IN_THE_WAY[case]),
        policy=SyncPolicy(on_sim_change=policy, on_terminal_change=policy, on_late=policy),
    )
    known.superseded[MINE, HERE, "meter"] = NOW - HOUR
    known.approvals[MINE, HERE, "meter"] = Approval(7, frozenset(one.number for one in IN_THE_WAY[case]))
    asked = request("meter", received_at=NOW - 50 * HOUR, approved_hold=7)
    assert decide(asked, known).outcome is Outcome.MOVED


def test_approval_with_nothing_left_in_the_way_binds() -> None:
    known = facts()
    known.superseded[MINE, HERE, "meter"] = NOW - HOUR
    known.approvals[MINE, HERE, "meter"] = Approval(7, ALL_SEEN)
    assert outcome(known, request(approved_hold=7)) is Outcome.BOUND


@pytest.mark.parametrize(
    "approvals",
    [{}, {(MINE, HERE, "meter"): Approval(8, ALL_SEEN)}, {(MINE, HERE, "tracker"): Approval(7, ALL_SEEN)}],
)
def test_approval_that_does_not_stand_any_more_approves_nothing(approvals: dict[Triple, Approval]) -> None:
    known = facts(bindings=IN_THE_WAY["sim"])
    known.approvals.update(approvals)
    assert outcome(known, request(approved_hold=7)) is Outcome.HELD


def test_approval_ends_no_binding_that_the_person_has_not_seen() -> None:
    known = facts(bindings=IN_THE_WAY["sim"])
    known.approvals[MINE, HERE, "meter"] = Approval(7, frozenset({98, 99}))
    assert outcome(known, request(approved_hold=7)) is Outcome.HELD


def test_approval_is_used_once() -> None:
    known = facts(bindings=IN_THE_WAY["sim"])
    known.approvals[MINE, HERE, "meter"] = Approval(7, ALL_SEEN)
    known.apply(decide(request(approved_hold=7), known))
    back = SyncRequest(mdn=MDNS[THERE], key_id="mine", received_at=NOW, link="north")
    assert known.apply(decide(back, known)).outcome is Outcome.HELD
    assert known.approvals == {}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (facts(apps=()), Outcome.NOT_REGISTERED),
        (facts(key=None), Outcome.UNKNOWN_KEY),
        (facts(key=replace(KEY, usable=False)), Outcome.KEY_NOT_USABLE),
        (facts(apps=("tracker",)), Outcome.APP_NOT_REGISTERED),
        (facts(bindings=(binding(MINE, HERE),)), Outcome.ALREADY_BOUND),
    ],
)
def test_approval_does_not_override_the_other_rows(known: Facts, expected: Outcome) -> None:
    known.approvals[MINE, HERE, "meter"] = Approval(7, ALL_SEEN)
    assert outcome(known, request("meter", approved_hold=7)) is expected
