"""Routes: apps find their platforms, lose them, and move between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.storage import Store
from kmp_smsd.storage.outbox import Confirm, Outbid, OutboxRow
from tests.storage.stock import (
    MOVING,
    NOW,
    A,
    B,
    bound,
    confirm_all,
    due,
    import_keys,
    outbox,
    register,
    reject_all,
    routes_of,
    row_at,
    settle,
    sync,
    versions,
    wanted,
)

MDNS = [f"86139000001{number:02}" for number in range(20)]
KEYS = [f"k{number}" for number in range(20)]
names = itertools.count()

pytestmark = pytest.mark.usefixtures("small_steps")


def many(store: Store) -> None:
    import_keys(store, *KEYS)
    for mdn in MDNS:
        register(store, mdn, "meter")
    settle(store, *map(sync, MDNS, KEYS))


def held_at(store: Store) -> dict[str, dict[str, str]]:
    """platform -> MDN -> key ID that is wanted there."""
    found: dict[str, dict[str, str]] = {}
    for (mdn, _, platform), key in wanted(store).items():
        if key is not None:
            found.setdefault(platform, {})[mdn] = key
    return found


def test_binding_waits_where_no_platform_serves_its_app_and_leaves_when_one_does(store: Store) -> None:
    many(store)
    assert held_at(store) == {"": dict(zip(MDNS, KEYS, strict=True))}
    assert store.routes.set({"meter": "metering"}) == ["meter"]
    assert sum(store.routes.move(NOW + 1)) == 40
    assert held_at(store) == {"metering": dict(zip(MDNS, KEYS, strict=True))}
    assert due(store, "", NOW + 1) == []
    assert len(due(store, now=NOW + 1)) == 20
    assert store.routes.set({"meter": "metering"}) == []
    assert list(store.routes.move(NOW + 2)) == []


def test_what_ends_while_no_platform_serves_its_app_needs_no_confirmation(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    store.keys.revoke("k1", None, NOW + 1, compromised=False)
    row = row_at(store, A)
    assert row["wanted_version"] == row["confirmed_version"]
    store.keys.destroy("k1", NOW + 2)


def test_app_that_changes_platform_is_withdrawn_from_the_old_one_first(store: Store) -> None:
    store.routes.set({"meter": "old"})
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    confirm_all(store, "old")
    store.routes.set({"meter": "new"})
    sum(store.routes.move(NOW + 1))
    (withdraw,), (bind,) = due(store, "old", NOW + 1), due(store, "new", NOW + 1)
    assert (withdraw.key, bind.key.key_id if bind.key else None) == (None, "k1")
    assert NOW < withdraw.version < bind.version


def test_app_that_is_in_no_file_any_more_keeps_its_route(store: Store) -> None:
    store.routes.set({"meter": "metering", "tracker": "tracking"})
    sum(store.routes.move(NOW))
    assert store.routes.set({"tracker": "tracking"}) == []
    assert routes_of(store) == {"meter": "metering", "tracker": "tracking"}


def test_message_that_comes_while_its_app_moves_is_wanted_at_the_new_platform_only(store: Store) -> None:
    store.routes.set({"meter": "old", "tracker": "tracking"})
    many(store)
    import_keys(store, "late", "other")
    register(store, A, "meter", "tracker")
    settle(store, sync(A, "other", "tracker"))
    store.routes.set({"meter": "new", "tracker": "tracking"})
    moving = store.routes.move(NOW + 1)
    next(moving)
    settle(store, sync(A, "late", "meter"), now=NOW + 2)
    store.bindings.withdraw(MDNS[0], "meter", NOW + 3)
    store.bindings.withdraw(MDNS[-1], "meter", NOW + 3)
    sum(moving)
    assert held_at(store) == {"new": bound_keys(store), "tracking": {A: "other"}}
    assert A in bound_keys(store)
    # The others never heard of it.
    assert [platform for mdn, app, platform in wanted(store) if (mdn, app) == (A, "meter")] == ["new"]


def bound_keys(store: Store, app_id: str = "meter") -> dict[str, str]:
    return {mdn: key for (mdn, app), key in bound(store).items() if app == app_id}


def test_key_that_moves_to_another_app_leaves_the_platform_of_the_old_one(open_store: Any) -> None:
    store = open_store(SyncPolicy(on_sim_change=OnConflict.MOVED))
    store.routes.set({"meter": "metering", "heat": "heating"})
    import_keys(store, "k1")
    register(store, A, "meter")
    register(store, B, "heat")
    assert settle(store, sync(A, "k1")) == [Outcome.BOUND]
    assert settle(store, sync(B, "k1", received_at=NOW + 1)) == [Outcome.MOVED]
    assert wanted(store) == {(A, "meter", "metering"): None, (B, "heat", "heating"): "k1"}


def test_others_may_write_between_two_steps_of_a_move(open_store: Any) -> None:
    """A step is committed when it is reported, and the write lock is free."""
    dispatch, intake = open_store(), open_store()
    many(intake)
    dispatch.routes.set({"meter": "metering"})
    for _ in dispatch.routes.move(NOW + 1):
        register(intake, B, "meter")
        assert "metering" in held_at(intake)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["one", "two", "three"]), st.integers(0, 8)), min_size=1, max_size=4))
def test_move_that_is_interrupted_anywhere_is_continued_to_the_same_end(
    open_store: Any, changes: list[tuple[str, int]]
) -> None:
    store = open_store(name=f"moved-{next(names)}")
    many(store)
    before = versions(store)
    for step, (platform, steps) in enumerate(changes):
        store.routes.set({"meter": platform})
        moving = store.routes.move(NOW + step)
        for _ in zip(range(steps), moving, strict=False):
            pass
        moving.close()
    sum(store.routes.move(NOW + 10))
    assert held_at(store) == {changes[-1][0]: bound_keys(store)}
    assert all(version > before[place] for place, version in versions(store).items())
    store.close()


def test_app_whose_platform_changes_during_a_move_is_moved_after_it(store: Store) -> None:
    store.routes.set({"meter": "old", "tracker": "old"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter", "tracker")
    settle(store, sync(A, "k1", "meter"), sync(A, "k2", "tracker"))
    sum(store.routes.move(NOW))
    store.routes.set({"meter": "new", "tracker": "old"})
    moving = store.routes.move(NOW + 1)
    next(moving)
    store.routes.set({"meter": "newer", "tracker": "new"})
    sum(moving)
    sum(store.routes.move(NOW + 2))
    assert held_at(store) == {"newer": {A: "k1"}, "new": {A: "k2"}}


# Platforms that are forgotten


def forget(store: Store, name: str, now: int) -> None:
    store.platforms.wish_forgotten(name, now)
    assert store.platforms.to_forget(["other"]) == [name]
    sum(store.routes.forget([name], now))


def test_keys_wanted_at_a_forgotten_platform_wait_for_another(store: Store) -> None:
    store.routes.set({"meter": "old"})
    many(store)
    confirm_all(store, "old")
    before = versions(store)
    forget(store, "old", NOW + 1)
    assert {platform for _, _, platform in wanted(store)} == {""}
    assert held_at(store) == {"": bound_keys(store)}
    assert [one["platform"] for one in store.platforms.listing()] == [""]
    assert routes_of(store) == {}
    assert all(version > before[place] for place, version in versions(store).items())
    store.routes.set({"meter": "new"})
    sum(store.routes.move(NOW + 2))
    assert held_at(store) == {"new": bound_keys(store)}


def test_forgotten_platform_of_several_apps_leaves_each_its_key_and_version(store: Store) -> None:
    store.routes.set({"meter": "old", "tracker": "old"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter", "tracker")
    settle(store, sync(A, "k1", "meter"), sync(A, "k2", "tracker"))
    before = versions(store)
    forget(store, "old", NOW + 1)
    assert wanted(store) == {(A, "meter", ""): "k1", (A, "tracker", ""): "k2"}
    assert all(version > before[place] for place, version in versions(store).items())


def test_forgotten_platform_of_a_renamed_file_leaves_the_new_one_alone(store: Store) -> None:
    store.routes.set({"meter": "old"})
    many(store)
    store.routes.set({"meter": "new"})
    sum(store.routes.move(NOW + 1))
    before = {(row["mdn"], row["wanted_version"]) for row in outbox(store) if row["platform"] == "new"}
    assert [store.outbox.count(platform) for platform in ("old", "new")] == [20, 20]
    assert store.outbox.count_held("old") == (0, 20)
    forget(store, "old", NOW + 2)
    assert {(row["mdn"], row["wanted_version"]) for row in outbox(store)} == before


def withdrawn_at_both(store: Store) -> None:
    """A had a key at "b", which followed its app to "a", and was withdrawn there."""
    import_keys(store, "k1")
    register(store, A, "meter")
    store.routes.set({"meter": "b"})
    sum(store.routes.move(NOW))
    settle(store, sync(A, "k1"))
    confirm_all(store, "b")
    store.routes.set({"meter": "a"})
    sum(store.routes.move(NOW + 1))
    confirm_all(store, "a", NOW + 1)
    store.bindings.withdraw(A, "meter", NOW + 2)


def test_platforms_that_are_forgotten_together_leave_nothing_at_one_another(store: Store) -> None:
    withdrawn_at_both(store)
    (version,) = versions(store).values()
    assert set(wanted(store)) == {(A, "meter", platform) for platform in ("a", "b")}
    for name in ("a", "b"):
        store.platforms.wish_forgotten(name, NOW + 3)
    sum(store.routes.forget(store.platforms.to_forget([]), NOW + 3))
    (row,) = outbox(store)
    assert (row["platform"], row["key_id"]) == ("", None)
    assert row["wanted_version"] == row["confirmed_version"] > version
    assert store.platforms.names() == [""]
    assert store.erasing.erase(A, NOW + 4).blanked


def test_withdrawal_that_is_confirmed_is_not_wanted_again_where_another_platform_is_forgotten(store: Store) -> None:
    withdrawn_at_both(store)
    confirm_all(store, "a", NOW + 2)
    confirm_all(store, "b", NOW + 2)
    (before,) = (row for row in outbox(store) if row["platform"] == "b")
    (version,) = versions(store).values()
    forget(store, "a", NOW + 3)
    (after,) = (row for row in outbox(store) if row["platform"] == "b")
    assert after == before
    assert due(store, "b", NOW + 3) == []
    settle(store, sync(A, "k1", received_at=NOW + 4), now=NOW + 4)
    assert versions(store)[A, "meter"] > version


def test_platform_that_has_not_confirmed_is_known_by_that(store: Store) -> None:
    """Whatever became of its route and of what was seen of it."""
    withdrawn_at_both(store)
    with store._database.transaction() as connection:
        connection.execute("DELETE FROM platforms")
        connection.execute("DELETE FROM routes")
    assert store.platforms.names() == ["", "a", "b"]
    reject_all(store, "a", NOW + 3)
    confirm_all(store, "b", NOW + 3)
    assert store.platforms.names() == ["", "a"]


def test_version_outlives_its_platform(store: Store) -> None:
    """A version far ahead of the clock, of a platform that is forgotten: the next one is above it all the same."""
    ahead = NOW + 80_000_000
    store.routes.set({"meter": "old", "tracker": "old"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    register(store, B, "meter")
    settle(store, sync(A, "k1"), sync(B, "k2"))
    store.bindings.withdraw(A, "meter", NOW)
    store.outbox.settle("old", [Outbid(row, ahead, NOW, "holds more") for row in due(store, "old")], NOW)
    store.routes.set({"meter": "new"})
    sum(store.routes.move(NOW + 1))
    store.outbox.settle(
        "old", [Outbid(row, ahead + 9, NOW + 1, "holds more") for row in due(store, "old", NOW + 1)], NOW + 1
    )
    before = versions(store)
    forget(store, "old", NOW + 2)
    assert held_at(store) == {"new": {B: "k2"}}
    assert all(version >= before[place] > ahead for place, version in versions(store).items())
    settle(store, sync(A, "k1", received_at=NOW + 3), now=NOW + 3)
    assert versions(store)[A, "meter"] > before[A, "meter"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 30), max_size=4))
def test_forgetting_that_is_interrupted_anywhere_comes_to_the_same_end(open_store: Any, stops: list[int]) -> None:
    store = open_store(name=f"forgotten-{next(names)}")
    store.routes.set({"meter": "gone"})
    many(store)
    store.routes.set({"meter": "other"})
    for _ in zip(range(5), store.routes.move(NOW), strict=False):
        pass
    before = versions(store)
    for step, steps in enumerate(stops):
        forgetting = store.routes.forget(["gone", "other"], NOW + step)
        for _ in zip(range(steps), forgetting, strict=False):
            pass
        forgetting.close()
        assert_each_key_is_wanted_once(store)
    sum(store.routes.forget(["gone", "other"], NOW + 10))
    assert held_at(store) == {"": bound_keys(store)}
    assert {platform for _, _, platform in wanted(store)} == {""}
    assert all(version >= before[place] for place, version in versions(store).items())
    store.close()


# At every commit


def assert_each_key_is_wanted_once(store: Store) -> None:
    """Each bound key at one platform, and no other key anywhere."""
    found = sorted(((mdn, app), key) for (mdn, app, _), key in wanted(store).items() if key is not None)
    assert found == sorted(bound(store).items())


def test_each_key_is_wanted_at_one_platform_at_every_commit(open_store: Any) -> None:
    """Files are renamed, split and merged, a platform is forgotten, while messages and wishes come in between."""
    dispatch, intake, reader = open_store(), open_store(MOVING), open_store()
    commits = []

    def checked(store: Store) -> None:
        real = store._database.transaction

        @contextmanager
        def transaction() -> Iterator[Any]:
            with real() as connection:
                yield connection
            commits.append(store)
            assert_each_key_is_wanted_once(reader)

        store._database.transaction = transaction  # type: ignore[method-assign]

    checked(dispatch)
    checked(intake)
    many(intake)
    spare = [f"spare{number}" for number in range(60)]
    import_keys(intake, *spare)
    wishes = itertools.count()

    def load() -> None:
        """A terminal replaced, a repeat, a withdrawal, a SIM swapped: each at a number of its own."""
        at, now = next(wishes), NOW + 10 * next(wishes)
        one, two, three = (MDNS[(at * 7 + shift) % 20] for shift in (0, 5, 10))
        settle(intake, sync(one, spare[at % 60], received_at=now), sync(two, KEYS[at % 20], received_at=now), now=now)
        if (three, "meter") in bound(reader):
            intake.bindings.withdraw(three, "meter", now)

    now = NOW
    for files in (
        {"meter": "a", "tracker": "a"},
        {"meter": "b", "tracker": "b"},  # renamed
        {"meter": "b", "tracker": "c"},  # split
        {"meter": "c", "tracker": "c"},  # merged
        {"tracker": "c"},
        {"meter": "b"},
    ):
        now += 1_000
        dispatch.routes.set(files)
        for _ in dispatch.routes.move(now):
            load()
        for _ in dispatch.routes.forget(["a"], now):
            load()
        load()
    assert len(commits) > 200
    sum(dispatch.routes.move(now))
    assert held_at(reader) == {"b": bound_keys(reader)}


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_moved_between_two_files_of_one_receiver_the_key_stays_there(open_store: Any, data: st.DataObject) -> None:
    """Withdrawal and bind come in any order, by two connections, and answers are lost."""
    store = open_store(name=f"receiver-{next(names)}")
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    held: tuple[int, str | None] = (0, None)

    def deliver(platform: str, row: OutboxRow, *, lost: bool) -> None:
        nonlocal held
        key = row.key.key_id if row.key else None
        answer: Confirm | Outbid = Confirm(row)
        if row.version < held[0]:
            answer = Outbid(row, held[0], NOW, "holds more")
        else:
            assert row.version > held[0] or key == held[1]
            held = row.version, key
        if not lost:
            store.outbox.settle(platform, [answer], NOW)

    flying: list[tuple[str, OutboxRow]] = []
    for _ in range(data.draw(st.integers(1, 3))):
        store.routes.set({"meter": data.draw(st.sampled_from(["one", "two"]))})
        sum(store.routes.move(NOW))
        for _ in range(data.draw(st.integers(0, 4))):
            for platform in data.draw(st.permutations(["one", "two"])):
                flying += [(platform, row) for row in due(store, platform)]
            if flying:
                deliver(*flying.pop(data.draw(st.integers(0, len(flying) - 1))), lost=data.draw(st.booleans()))
    while left := [(platform, row) for platform in ("one", "two") for row in due(store, platform)]:
        deliver(*data.draw(st.sampled_from(left)), lost=False)
    assert held[1] == "k1"
    store.close()
