from __future__ import annotations

import os
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

from kmp_smsd.vault import own_process
from tests import recording

# Times for people are local ones.
os.environ["TZ"] = "UTC"
time.tzset()

# How fast a test is depends on what else the machine does.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last: judges the whole run, so it comes after all other tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session", autouse=True)
def _limits_stay() -> Iterator[None]:
    """Commands that run in our own process would forbid core dumps to all that is begun after them, for good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_process, "resource", SimpleNamespace(RLIMIT_CORE=None, setrlimit=lambda *_: None))
        yield


@pytest.fixture(scope="session", autouse=True)
def _record_what_we_send() -> Iterator[None]:
    yield from recording.recorded()
