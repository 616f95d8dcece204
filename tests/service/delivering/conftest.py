"""A deliverer by hand, and the vendor of its keys."""

from __future__ import annotations

import pytest

from tests.service.delivering.stage import At
from tests.service.vendor import Vendor
from tests.storage.fresh import new_database


@pytest.fixture(scope="module")
def vendor():
    return Vendor()


@pytest.fixture
def at(tmp_path, vendor):
    path = tmp_path / "kmp.db"
    new_database(path)
    one = At(path, vendor)
    yield one
    one.deliverer.close()
    one.store.close()
