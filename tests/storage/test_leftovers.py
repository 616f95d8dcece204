"""Which octets of a file nobody reads: those between the pointers of a b-tree page and its content."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kmp_smsd.storage import leftovers
from kmp_smsd.storage.leftovers import all_pages, clear_leftovers, find_leftovers

OCTETS = 512
CONTENT = 400
HEADERS = {2: 12, 5: 12, 10: 8, 13: 8}  # https://sqlite.org/fileformat2.html#b_tree_pages


def a_page(kind: int = 13, *, cells: int = 3, content: int = CONTENT, at: int | None = None, start: int = 0) -> bytes:
    """A page of that kind; nothing is in its unused middle, but an octet `at` some place."""
    header = struct.pack(">BHHHB", kind, 0, cells, content, 0).ljust(HEADERS.get(kind, 8), b"\x01")
    page = bytearray(b"\x07" * start + header + b"\x07" * (2 * cells))
    page += bytes(max(0, min(content, OCTETS) - len(page)))
    page += b"\x07" * (OCTETS - len(page))
    if at is not None:
        page[at] = 0x55
    return bytes(page)


def first_page(*, largest_root: int = 0, at: int | None = None) -> bytes:
    page = bytearray(a_page(start=100, at=at))
    page[16:18] = OCTETS.to_bytes(2, "big")
    page[52:56] = largest_root.to_bytes(4, "big")
    return bytes(page)


def found(path: Path) -> list[int]:
    return find_leftovers(path, all_pages(path))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(*pages: bytes) -> Path:
        path = tmp_path / "kmp.db"
        path.write_bytes(b"".join(pages))
        return path

    return written


@pytest.mark.parametrize("kind", HEADERS)
def test_only_what_is_in_the_middle_of_a_page_is_found_and_cleared(write: Callable[..., Path], kind: int) -> None:
    begin = HEADERS[kind] + 2 * 3
    pages = [a_page(kind, at=at) for at in (begin - 1, begin, CONTENT - 1, CONTENT)]
    path = write(first_page(), *pages)
    assert found(path) == [2 * OCTETS, 3 * OCTETS]
    clear_leftovers(path, range(0, 5 * OCTETS, OCTETS))
    assert path.read_bytes() == first_page() + pages[0] + a_page(kind) * 2 + pages[3]


@pytest.mark.parametrize("at", [100 + 8 + 2 * 3, CONTENT - 1])
def test_first_page_begins_behind_the_header_of_the_file(write: Callable[..., Path], at: int) -> None:
    path = write(first_page(at=at), a_page())
    assert found(path) == [0]
    clear_leftovers(path, [0])
    assert path.read_bytes() == first_page() + a_page()
    assert found(write(first_page(at=at))) == [0]  # and last
    assert found(write(first_page(at=99))) == []


@pytest.mark.parametrize(
    "page",
    [a_page(0, at=200), a_page(1, at=200), a_page(content=14), a_page(content=OCTETS + 1), a_page(cells=400)],
    ids=["unused", "overflow", "full", "too far", "too many"],
)
def test_page_that_has_no_middle_stays_as_it_is(write: Callable[..., Path], page: bytes) -> None:
    path = write(first_page(), page, a_page())
    assert found(path) == []
    clear_leftovers(path, [OCTETS])
    assert path.read_bytes() == first_page() + page + a_page()


def test_page_without_content_is_all_middle(write: Callable[..., Path]) -> None:
    path = write(first_page(), a_page(cells=0, content=OCTETS, at=OCTETS - 1))
    assert found(path) == [OCTETS]


def test_file_may_have_pages_of_64_kib(write: Callable[..., Path]) -> None:
    large = 65_536
    first = bytearray(first_page().ljust(large, b"\0"))
    first[16:18] = b"\0\1"
    path = write(bytes(first), a_page(at=200).ljust(large, b"\0"), a_page(at=200).ljust(large, b"\0"))
    assert found(path) == [large, 2 * large]


def test_only_pages_that_are_asked_for_are_looked_through_until_it_stops(write: Callable[..., Path]) -> None:
    path = write(first_page(), *[a_page(at=200)] * 4)
    assert find_leftovers(path, [OCTETS, 3 * OCTETS, 9 * OCTETS]) == [OCTETS, 3 * OCTETS]  # it ends before the last
    looks = itertools.count()
    assert find_leftovers(path, [OCTETS, 3 * OCTETS], lambda: next(looks) >= 1) == [OCTETS]
    assert find_leftovers(path, all_pages(path), lambda: True) == []


def test_pages_that_cannot_be_told_apart_stay_and_that_is_said_once(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leftovers, "_warned", set())
    monkeypatch.setattr(leftovers, "_PAGES_MAX", 3)
    told_apart = [first_page(), a_page(at=200), a_page()]
    assert found(write(*told_apart)) == [OCTETS]
    assert not caplog.records
    for pages in ([*told_apart, a_page()], [first_page(largest_root=2), *told_apart[1:]]):
        path = write(*pages)
        assert found(path) == []
        clear_leftovers(path, [OCTETS])
        assert path.read_bytes() == b"".join(pages)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{path} is above 64 GiB or set to auto_vacuum" in caplog.text


def test_what_was_cleared_is_on_the_disk(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(first_page(), a_page(at=200))
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes()))
    clear_leftovers(path, [OCTETS])
    assert synced == [first_page() + a_page()]
