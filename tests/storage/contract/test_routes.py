"""Routes: apps find their platforms, lose them, and move between them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmp_smsd.storage import Store
from kmp_smsd.storage.routes import PlatformState
from tests.storage.stock import (
    NOW,
    A,
    B,
    bound,
    confirm_all,
    due,
    import_keys,
    register,
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
    assert store.keys.destroy("k1", NOW + 2)


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
    assert store.routes.all() == {"meter": "metering", "tracker": "tracking"}


def test_message_that_comes_while_its_app_moves_is_wanted_at_the_new_platform_only(store: Store) -> None:
    store.routes.set({"meter": "old"})
    many(store)
    store.routes.set({"meter": "new"})
    moving = store.routes.move(NOW + 1)
    next(moving)
    import_keys(store, "late")
    register(store, A, "meter")
    settle(store, sync(A, "late"), now=NOW + 2)
    store.bindings.withdraw(MDNS[0], "meter", NOW + 3)
    store.bindings.withdraw(MDNS[-1], "meter", NOW + 3)
    sum(moving)
    assert held_at(store) == {"new": bound_keys(store)}
    assert A in bound_keys(store)


def bound_keys(store: Store) -> dict[str, str]:
    return {mdn: key for (mdn, _), key in bound(store).items()}


def test_others_may_write_between_two_steps_of_a_move(open_store: Any) -> None:
    """A step is committed when it is reported, and the write lock is free."""
    dispatch, intake = open_store(), open_store()
    many(intake)
    dispatch.routes.set({"meter": "metering"})
    for _ in dispatch.routes.move(NOW + 1):
        register(intake, B, "meter")
        assert "metering" in held_at(intake)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_platforms_are_listed_with_what_is_due_and_what_happened(store: Store) -> None:
    store.routes.set({"meter": "metering", "tracker": "tracking"})
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    store.routes.report(PlatformState("metering", last_success_at=NOW))
    store.routes.report(PlatformState("metering", last_error="refused", last_error_at=NOW + 1, paused=True))
    shown = {one["platform"]: one for one in store.routes.platforms()}
    assert set(shown) == {"", "metering", "tracking"}
    assert (shown["metering"]["apps"], shown["metering"]["due"], shown["metering"]["oldest_due_at"]) == (
        ["meter"],
        1,
        NOW,
    )
    assert (shown["metering"]["last_success_at"], shown["metering"]["last_error"]) == (NOW, "refused")
    assert (shown["tracking"]["due"], shown["tracking"]["paused"]) == (0, 0)


def test_what_was_reported_of_a_platform_is_read_back(store: Store) -> None:
    assert store.routes.state("metering") == PlatformState("metering")
    reported = PlatformState("metering", NOW, "20 rejections in a row", NOW + 1, NOW + 2, paused=True)
    store.routes.report(reported)
    assert store.routes.state("metering") == reported
    store.outbox.retry(NOW, platform="tracking")  # which nobody has seen yet
    assert store.routes.state("tracking") == PlatformState("tracking")
