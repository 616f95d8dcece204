from __future__ import annotations

import pytest

from tests.config.config_files import Files


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)
