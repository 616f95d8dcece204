"""One batch of messages: outcomes, journal, tallies."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage import Store, gathering, settling
from tests.storage.stock import (
    HOUR,
    MOVING,
    NOW,
    A,
    B,
    C,
    begin_import,
    bound,
    confirm_all,
    content,
    counted,
    import_keys,
    journalled,
    open_holds,
    outbox,
    register,
    reject_all,
    row_at,
    settle,
    staged,
    sync,
    wanted,
)


def test_bound_message_is_binding_outbox_and_journal(store: Store) -> None:
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1")
    register(store, A, "meter")
    assert settle(store, sync(A, "k1", received_at=NOW - 5)) == [Outcome.BOUND]
    assert bound(store) == {(A, "meter"): "k1"}
    assert wanted(store) == {(A, "meter", "metering"): "k1"}
    (entry,) = store.journal.listing(limit=10)
    assert (entry["mdn"], entry["outcome"], entry["key_id"], entry["app_id"], entry["at"], entry["link"]) == (
        A, "bound", "k1", "meter", NOW, "north",
    )  # fmt: skip
    assert store.keys.get("k1")["state"] == "active"  # type: ignore[index]


def test_bindings_of_an_app_are_listed_in_pages_as_their_numbers_became_known(store: Store) -> None:
    import_keys(store, *[f"k{number}" for number in range(6)])
    register(store, C, "meter")
    register(store, A, "meter", "tracker")
    register(store, B, "tracker", "meter")
    register(store, "8613900000004", "meter")
    settle(store, sync(B, "k1", "meter"), sync(B, "k2", "tracker"), sync(A, "k3", "meter"), sync(C, "k4", "meter"))
    seen: list[str] = []
    after = 0
    while page := store.bindings.active(app_id="meter", after=after, limit=2):
        seen += [row["key_id"] for row in page]
        after = page[-1]["id"]
    assert seen == ["k4", "k3", "k1"]


def test_every_outcome_that_binds_nothing_leaves_no_trace_but_journal_and_tallies(store: Store) -> None:
    import_keys(store, "free", "suspended", staged("reserved", app_id="tracker"), staged("one", serial="7"))
    import_keys(store, staged("two", serial="7"))
    store.keys.suspend("suspended", None)
    register(store, A, "meter")
    register(store, B, "meter", "tracker")
    asked = {
        sync(C, "free"): Outcome.NOT_REGISTERED,
        sync(A, "nobody"): Outcome.UNKNOWN_KEY,
        sync(A, "suspended"): Outcome.KEY_NOT_USABLE,
        sync(A, "reserved"): Outcome.APP_NOT_REGISTERED,
        sync(B, "free"): Outcome.APP_REQUIRED,
        sync(A, "one"): Outcome.APP_REQUIRED,
    }
    assert settle(store, *asked) == list(asked.values())
    assert bound(store) == {}
    assert wanted(store) == {}
    assert open_holds(store) == []
    assert set(journalled(store)) == {(request.mdn, outcome) for request, outcome in asked.items()}
    assert counted(store) == {"not_registered": 1, "unknown_key": 1, "key_not_usable": 1, "app_not_registered": 1,
                              "app_required": 2}  # fmt: skip


def test_serial_that_stands_for_none_at_one_vendor_makes_no_terminal_of_another(store: Store) -> None:
    import_keys(store, *[staged(f"one{number}", serial="N/A") for number in range(60)], vendor="acme")
    import_keys(store, staged("two", serial="N/A"), vendor="other")
    register(store, A, "meter")
    assert settle(store, sync(A, "one1")) == [Outcome.APP_REQUIRED]
    assert settle(store, sync(A, "two")) == [Outcome.BOUND]


def test_same_serial_of_another_vendor_is_another_terminal(store: Store) -> None:
    import_keys(store, staged("one", serial="7"), vendor="acme")
    import_keys(store, staged("two", serial="7"), vendor="other")
    register(store, A, "meter")
    assert settle(store, sync(A, "one")) == [Outcome.BOUND]


@pytest.mark.parametrize("elsewhere", [0, 60])
@pytest.mark.parametrize(
    ("state", "outcome"),
    [("suspended", Outcome.APP_REQUIRED), ("revoked", Outcome.BOUND), ("staged", Outcome.BOUND)],
)
def test_terminal_s_suspended_keys_count_and_those_revoked_or_not_yet_live_do_not(
    store: Store, state: str, outcome: Outcome, elsewhere: int
) -> None:
    import_keys(store, *[staged(f"other{number}", serial="7") for number in range(elsewhere)], vendor="other")
    import_keys(store, staged("one", serial="7"), staged("another", serial="8"))
    if state == "staged":
        store.imports.stage(begin_import(store), [staged("two", serial="7")])
    else:
        import_keys(store, staged("two", serial="7"))
    if state == "suspended":
        store.keys.suspend("two", None)
    if state == "revoked":
        store.keys.revoke("two", None, NOW, compromised=False)
    register(store, A, "meter")
    assert settle(store, sync(A, "one")) == [outcome]


def test_moved_supersedes_what_stood_and_wants_nothing_there(open_store: Any) -> None:
    store = open_store(MOVING)
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    register(store, B, "meter")
    settle(store, sync(A, "k1"), sync(B, "k2"))
    assert settle(store, sync(B, "k1"), now=NOW + 1) == [Outcome.MOVED]
    assert bound(store) == {(B, "meter"): "k1"}
    assert wanted(store) == {(A, "meter", "metering"): None, (B, "meter", "metering"): "k1"}
    assert [row["state"] for row in store.bindings.of(A)] == ["superseded"]
    assert [row["state"] for row in store.bindings.of(B)] == ["bound", "superseded"]


def test_bindings_are_listed_in_pages_in_the_order_of_their_making(store: Store) -> None:
    import_keys(store, "k1", "k2", "k3")
    register(store, A, "meter", "tracker")
    register(store, B, "meter")
    settle(store, sync(B, "k3"), sync(A, "k2", "tracker"), sync(A, "k1", "meter"))
    first, second, third = store.bindings.active(limit=9)
    assert [one["key_id"] for one in (first, second, third)] == ["k3", "k2", "k1"]
    assert store.bindings.active(after=first["id"], limit=1) == [second]


def test_message_whose_answer_was_lost_is_already_bound_when_it_comes_again(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")
    assert settle(store, sync(A, "k1")) == [Outcome.BOUND]
    before = wanted(store), row_at(store, A)
    assert settle(store, sync(A, "k1"), now=NOW + 10) == [Outcome.ALREADY_BOUND]
    assert (wanted(store), row_at(store, A)) == before


def test_rejected_delivery_is_armed_again_by_its_terminal_once_an_hour(store: Store) -> None:
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    reject_all(store)
    first = row_at(store, A)["wanted_version"]
    settle(store, sync(A, "k1"), now=NOW + HOUR - 1)
    assert row_at(store, A)["wanted_version"] == first
    settle(store, sync(A, "k1"), sync(A, "k1"), now=NOW + HOUR)
    again = row_at(store, A)["wanted_version"]
    assert again > first
    reject_all(store, now=NOW + HOUR)
    settle(store, sync(A, "k1"), now=NOW + HOUR + 1)
    assert row_at(store, A)["wanted_version"] == again
    confirm_all(store, now=NOW + 2 * HOUR)
    settle(store, sync(A, "k1"), now=NOW + 5 * HOUR)
    assert row_at(store, A)["wanted_version"] > again


def test_delivery_that_was_not_rejected_stays_as_it_is_beside_one_that_was(store: Store) -> None:
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2")
    for mdn, key_id in ((A, "k1"), (B, "k2")):
        register(store, mdn, "meter")
        settle(store, sync(mdn, key_id))
        (reject_all if mdn == A else confirm_all)(store)
    before = row_at(store, A)["wanted_version"], row_at(store, B)["wanted_version"]
    for now in (NOW + HOUR - 1, NOW + HOUR):
        assert (row_at(store, A)["wanted_version"], row_at(store, B)["wanted_version"]) == before
        settle(store, sync(A, "k1"), sync(B, "k2"), now=now)
    assert row_at(store, A)["wanted_version"] > before[0]
    assert row_at(store, B)["wanted_version"] == before[1]


def test_terminal_arms_its_own_delivery_of_several_that_were_rejected(store: Store) -> None:
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2", "k3")
    for mdn, key_id in ((A, "k1"), (B, "k2"), (C, "k3")):
        register(store, mdn, "meter")
        settle(store, sync(mdn, key_id))
    reject_all(store)
    settle(store, sync(B, "k2"), now=NOW + HOUR)
    assert [row["mdn"] for row in outbox(store) if row["wanted_version"] != row["rejected_version"]] == [B]


@pytest.mark.parametrize("repeats", [[sync(A, "k1")], [sync(A, "k1"), sync(B, "k2")]])
def test_rejected_withdrawal_arms_no_delivery_of_another_platform(store: Store, repeats: list[SyncRequest]) -> None:
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    store.routes.set({"meter": "fleet"})
    list(store.routes.move(NOW))
    register(store, B, "meter")
    settle(store, sync(B, "k2"))
    confirm_all(store, "fleet", NOW)
    reject_all(store)
    before = outbox(store)
    assert settle(store, *repeats, now=NOW + HOUR) == [Outcome.ALREADY_BOUND] * len(repeats)
    assert outbox(store) == before


@pytest.mark.parametrize(
    ("asked", "outcomes"),
    [
        ([sync(A, "k1"), sync(A, "k1"), sync(A, "k1", "meter")], "already_bound already_bound already_bound"),
        ([sync(A, "k1", "tracker")], "moved"),
        ([sync(A, "k1"), sync(A, "k1", "tracker"), sync(A, "k1")], "already_bound moved already_bound"),
        # What ends the binding: another number takes its key, or another key its place.
        ([sync(A, "k1"), sync(B, "k1"), sync(A, "k1")], "already_bound moved app_required"),
        ([sync(B, "k1"), sync(A, "k1"), sync(A, "k1", "tracker")], "moved app_required moved"),
        ([sync(A, "k2", "meter"), sync(A, "k1")], "moved app_required"),
        ([sync(A, "k2", "meter"), sync(A, "k1", "tracker")], "moved bound"),
        # Of a terminal with several keys.
        ([sync(B, "s1"), sync(A, "s1", "tracker"), sync(B, "s1")], "already_bound moved app_required"),
        ([sync(B, "s1", "meter"), sync(B, "k2"), sync(B, "s1")], "already_bound moved app_required"),
        ([sync(A, "s1")], "app_required"),
    ],
)
def test_repeat_is_judged_by_what_the_batch_has_changed(
    open_store: Any, asked: list[SyncRequest], outcomes: str
) -> None:
    """Where a repeat is all there is, less is read. Else nothing is missing, so that no batch is folded twice."""
    store = open_store(dataclasses.replace(MOVING, late_hours=0))
    import_keys(store, "k1", "k2", staged("s1", serial="7"), staged("s2", serial="7"))
    register(store, A, "meter", "tracker")
    register(store, B, "meter")
    settle(store, sync(A, "k1", "meter"), sync(B, "s1", "meter"))
    with mock.patch.object(settling, "gather", wraps=gathering.gather) as gathered:
        assert " ".join(settle(store, *asked)) == outcomes
    assert gathered.call_count == 1


def test_late_message_is_judged_by_when_it_was_received(open_store: Any) -> None:
    """The key left this place 73 hours ago, the message came two hours after that and was not settled until now."""
    store = open_store(MOVING)
    import_keys(store, "k1")
    register(store, A, "meter")
    register(store, B, "meter")
    settle(store, sync(A, "k1"))
    settle(store, sync(B, "k1", received_at=NOW + 1), now=NOW + 1)
    store.bindings.withdraw(B, "meter", NOW + 2)
    assert settle(store, sync(A, "k1", received_at=NOW + 2 * HOUR), now=NOW + 73 * HOUR) == [Outcome.HELD]


def test_message_is_late_by_its_own_time_whatever_came_with_it(open_store: Any) -> None:
    store = open_store(MOVING)
    import_keys(store, "k1", "k2", "k3")
    register(store, A, "meter")
    register(store, B, "meter")
    settle(store, sync(A, "k1"))
    settle(store, sync(A, "k2", received_at=NOW + HOUR), now=NOW + HOUR)
    later = NOW + 200 * HOUR
    together = sync(A, "k1", received_at=NOW + 2 * HOUR), sync(B, "k3", received_at=later)
    assert settle(store, *together, now=later) == [Outcome.HELD, Outcome.BOUND]


def test_key_that_was_replaced_twice_is_late_by_the_last_time(open_store: Any) -> None:
    # The gateway's memory is longer, so that both are read.
    store = open_store(dataclasses.replace(MOVING, late_hours=1, gateways={"data": SyncPolicy()}))
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    for key_id, hours, outcome in (
        ("k1", 0, Outcome.BOUND), ("k2", 1, Outcome.MOVED), ("k1", 3, Outcome.MOVED),
        ("k2", 5, Outcome.MOVED), ("k1", 5.5, Outcome.HELD),
    ):  # fmt: skip
        at = NOW + int(hours * HOUR)
        assert settle(store, sync(A, key_id, received_at=at), now=at) == [outcome]


# Journal and tallies


def test_repeats_have_one_entry_an_hour_and_are_all_counted(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")
    hour = NOW - NOW % HOUR
    for now in (hour, hour + 1, hour + HOUR - 1, hour + HOUR):
        settle(store, sync(A, "nobody"), sync(A, "nobody"), now=now)
    assert journalled(store) == [(A, "unknown_key")] * 2
    assert counted(store) == {"unknown_key": 8}
    assert sum(row["count"] for row in store.journal.tallies(since_hour=hour // HOUR + 1)) == 2


def test_entries_of_the_hour_are_known_to_who_opens_the_store_after_them(open_store: Any) -> None:
    asked = [sync(A, "nobody"), sync(C, "k1")]  # C is registered nowhere
    with open_store() as store:
        import_keys(store, "k1", "k2")
        register(store, A, "meter", "tracker")
        settle(store, *asked)
        settle(store, sync(A, "k1", "meter"), sync(B, "k1"), sync(A, "k1", "tracker"))
        found = journalled(store)
    with open_store() as store:
        settle(store, *asked)
        assert journalled(store) == found
        settle(store, sync(A, "k1", "tracker"), sync(A, "nobody", link="south"))  # its hold is no entry of "held" alone
        assert journalled(store) == [*found, (A, "held")]
        assert counted(store) == {"unknown_key": 3, "not_registered": 3, "bound": 1, "held": 2}


def test_stranger_who_comes_over_two_links_has_one_entry(store: Store) -> None:
    import_keys(store, "k1")
    settle(store, sync(C, "k1"), sync(C, "k1", link="south"))
    settle(store, sync(C, "k1", link="south"), sync(C, "k1"))
    assert journalled(store) == [(C, "not_registered")]
    assert counted(store) == {"not_registered": 4}


def test_every_binding_and_every_new_hold_has_its_entry(open_store: Any) -> None:
    store = open_store(SyncPolicy(on_sim_change=OnConflict.MOVED, late_hours=0))
    import_keys(store, "k1", "k2", "k3", "k4")
    register(store, A, "meter", "tracker")
    register(store, B, "meter")
    of_a = [sync(A, key, "meter") for key in ("k1", "k1", "k1", "k2", "k3", "k3")]
    asked = [of_a[0], sync(A, "k4", "tracker"), sync(B, "k1"), of_a[1], sync(B, "k1"), *of_a[2:]]
    assert settle(store, *asked) == [*[Outcome.BOUND] * 2, *[Outcome.MOVED] * 4, *[Outcome.HELD] * 3]
    entries = store.journal.listing(limit=100)[::-1]
    assert [(row["mdn"], row["outcome"], row["key_id"]) for row in entries] == [
        (A, "bound", "k1"), (A, "bound", "k4"), (B, "moved", "k1"), (A, "moved", "k1"), (B, "moved", "k1"),
        (A, "moved", "k1"), (A, "held", "k2"), (A, "held", "k3"), (A, "held", "k3"),
    ]  # fmt: skip
    assert [row["hold"] for row in entries[6:]] == [*[row["hold"] for row in open_holds(store)], None]


def test_entry_of_a_new_hold_is_its_own_although_unfit_messages_stood_before_it(store: Store) -> None:
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    unfit = Unfit(outcome=Outcome.MALFORMED, mdn=A, received_at=NOW, link="north")
    assert store.settle([unfit, unfit, sync(A, "k1"), sync(A, "k2")], NOW)[-1] is Outcome.HELD
    (hold,) = open_holds(store)
    assert {(row["outcome"], row["key_id"]): row["hold"] for row in store.journal.listing(limit=9)}[
        "held", "k2"
    ] == hold["hold"]


def test_sender_without_a_legal_mdn_is_counted_by_what_it_looks_like(store: Store) -> None:
    unfit = [
        Unfit(outcome=Outcome.INVALID_MDN, sender=sender, received_at=NOW, link="north")
        for sender in ("11234/11", "11234/11", "alnum/7")
    ]
    assert store.settle(unfit, NOW) == [Outcome.INVALID_MDN] * 3
    assert journalled(store) == []
    assert counted(store) == {"invalid_mdn": 3}


def test_classes_of_senders_are_a_thousand_an_hour_and_link_and_all_others_one(store: Store) -> None:
    def unfit(*prefixes: int, link: str = "north") -> list[Unfit]:
        return [
            Unfit(outcome=Outcome.INVALID_MDN, sender=f"{prefix}/11", received_at=NOW, link=link) for prefix in prefixes
        ]

    def senders() -> list[tuple[str, str, int]]:
        rows = store._database.rows("SELECT link, sender, count FROM tallies ORDER BY hour, link, sender")
        return [(link, sender, count) for link, sender, count in rows]

    store.settle(unfit(*range(10_000, 10_999)), NOW)
    store.settle(unfit(*range(10_999, 11_500)), NOW)
    assert len(senders()) == 1_001
    assert senders()[-1] == ("north", "other", 500)
    store.settle([*unfit(10_000, 11_499), *unfit(11_499, link="south")], NOW)
    assert senders()[0] == ("north", "10000/11", 2)
    assert senders()[1_000:] == [("north", "other", 501), ("south", "11499/11", 1)]
    store.settle(unfit(11_499), NOW + HOUR)
    assert senders()[-1] == ("north", "11499/11", 1)
    assert counted(store) == {"invalid_mdn": 1_504}


def test_strangers_beyond_the_journal_make_no_more_classes_than_others(store: Store) -> None:
    import_keys(store, "k1")
    settle(store, *[sync(f"{prefix}00000000", "k1") for prefix in range(10_000, 13_000)])
    assert counted(store) == {"not_registered": 3_000}
    ((rows,),) = store._database.rows("SELECT count(*) FROM tallies")
    assert rows == 1 + 1_000 + 1  # those in the journal, the classes of others, the rest


def test_strangers_get_a_thousand_entries_an_hour_and_link(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")
    flood = [sync(f"86138{number:08}", "k1") for number in range(1_500)]
    for start in range(0, 1_500, 400):
        settle(store, *flood[start : start + 400])
    assert len(journalled(store)) == 1_000
    settle(store, *flood)
    assert len(journalled(store)) == 1_000
    assert counted(store) == {"not_registered": 3_000}
    settle(store, sync("8613812345678", "k1", link="south"), sync(A, "nobody"))
    assert journalled(store)[1_000:] == [("8613812345678", "not_registered"), (A, "unknown_key")]
    settle(store, sync("8613812345679", "k1"), now=NOW + HOUR)
    assert journalled(store)[1_002:] == [("8613812345679", "not_registered")]
    settle(store, *flood[::-1], now=NOW + HOUR)  # the store knows most of them by now; they are strangers all the same
    assert len(journalled(store)) == 1_002 + 1_000


# However messages are cut into batches

MDNS = (A, B, C, "8613900000009")
APPS = ("meter", "tracker")
names = itertools.count()

messages = st.one_of(
    st.builds(
        sync,
        st.sampled_from(MDNS),
        st.sampled_from(["k1", "k2", "k3", "reserved", "s1", "s2", "nobody"]),
        st.sampled_from([None, *APPS]),
        received_at=st.sampled_from([NOW - 100 * HOUR, NOW - HOUR, NOW]),
    ),
    st.builds(
        Unfit,
        outcome=st.just(Outcome.MALFORMED),
        mdn=st.sampled_from(MDNS),
        received_at=st.just(NOW),
        link=st.just("north"),
    ),
)
policies = st.builds(
    SyncPolicy,
    on_sim_change=st.sampled_from(OnConflict),
    on_terminal_change=st.sampled_from(OnConflict),
    on_late=st.sampled_from([OnConflict.HELD, OnConflict.REFUSED]),
    late_hours=st.sampled_from([0, 72]),
)


def prepared(open_store: Any, policy: SyncPolicy, before: list[SyncRequest], wishes: list[str]) -> Store:
    """A store with a past: bindings, rejected deliveries, and holds, some refused and some approved."""
    store: Store = open_store(policy, name=f"cut-{next(names)}")
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2", "k3", staged("reserved", app_id="tracker"), staged("s1", serial="7"))
    import_keys(store, staged("s2", serial="7"))
    register(store, A, *APPS, now=NOW - 200 * HOUR)
    register(store, B, "meter", now=NOW - 200 * HOUR)
    register(store, C, "tracker", now=NOW - 200 * HOUR)
    settle(store, *before, now=NOW - 150 * HOUR)
    reject_all(store)
    for hold, wish in zip(open_holds(store), wishes, strict=False):
        if wish == "refuse":
            store.holds.refuse(hold["hold"], "eve", NOW - 140 * HOUR)
        elif wish == "approve":
            store.holds.approve(hold["hold"], "adam")
    return store


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    policies,
    st.lists(messages.filter(lambda one: isinstance(one, SyncRequest)), max_size=8),
    st.lists(st.sampled_from(["refuse", "approve", "leave"]), min_size=8, max_size=8),
    st.lists(messages, min_size=1, max_size=12),
    st.lists(st.integers(1, 11), max_size=4),
)
def test_cutting_messages_into_batches_changes_nothing(
    open_store: Any,
    policy: SyncPolicy,
    before: list[SyncRequest],
    wishes: list[str],
    asked: list[SyncRequest | Unfit],
    cuts: list[int],
) -> None:
    found = []
    for cut in (None, cuts, range(100)):
        store = prepared(open_store, policy, before, wishes)
        edges = sorted({0, len(asked), *(edge for edge in cut or () if edge < len(asked))})
        with mock.patch.object(settling, "gather", wraps=gathering.gather) as gathered:
            outcomes = store.settle_again(NOW)
            batches = len(edges) - 1 + bool(outcomes)
            for start, end in itertools.pairwise(edges):
                outcomes += store.settle(asked[start:end], NOW)
        assert gathered.call_count == batches  # nothing was missing, for which a batch is folded again
        found.append((outcomes, content(store, MDNS)))
        store.close()
    assert found[0] == found[1] == found[2]
