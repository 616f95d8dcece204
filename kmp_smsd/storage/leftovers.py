"""What SQLite leaves in its file although it was deleted: copies in the unused middle of a page.

`secure_delete` overwrites what is deleted. But a page that is rebuilt, because an entry did not fit into it, may keep
copies of entries between the cells' pointers and their content; tried: so was one erased number in a thousand. Nothing
reads those octets. Here they are overwritten in the file itself, under conditions that `clear_leftovers` names.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kmp_smsd.storage.descriptors import kept_descriptor

log = logging.getLogger(__name__)

_CHUNK_OCTETS = 1 << 20
_HEADER = struct.Struct(">BHHHB")  # of a b-tree page: kind, first free block, cells, their begin, fragments
_HEADER_OCTETS = {2: 12, 5: 12, 10: 8, 13: 8}  # by kind: inner and leaf pages of indexes and tables
_FIRST_PAGE = 100  # the file's own header, before that of its first page
# In a page that is none of a b-tree, the first octet is the highest of a page number: 0 or 1 in files below this.
_PAGES_MAX = 2 << 24
_LARGEST_ROOT = 52  # in the file's header; not 0 where there are pages of pointers, for `auto_vacuum`: we make none

_warned: set[Path] = set()


def all_pages(path: Path) -> range:
    """The offsets of all pages of the file; of none, and that is warned of once, where pages cannot be told apart.

    Then copies stay.
    """
    descriptor = kept_descriptor(path)
    if not _told_apart(descriptor):
        if path not in _warned:
            _warned.add(path)
            log.warning(
                "%s is above 64 GiB or set to auto_vacuum: copies of erased numbers may stay in unused parts of it",
                path,
                extra={"event": "leftovers_stay", "path": str(path)},
            )
        return range(0)
    return range(0, os.fstat(descriptor).st_size, _page_octets(descriptor))


def find_leftovers(path: Path, offsets: Iterable[int], stopping: Callable[[], bool] = lambda: False) -> list[int]:
    """Those of the pages at `offsets` that have something in their unused middle. May run beside writers.

    Ends early once `stopping`.
    """
    descriptor = kept_descriptor(path)
    octets = _page_octets(descriptor)
    pages = _pages(descriptor, _runs(offsets, octets), octets, stopping)
    return [offset for offset, page in pages if _has_leftovers(page, offset)]


def clear_leftovers(path: Path, offsets: Sequence[int]) -> None:
    """Overwrite the unused middle of these pages with zeros, durably.

    The caller holds SQLite's write lock and has seen since that the write-ahead log is empty, so that the file alone is
    the database; and has another connection commit before writers may go on, so that none of them keeps an old page in
    its cache.
    """
    descriptor = kept_descriptor(path)
    if not _told_apart(descriptor):
        return
    octets = _page_octets(descriptor)
    for offset in offsets:
        middle = _middle(os.pread(descriptor, octets, offset), offset)
        if middle is not None:  # zeros too: they may be in memory alone, after a sync that failed
            begin, end = middle
            os.pwrite(descriptor, bytes(end - begin), offset + begin)
    os.fsync(descriptor)


def _has_leftovers(page: bytes, offset: int) -> bool:
    if (middle := _middle(page, offset)) is None:
        return False
    begin, end = middle
    return page[begin:end] != bytes(end - begin)


def _middle(page: bytes, offset: int) -> tuple[int, int] | None:
    """Where the unused middle of a page begins and ends; None where there is none."""
    start = _FIRST_PAGE if offset == 0 else 0
    if len(page) < start + _HEADER.size or page[start] not in _HEADER_OCTETS:
        return None
    kind, _, cells, content, _ = _HEADER.unpack_from(page, start)
    begin = start + _HEADER_OCTETS[kind] + 2 * cells
    return (begin, content) if begin < content <= len(page) else None


def _told_apart(descriptor: int) -> bool:
    """Whether the first octet of a page says that it is one of a b-tree."""
    (largest_root,) = struct.unpack(">I", os.pread(descriptor, 4, _LARGEST_ROOT))
    return largest_root == 0 and os.fstat(descriptor).st_size <= _page_octets(descriptor) * _PAGES_MAX


def _runs(offsets: Iterable[int], octets: int) -> Iterator[tuple[int, int]]:
    """Where pages that follow each other begin, and where they end: at most as many as are read at once."""
    begin = end = -1
    for offset in offsets:
        if offset != end or end - begin >= _CHUNK_OCTETS:
            if end > begin:
                yield begin, end
            begin = offset
        end = offset + octets
    if end > begin:
        yield begin, end


def _pages(
    descriptor: int, runs: Iterable[tuple[int, int]], octets: int, stopping: Callable[[], bool]
) -> Iterator[tuple[int, bytes]]:
    for begin, end in runs:
        if stopping():
            return
        chunk = os.pread(descriptor, end - begin, begin)
        whole = len(chunk) - len(chunk) % octets  # a disk that runs full may end the file inside a page, for a while
        for at in range(0, whole, octets):
            yield begin + at, chunk[at : at + octets]


def _page_octets(descriptor: int) -> int:
    (octets,) = struct.unpack(">H", os.pread(descriptor, 2, 16))
    return 65_536 if octets == 1 else int(octets)
