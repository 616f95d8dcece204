"""A link that has begun to connect."""

from __future__ import annotations

import pytest

from tests.service.link.stage import Smscs


@pytest.fixture
def smsc():
    started = Smscs()
    started.link.startService()
    return started
