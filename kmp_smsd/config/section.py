"""What all sections of the configuration files share: the model, and how common options are read.

A unit stands in an option's name (``_s`` seconds, ``_octets``). A model is frozen and knows the faults of its own
section; what concerns several sections or files is in load.py.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


class Reload(StrEnum):
    """What ``kmp-smsd reload`` does with a changed option."""

    AT_ONCE = "applied at once"
    LINK = "the link is made anew"
    PLATFORM = "the platform is served anew"
    RESTART = "needs a restart"


class Section(BaseModel):
    """A table of a file. Values are taken as they are written: ``"10"`` is no number and ``1`` is no text.

    `reload` is what becomes of its options when they change, and `role` the one that uses them, where one alone does;
    of a single option that differs, its ``json_schema_extra`` says so.
    """

    reload: ClassVar[Reload] = Reload.RESTART
    role: ClassVar[str] = ""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False)


def written_as(pattern: str, words: str) -> AfterValidator:
    """Like Field(pattern=...), but the fault says in words what is expected."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"write {words}")
        return value

    return AfterValidator(check)


def not_below(lower: str) -> AfterValidator:
    """This option is at least the one named `lower`, which stands before it in the model."""

    def check(value: float, info: ValidationInfo) -> float:
        if value < info.data.get(lower, value):
            raise ValueError(f"{value:g} is less than {lower}")
        return value

    return AfterValidator(check)


def _path(value: object, info: ValidationInfo) -> Path:
    """Relative paths are relative to the file that names them, whose directory is the validation's context."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("write a path in quotes")
    directory: Path = (info.context or {})["directory"]
    return directory / value


LIST = Field(strict=False)  # a list in the file is a tuple in the value
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}"  # of a link, a platform or a gateway
NAME_IN_WORDS = "1 to 32 letters, digits, - and _, a letter or digit first"
ConfPath = Annotated[Path, BeforeValidator(_path)]
