"""Imports: staged, published, abandoned, and one at a time; registrations as well."""

from __future__ import annotations

from typing import Any

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.storage import Store, StoreBusy
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.subscribers import Registration
from tests.storage.stock import DIGEST, NOW, A, B, C, begin_import, import_keys, register, settle, staged, sync


def key_ids(store: Store) -> list[str]:
    return [key["key_id"] for key in store.keys.listing(limit=100)]


def test_staged_keys_exist_once_their_import_is_published(store: Store) -> None:
    register(store, A, "meter")
    number = begin_import(store)
    store.imports.stage(number, [staged("k1")])
    assert key_ids(store) == []
    assert settle(store, sync(A, "k1")) == [Outcome.UNKNOWN_KEY]
    with pytest.raises(NotPossible, match="no key k1"):
        store.keys.revoke("k1", None, NOW, compromised=False)
    store.imports.publish(number, DIGEST, NOW)
    assert key_ids(store) == ["k1"]
    assert store.keys.get("k1")["state"] == "pre-active"  # type: ignore[index]
    assert settle(store, sync(A, "k1")) == [Outcome.BOUND]


def test_staged_keys_of_a_terminal_do_not_count(store: Store) -> None:
    register(store, A, "meter")
    import_keys(store, staged("one", serial="7"))
    store.imports.stage(begin_import(store), [staged("two", serial="7")])
    assert settle(store, sync(A, "one")) == [Outcome.BOUND]


def test_conflicting_keys_are_told_and_left_out(store: Store) -> None:
    import_keys(store, "old")
    number = begin_import(store)
    assert store.imports.stage(number, [staged("a"), staged("old"), staged("a")]) == ["old"]
    assert store.imports.stage(number, [staged("a"), staged("b"), staged("OLD")]) == []
    store.imports.publish(number, DIGEST, NOW)
    assert key_ids(store) == ["OLD", "a", "b", "old"]


def test_discarded_import_leaves_nothing(store: Store) -> None:
    number = begin_import(store, data_key_id="its own")
    store.imports.stage(number, [staged("k1")])
    assert store.sealed_data_keys(["its own"])
    store.imports.discard(number)
    assert store.imports.listing(limit=9) == []
    assert store.sealed_data_keys(["its own"]) == {}
    import_keys(store, "k1")
    assert key_ids(store) == ["k1"]


def test_import_that_is_published_or_discarded_changes_nothing_of_an_earlier_one(store: Store) -> None:
    import_keys(store, "k1")
    earlier = store.imports.listing(limit=9)
    number = begin_import(store)
    store.imports.stage(number, [staged("k2")])
    store.imports.discard(number)
    assert (store.imports.listing(limit=9), key_ids(store)) == (earlier, ["k1"])
    number = begin_import(store)
    store.imports.stage(number, [staged("k2")])
    store.imports.publish(number, DIGEST, NOW + 1)
    assert (store.imports.listing(limit=9)[:1], key_ids(store)) == (earlier, ["k1", "k2"])


def test_imports_are_listed_in_their_order_with_their_keys(store: Store) -> None:
    import_keys(store, "k1", "k2")
    import_keys(store, "k3", vendor="other")
    number = begin_import(store)
    assert store.imports.stage(number, [staged("k3"), staged("k4"), staged("k4")]) == ["k3"]
    store.imports.stage(number, [staged("k5"), staged("k6")])
    first, second, third = store.imports.listing(limit=9)
    assert [first["vendor"], second["vendor"], third["vendor"]] == ["acme", "other", "acme"]
    assert [first["keys"], second["keys"], third["keys"]] == [2, 1, 3]
    assert (third["import"], third["digest"], third["imported_at"]) == (number, None, None)
    assert first["digest"]
    assert first["imported_at"] is not None
    assert store.imports.listing(after=first["import"], limit=1) == [second]


def test_published_import_cannot_be_discarded(store: Store) -> None:
    import_keys(store, "k1")
    (published,) = store.imports.listing(limit=9)
    store.imports.discard(published["import"])
    assert key_ids(store) == ["k1"]
    assert len(store.imports.listing(limit=9)) == 1


def test_abandoned_import_is_swept_away_by_the_next(open_store: Any) -> None:
    killed = open_store()
    killed.imports.stage(begin_import(killed), [staged("k1"), staged("k2")])
    killed.close()
    store = open_store()
    number = begin_import(store)
    assert store.imports.stage(number, [staged("k1")]) == []
    store.imports.publish(number, DIGEST, NOW)
    assert key_ids(store) == ["k1"]
    assert len(store.imports.listing(limit=9)) == 1


