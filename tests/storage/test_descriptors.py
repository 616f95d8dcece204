"""Whether somebody else has the database open, asked without giving up a lock of SQLite's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kmp_smsd.storage import open_store
from kmp_smsd.storage.descriptors import others_have_open
from kmp_smsd.storage.migrating import migrate

HOLD = """
import sys
from pathlib import Path
from kmp_smsd.storage import open_store
with open_store(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_seen_for_as_long_as_it_has_the_database_open(tmp_path: Path) -> None:
    path = tmp_path / "kmp.db"
    migrate(path)
    with open_store(path):
        assert not others_have_open(path)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", HOLD, path], **pipes) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"open\n"
            assert others_have_open(path)
            other.communicate()
        assert not others_have_open(path)
