"""One carrier for each test file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.carrier import Carrier
from tests.sshd import require_sshd


@pytest.fixture(scope="module")
def carrier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    """Both roles run as processes of their own; a test that stops one starts it again."""
    require_sshd()
    with Carrier(tmp_path_factory.mktemp("carrier")) as one:
        one.start_role("dispatch")
        one.start_role("intake")
        yield one
        for role in one.roles:
            if role.process.poll() is None:
                assert role.stop() == 0
