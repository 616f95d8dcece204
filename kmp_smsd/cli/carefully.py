"""How commands act: where a person agrees, on each of several things although others fail, and when interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from kmp_smsd.cli.failures import INTERRUPTED, Failed


class Interrupt:
    """Takes SIGINT as Python does, by a KeyboardInterrupt, and tells whether one `came`.

    Some libraries make an error of their own of one that comes while they are imported.
    """

    came = False

    def __call__(self, *_: object) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt


interrupt = Interrupt()


def confirm(question: str, *, yes: bool) -> None:
    """Go on only where a person agrees, or has agreed beforehand with --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say --yes to do it", click.get_current_context())
    if not click.confirm(question, err=True):
        raise Failed("nothing was changed")


def each(ids: tuple[Any, ...], action: Any, then: Callable[[], None] = lambda: None) -> None:
    """Do `action` for each of several, `then` once after all; what is not possible is told and spoils the exit code."""
    from kmp_smsd.storage.errors import NotPossible

    refused = 0
    for one in dict.fromkeys(ids):
        try:
            action(one)
        except NotPossible as error:
            click.echo(f"kmp-smsd: {error}", err=True)
            refused += 1
    then()
    if refused:
        raise click.exceptions.Exit(1)


@contextmanager
def interrupt_tells(left: Callable[[], str]) -> Iterator[None]:
    """Say what an interrupt leaves behind, which `left` knows by then."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failed(f"interrupted: {left()}", INTERRUPTED) from None
