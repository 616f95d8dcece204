from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import recording


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last: judges the whole run, so it comes after all other tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session", autouse=True)
def _record_what_we_send() -> Iterator[None]:
    yield from recording.recorded()
