"""Arguments that mean something here, checked before a command sees them, and options that many commands have."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import click

from kmp_smsd.cli.failures import NO_PERMISSION, Failed
from kmp_smsd.cli.settings import Settings
from kmp_smsd.domain.identifiers import APP_ID_RULE, KEY_ID_RULE, is_app_id, is_key_id
from kmp_smsd.domain.shown import shown


class NewMdnType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """An MDN as people write it, made canonical by the configured numbering plan."""

    name = "MDN"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        assert ctx is not None
        try:
            return ctx.ensure_object(Settings).config.numbering.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class MdnType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """An MDN that may be stored: as people write it, or its digits where the numbering plan has it no more."""

    name = "MDN"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        assert ctx is not None
        plan = ctx.ensure_object(Settings).config.numbering
        try:
            mdn = plan.parse_known(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if plan.is_foreign(mdn):
            click.echo(f"kmp-smsd: +{mdn} is no number of the numbering plan; it is taken as it stands", err=True)
        return mdn


class IdType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """An ID that `is_one` accepts; `rule` tells a person which those are."""

    def __init__(self, name: str, is_one: Callable[[str], bool], rule: str) -> None:
        self.name = name
        self._is_one = is_one
        self._rule = rule

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not self._is_one(value):
            self.fail(f"'{shown(value)}': {self._rule}", param, ctx)
        return value


class WordsType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """What a person writes for others to read."""

    name = "TEXT"

    def __init__(self, characters_max: int) -> None:
        self._characters_max = characters_max

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = value.strip()
        if not (text and text.isprintable() and len(text) <= self._characters_max):
            self.fail(f"'{shown(value)}': write 1 to {self._characters_max} printable characters", param, ctx)
        return text


class _Permitted(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """Where click takes a file, but one that we may not read is no wrong argument: another user may give the same."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            _check_permission(value)
            raise


class FilePath(_Permitted, click.Path):
    """A path as click takes it."""


class OpenFile(_Permitted, click.File):
    """A file as click opens it."""


def _check_permission(path: str) -> None:
    """Raise Failed where we may not read `path`, or not even see whether it is there."""
    try:
        os.stat(path)
        forbidden = not os.access(path, os.R_OK)
    except OSError as error:
        forbidden = isinstance(error, PermissionError)
    if forbidden:
        sentence = f"{shown(path)}: permission denied: run this as root, or as a user who may read it"
        raise Failed(sentence, NO_PERMISSION)


class SecondsType(click.FloatRange):
    """A time to wait, at most a day."""

    def __init__(self) -> None:
        super().__init__(min=0, max=86_400)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):  # no comparison with it is true
            self.fail(f"{value!r} is not a valid float", param, ctx)
        return seconds


NEW_MDN, MDN = NewMdnType(), MdnType()
KEY_ID, APP_ID = IdType("KEY_ID", is_key_id, KEY_ID_RULE), IdType("APP", is_app_id, APP_ID_RULE)
PERSON, REASON = WordsType(64), WordsType(200)
NUMBER = click.IntRange(1, 2**63 - 1)  # of a row, as SQLite counts
SECONDS = SecondsType()

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
