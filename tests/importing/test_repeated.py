from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.importing.repeated import Repeated
from tests.mounting import require_root


@given(st.lists(st.text("aAbB.", min_size=1, max_size=2), max_size=40))
def test_repeated_are_the_same_that_a_dictionary_finds(texts):
    first, folded = {}, {}
    equal, cases = [], []
    with Repeated() as repeated:
        for line, text in enumerate(texts, start=2):
            repeated.add(line, text)
            if first.setdefault(text, line) != line:
                equal.append((line, first[text]))
            if texts[folded.setdefault(text.lower(), line) - 2] != text:
                cases.append((line, folded[text.lower()]))
        assert sorted(repeated.equal()) == equal
        assert sorted(repeated.differing_in_case()) == cases


def test_full_temporary_directory_is_an_os_error_with_a_sentence():
    with Repeated() as repeated:
        repeated._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(
            OSError, match="where the file's identifiers are sorted: database or disk is full: make room there"
        ):
            _fill(repeated)


SORT = """
import shutil, sys
from kmp_smsd.importing.repeated import Repeated
with Repeated() as repeated:
    try:
        for line in range(int(sys.argv[1])):
            repeated.add(line, f"{line % int(sys.argv[3]):064}")
        list(repeated.equal())
    except OSError as error:
        print(error)
    print(shutil.disk_usage(sys.argv[2]).free)
"""


@pytest.fixture
def small(tmp_path):
    require_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def sort(small, megabytes, lines, different=150_000):
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", small], check=True)
    return subprocess.run(  # SQLite looks for the directory once in a process
        [sys.executable, "-c", SORT, str(lines), small, str(different)],
        env=os.environ | {"TMPDIR": str(small)}, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip


def test_room_is_left_where_identifiers_are_sorted(small):
    said, free = sort(small, 90, 1_000_000)
    assert re.fullmatch(
        rf"{small} has \d+ MB left, and to sort the file's identifiers there takes \d+ MB besides what stays free:"
        " make room there, or name another directory in TMPDIR",
        said,
    )
    assert int(free) > 50_000_000


def test_identifiers_that_are_all_there_again_take_more(small):
    said, free = sort(small, 110, 300_000)
    assert said.startswith(f"{small} has ")
    assert int(free) > 50_000_000
    assert len(sort(small, 200, 300_000)) == 1


@pytest.mark.parametrize(("lines", "different"), [(100_000, 100_000), (50_000, 25_000)])
def test_few_identifiers_take_no_room(small, lines, different):
    (small / "ballast").write_bytes(bytes(38_000_000))
    assert len(sort(small, 40, lines, different)) == 1


def test_few_identifiers_that_are_all_there_again_take_some(small):
    said, free = sort(small, 24, 100_000, 50_000)
    assert said.startswith(f"{small} has ")
    assert int(free) > 20_000_000


def _fill(repeated):
    for line in range(100_000):
        repeated.add(line, "x" * 64)
