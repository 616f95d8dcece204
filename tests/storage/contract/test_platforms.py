"""Platforms: what was seen of them, and what people wish of them."""

from __future__ import annotations

from kmp_smsd.storage import Store
from kmp_smsd.storage.platforms import PlatformState
from tests.storage.stock import NOW, A, import_keys, register, settle, sync


def test_platforms_are_listed_with_what_is_due_and_what_happened(store: Store) -> None:
    store.routes.set({"meter": "metering", "tracker": "tracking"})
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    store.platforms.report(PlatformState("metering", last_success_at=NOW))
    store.platforms.report(PlatformState("metering", last_error="refused", last_error_at=NOW + 1, held_back=True))
    shown = {one["platform"]: one for one in store.platforms.listing()}
    assert set(shown) == {"", "metering", "tracking"}
    assert (shown["metering"]["apps"], shown["metering"]["due"], shown["metering"]["oldest_due_at"]) == (
        ["meter"],
        1,
        NOW,
    )
    assert (shown["metering"]["last_success_at"], shown["metering"]["last_error"]) == (NOW, "refused")
    assert (shown["tracking"]["due"], shown["tracking"]["held_back"]) == (0, 0)


def test_what_was_reported_of_a_platform_is_read_back(store: Store) -> None:
    assert store.platforms.state("metering") == PlatformState("metering")
    reported = PlatformState("metering", NOW, "20 rejections in a row", NOW + 1, NOW + 2, held_back=True)
    store.platforms.report(reported)
    assert store.platforms.state("metering") == reported
    store.renewing.retry(NOW, platform="tracking")  # which nobody has seen yet
    assert store.platforms.state("tracking") == PlatformState("tracking")


def test_platform_whose_file_came_back_is_not_forgotten(store: Store) -> None:
    store.routes.set({"meter": "old"})
    store.platforms.wish_forgotten("old", NOW)
    assert store.platforms.to_forget(["old"]) == []
    store.platforms.keep(["old", "other"])
    assert store.platforms.to_forget([]) == []
    assert not store.platforms.is_to_be_forgotten("old")
