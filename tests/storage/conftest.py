from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.storage import Store, open_store
from kmp_smsd.storage.maintenance import migrate

OpenStore = Callable[..., Store]


@pytest.fixture(name="open_store", params=["sqlite"])
def _open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Opens stores on databases by name, each created when first named; all are closed in the end."""
    with ExitStack() as stores:

        def opened(policy: SyncPolicy | None = None, *, name: str = "kmp") -> Store:
            path = tmp_path / f"{name}.db"
            if not path.exists():
                migrate(path)
            return stores.enter_context(open_store(path, policy))

        yield opened


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()
