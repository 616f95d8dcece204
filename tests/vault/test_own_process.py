from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from kmp_smsd.vault import own_process

BEGUN = """
import sys
from kmp_smsd.vault.own_process import end_with_parent
end_with_parent(int(sys.argv[1]))
"""


def test_process_whose_parent_ended_before_it_could_ask_for_that_is_killed() -> None:
    for parent, ended in ((os.getpid(), 0), (0, -signal.SIGKILL)):
        assert subprocess.run([sys.executable, "-c", BEGUN, str(parent)], check=False).returncode == ended


def test_kernel_that_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "_PR_SET_DUMPABLE", -1)  # which no kernel knows
    with pytest.raises(OSError, match="core dumps cannot be forbidden") as caught:
        own_process.hide_memory()
    assert caught.value.errno == errno.EINVAL
