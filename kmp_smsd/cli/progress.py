"""How far a long command is, for a person who watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click


def is_lively(stream: TextIO) -> bool:
    """Whether what is written there may move and have colours: on a terminal that can, before a person who wants it."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """What is to be told the steps done and the steps in all; None where nobody watches standard error."""
    if not is_lively(sys.stderr):
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr, show_pos=False) as bar:

        def told(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield told