def test_one_import_at_a_time(open_store: Any) -> None:
    first, second = open_store(), open_store()
    number = begin_import(first)
    with pytest.raises(StoreBusy, match="another import is running"):
        begin_import(second)
    first.imports.publish(number, DIGEST, NOW)
    number = begin_import(second)
    second.imports.discard(number)
    begin_import(first)


def test_import_that_its_own_process_left_open_gives_way_to_the_next(store: Store) -> None:
    store.imports.stage(begin_import(store), [staged("k1")])
    import_keys(store, "k1")
    assert key_ids(store) == ["k1"]
    assert len(store.imports.listing(limit=9)) == 1


def test_import_that_could_not_begin_stands_in_nobody_s_way(open_store: Any) -> None:
    first, second = open_store(), open_store()
    import_keys(first, "k1")
    with pytest.raises(NotPossible, match="sealed to master key 5f5f"):
        begin_import(first, fingerprint="66" * 16)
    import_keys(second, "k2")
    assert key_ids(first) == ["k1", "k2"]


def test_sealed_data_keys_and_master_key_are_known(store: Store) -> None:
    assert store.master_key() is None
    import_keys(store, "k1")
    assert store.master_key() == "5f" * 16
    store.routes.set({"meter": "metering"})
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    (row,) = store.outbox.due("metering", NOW, 1)
    assert row.key is not None
    assert store.sealed_data_keys([row.key.data_key_id, "nobody's"]) == {row.key.data_key_id: b"sealed data key"}


def test_keys_are_listed_by_vendor_and_serial_in_pages(store: Store) -> None:
    import_keys(store, *[staged(f"k{number}", serial=str(number % 2)) for number in range(6)], vendor="acme")
    import_keys(store, staged("x", serial="0"), vendor="other")
    assert [key["key_id"] for key in store.keys.listing(serial="0", limit=9)] == ["k0", "k2", "k4", "x"]
    assert [key["key_id"] for key in store.keys.listing(serial="0", vendor="acme", limit=9)] == ["k0", "k2", "k4"]


def test_keys_of_a_vendor_are_listed_in_pages_as_they_were_imported(store: Store) -> None:
    import_keys(store, "k9", "k1")
    import_keys(store, "k5", vendor="other")
    import_keys(store, "k7", "k3", "k8")
    seen: list[str] = []
    after = ""
    while page := store.keys.listing(vendor="acme", after=after, limit=2):
        seen += [key["key_id"] for key in page]
        after = seen[-1]
    assert seen == ["k9", "k1", "k7", "k3", "k8"]
    assert [key["key_id"] for key in store.keys.listing(vendor="other", limit=9)] == ["k5"]
    assert store.imports.stage(begin_import(store, vendor="staging"), [staged("k0")]) == []
    assert store.keys.listing(vendor="staging", limit=9) == []


# Registrations


def test_registrations_are_added_once(store: Store) -> None:
    wishes = [Registration(A, "meter"), Registration(A, "tracker"), Registration(A, "meter"), Registration(B, "meter")]
    assert store.registrations.add(wishes, NOW) == 3
    assert store.registrations.add(wishes, NOW) == 0
    assert store.registrations.existing([*wishes, Registration(B, "tracker")]) == set(wishes)


def test_registrations_are_listed_in_pages_that_may_part_one_number_s_apps(store: Store) -> None:
    register(store, A, "a1", "a2", "a3")
    register(store, B, "b1", "a1")
    seen: list[tuple[str, str]] = []
    after = ("", "", 0)
    while page := store.registrations.listing(after=after, limit=2):
        seen += [(row["mdn"], row["app_id"]) for row in page]
        after = (*seen[-1], page[-1]["subscriber"])
    assert seen == [(A, "a1"), (A, "a2"), (A, "a3"), (B, "a1"), (B, "b1")]
    assert [row["app_id"] for row in store.registrations.listing(mdn=B, limit=9)] == ["a1", "b1"]
    assert [row["app_id"] for row in store.registrations.listing(mdn=B, app_id="b1", limit=9)] == ["b1"]


def test_registrations_for_an_app_are_listed_in_pages_as_their_numbers_became_known(store: Store) -> None:
    register(store, C, "a1")
    register(store, A, "a0")
    register(store, B, "a1", "a0")
    register(store, A, "a1")
    seen: list[str] = []
    after = ("", "", 0)
    while page := store.registrations.listing(app_id="a1", after=after, limit=2):
        seen += [row["mdn"] for row in page]
        after = (page[-1]["mdn"], page[-1]["app_id"], page[-1]["subscriber"])
    assert seen == [C, A, B]
