"""[numbering] of kmp-smsd.toml, and the files that it includes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from kmp_smsd.config.section import LIST, ConfPath, Reload, Section, written_as
from kmp_smsd.domain.numbering import E164_DIGITS_MAX, NumberRange


class Range(Section):
    """Numbers that begin alike and have the same length."""

    prefix: str = Field(description="First digits, the country code included, without + or 00.")
    digits: int = Field(ge=2, le=E164_DIGITS_MAX, description="Digits of the whole number, the country code included.")
    name: str = Field(max_length=80, description="What the range is for.")

    @model_validator(mode="after")
    def _numbers_can_lie_in_it(self) -> Self:
        _ = self.number_range
        return self

    @property
    def number_range(self) -> NumberRange:
        return NumberRange(self.prefix, self.digits, self.name)


Ranges = Annotated[tuple[Range, ...], LIST]


class Numbering(Section):
    """Which numbers are legal MDNs: those in a range of the right length. The longest matching prefix decides."""

    reload: ClassVar[Reload] = Reload.AT_ONCE
    role: ClassVar[str] = "intake"

    country_code: Annotated[str, written_as("[1-9][0-9]{0,2}", "1 to 3 digits, without + or 00")] = Field(
        description="Our country code, put before national numbers."
    )
    include: Annotated[tuple[ConfPath, ...], LIST] = Field(
        default=(), description="Files with ranges; numbering/cn.toml and numbering/nanp.toml come with the daemon."
    )
    ranges: Ranges = Field(
        default=(),
        description="More ranges; prefix and digits, which is the length of the whole number, count the country code.",
    )


class NumberingFile(Section):
    """A file that [numbering] includes."""

    ranges: Ranges = Field(min_length=1, description="The ranges, as in [numbering].")
