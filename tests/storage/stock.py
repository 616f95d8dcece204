"""What the storage tests fill a store with, and what they read out of it: through the store's own interface only."""

from __future__ import annotations

import itertools
from typing import Any

from kmp_smsd.domain.key import StagedKey
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import Store
from kmp_smsd.storage.outbox import Confirm, OutboxRow, Reject
from kmp_smsd.storage.subscribers import Registration

NOW = 1_732_380_000_000
HOUR = 3_600_000
LATER = NOW + 1_000 * HOUR
FINGERPRINT = "5f" * 16
DIGEST = "00" * 32

A, B, C = "8613900000001", "8613900000002", "8613900000003"

MOVING = SyncPolicy(on_sim_change=OnConflict.MOVED, on_terminal_change=OnConflict.MOVED)

#: One gateway that intake knows, with the common policy.
KNOWN = SyncPolicy(gateways={"data": SyncPolicy()})

_data_keys = itertools.count(1)


def staged(key_id: str, **given: Any) -> StagedKey:
    values: dict[str, Any] = {
        "serial": None,
        "app_id": None,
        "algorithm": "aes",
        "kcv": "BE7ED6",
        "nonce": b"n" * 12,
        "ciphertext": f"sealed {key_id}".encode(),
        "valid_from": None,
        "valid_until": None,
    }
    return StagedKey(key_id=key_id, **{**values, **given})


def begin_import(
    store: Store, *, vendor: str = "acme", fingerprint: str = FINGERPRINT, data_key_id: str | None = None
) -> int:
    return store.imports.begin(
        vendor=vendor,
        file_name="keys.csv",
        data_key_id=data_key_id or f"data-key-{next(_data_keys)}",
        sealed=b"sealed data key",
        fingerprint=fingerprint,
        now=NOW,
    )


def import_keys(store: Store, *keys: str | StagedKey, vendor: str = "acme") -> None:
    number = begin_import(store, vendor=vendor)
    assert store.imports.stage(number, [staged(key) if isinstance(key, str) else key for key in keys]) == []
    store.imports.publish(number, DIGEST, NOW)


def register(store: Store, mdn: str, *app_ids: str, now: int = NOW) -> None:
    store.registrations.add([Registration(mdn, app_id) for app_id in app_ids], now)


def sync(
    mdn: str, key_id: str, app_id: str | None = None, *, received_at: int = NOW, link: str = "north"
) -> SyncRequest:
    return SyncRequest(mdn=mdn, key_id=key_id, app_id=app_id, received_at=received_at, link=link)


def settle(store: Store, *messages: SyncRequest, now: int = NOW) -> list[Outcome]:
    return store.settle(messages, now)


def bound(store: Store) -> dict[tuple[str, str], str]:
    """(MDN, app) -> key ID of every active binding."""
    return {(row["mdn"], row["app_id"]): row["key_id"] for row in store.bindings.active(limit=100_000)}


def outbox(store: Store) -> list[dict[str, Any]]:
    return store.outbox.listing(everything=True, limit=100_000)


def wanted(store: Store) -> dict[tuple[str, str, str], str | None]:
    """(MDN, app, platform) -> the key ID that is wanted there, or nothing."""
    return {(row["mdn"], row["app_id"], row["platform"]): row["key_id"] for row in outbox(store)}


def versions(store: Store) -> dict[tuple[str, str], int]:
    """(MDN, app) -> the highest version that was ever wanted."""
    highest: dict[tuple[str, str], int] = {}
    for row in outbox(store):
        place = row["mdn"], row["app_id"]
        highest[place] = max(row["wanted_version"], highest.get(place, 0))
    return highest


def row_at(store: Store, mdn: str, app_id: str = "meter", platform: str | None = None) -> dict[str, Any]:
    (row,) = [
        row
        for row in outbox(store)
        if (row["mdn"], row["app_id"]) == (mdn, app_id) and platform in (None, row["platform"])
    ]
    return row


def due(store: Store, platform: str = "metering", now: int = NOW) -> list[OutboxRow]:
    return store.outbox.due(platform, now, 10_000)


def confirm_all(store: Store, platform: str = "metering", now: int = NOW) -> None:
    store.outbox.settle(platform, [Confirm(row) for row in due(store, platform, now)], now)


def reject_all(store: Store, platform: str = "metering", now: int = NOW) -> None:
    store.outbox.settle(platform, [Reject(row, now, "no room") for row in due(store, platform, now)], now)


def open_holds(store: Store) -> list[dict[str, Any]]:
    return store.holds.listing(limit=1_000)


def routes_of(store: Store) -> dict[str, str]:
    """app -> platform."""
    return {app: name for name in store.platforms.names() for app in store.platforms.apps(name)}


def counted(store: Store) -> dict[str, int]:
    """outcome -> number of messages, over all links and hours."""
    counts: dict[str, int] = {}
    for row in store.journal.tallies():
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + row["count"]
    return counts


def journalled(store: Store) -> list[tuple[str, str]]:
    return [(row["mdn"], row["outcome"]) for row in reversed(store.journal.listing(limit=100_000))]


def content(store: Store, mdns: tuple[str, ...]) -> dict[str, Any]:
    """Everything that people can see, without the numbers that depend on how messages were cut into batches."""
    return {
        "bindings": [row for mdn in mdns for row in _unversioned(store.bindings.of(mdn))],
        "holds": store.holds.listing(everything=True, limit=10_000),
        "outbox": _unversioned(outbox(store)),
        "journal": store.journal.listing(limit=10_000),
        "tallies": store.journal.tallies(),
        "keys": store.keys.listing(limit=10_000),
    }


def _unversioned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value == row["wanted_version"] if name.endswith("_version") else value for name, value in row.items()}
        for row in rows
    ]


def bind_many(store: Store, count: int) -> None:
    """Bind `count` numbers, each with a key of its own, to the app meter of the platform metering."""
    store.routes.set({"meter": "metering"})
    import_keys(store, *[f"key{number}" for number in range(count)])
    for number in range(count):
        mdn = f"861390000{number:04}"
        register(store, mdn, "meter")
        settle(store, sync(mdn, f"key{number}"))
