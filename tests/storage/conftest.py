from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.storage import Store
from kmp_smsd.storage.outbox import OutboxRow
from tests.storage.back_ends import BACK_ENDS, Sqlite
from tests.storage.fresh import new_database
from tests.storage.stock import KNOWN, A, B, due, import_keys, register, settle, sync

OpenStore = Callable[..., Store]


@pytest.fixture(params=BACK_ENDS.values(), ids=BACK_ENDS)
def back_end(request: pytest.FixtureRequest, tmp_path: Path) -> Sqlite:
    made: Sqlite = request.param(tmp_path)
    return made


@pytest.fixture(name="open_store")
def _open_store(back_end: Sqlite) -> Iterator[OpenStore]:
    """Opens stores on databases by name, each created when first named; all are closed in the end."""
    with ExitStack() as stores:

        def opened(policy: SyncPolicy | None = None, *, name: str = "kmp") -> Store:
            return stores.enter_context(back_end.open(policy, name=name))

        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a new database is."""
    new_database(tmp_path / "kmp.db")
    return tmp_path / "kmp.db"


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store(KNOWN)


@pytest.fixture(name="row")
def _row(store: Store) -> OutboxRow:
    """What is due of A; B is registered, too, and has no key yet."""
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    register(store, B, "meter")
    settle(store, sync(A, "k1"))
    (row,) = due(store)
    return row


@pytest.fixture
def small_steps(back_end: Sqlite) -> Iterator[None]:
    with back_end.small_steps():
        yield
