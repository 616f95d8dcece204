"""Whether somebody else has the database open, asked without giving up a lock of SQLite's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kmp_smsd.storage import open_store
from kmp_smsd.storage.descriptors import kept_descriptor, others_have_open
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


def open_files() -> list[str]:
    return [os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()]


def test_file_has_one_descriptor_for_each_way_until_it_is_deleted(tmp_path: Path) -> None:
    """To close one before that would give up SQLite's locks on it."""
    file, other = tmp_path / "file", tmp_path / "other"
    file.touch()
    other.touch()
    first, appending = kept_descriptor(file), kept_descriptor(file, os.O_RDWR | os.O_APPEND)
    assert first != appending
    assert os.write(appending, b"x") == 1
    assert (kept_descriptor(file), kept_descriptor(file, os.O_RDWR | os.O_APPEND)) == (first, appending)
    kept_descriptor(other)
    assert [name for name in open_files() if name.startswith(str(file))] == [str(file)] * 2
    file.unlink()
    for _ in range(2):
        kept_descriptor(other)
    assert [name for name in open_files() if name.startswith(str(tmp_path))] == [str(other)]
