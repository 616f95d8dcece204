"""Numbers of subscribers: one canonical E.164 form, judged by ranges that the operator configures (docs/rules.rst)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.shown import shown

E164_DIGITS_MAX = 15
TON_UNKNOWN, TON_INTERNATIONAL, TON_NATIONAL = 0, 1, 2  # SMPP 3.4, section 5.2.5; every other type is never an MDN

_SEPARATORS = str.maketrans("", "", " -.()\u00a0")  # what people put between digits


@dataclass(frozen=True, slots=True)
class NumberRange:
    """Numbers that begin with `prefix` and have `digits` digits; both count the country code.

    Raises ValueError with a sentence for a range in which no number can lie.
    """

    prefix: str
    digits: int
    name: str

    def __post_init__(self) -> None:
        if not (self.prefix.isascii() and self.prefix.isdigit()) or self.prefix.startswith("0"):
            raise ValueError(f'"{self.prefix}" is not a prefix: write digits, the country code first, without + or 00')
        if not len(self.prefix) < self.digits <= E164_DIGITS_MAX:
            raise ValueError(f"{self.digits} is not between {len(self.prefix) + 1} and {E164_DIGITS_MAX}")


@dataclass(frozen=True, slots=True)
class AddressRules:
    """How one SMSC writes a source address. Interconnects disagree, so each link has its own."""

    unknown_ton: Literal["international", "national", "refuse"] = "international"
    international_prefixes: tuple[str, ...] = ("+", "00")  # a country code never begins with 0: nothing is lost
    trunk_prefix: str = "0"  # before a national number; "" where there is none
    accepted_npi: frozenset[int] = frozenset({0, 1})  # unknown and E.164. 6 is E.212: an IMSI is not an MDN


@dataclass(frozen=True, slots=True)
class NumberingPlan:
    """The legal MDNs: the range with the longest matching prefix says how many digits a number must have.

    Raises ValueError with a sentence when two ranges have one prefix, or the country code is none.
    """

    country_code: str
    ranges: tuple[NumberRange, ...]
    _by_prefix: dict[str, NumberRange] = field(init=False, repr=False, compare=False)
    _prefix_lengths: tuple[int, ...] = field(init=False, repr=False, compare=False)  # the longest first

    def __post_init__(self) -> None:
        code = self.country_code
        if not (code.isascii() and code.isdigit() and len(code) <= 3) or code.startswith("0"):
            raise ValueError(f'"{code}" is not a country code: write 1 to 3 digits without + or 00')
        by_prefix: dict[str, NumberRange] = {}
        for entry in self.ranges:
            if entry.prefix in by_prefix:
                raise ValueError(f"prefix {entry.prefix} is given twice")
            by_prefix[entry.prefix] = entry
        object.__setattr__(self, "_by_prefix", by_prefix)
        object.__setattr__(self, "_prefix_lengths", tuple(sorted({len(prefix) for prefix in by_prefix}, reverse=True)))

    def range_of(self, number: str) -> NumberRange | None:
        """The range that decides about `number` (digits, country code first), whatever its length."""
        for length in self._prefix_lengths:
            if (entry := self._by_prefix.get(number[:length])) is not None:
                return entry
        return None

    def canonical(self, source_addr: str, ton: int, npi: int, rules: AddressRules) -> str | None:
        """The MDN as E.164 digits without ``+``, or None when this address is not a legal one.

        `source_addr`, `ton` and `npi` are as received (SMPP 3.4, sections 5.2.5, 5.2.6 and 5.2.8). Alphanumeric,
        network-specific, subscriber and abbreviated numbers are never an MDN; nothing is cut or guessed.
        """
        if npi not in rules.accepted_npi or ton > TON_NATIONAL:
            return None
        # A national number that begins like an international one is settled by its type; only "+" overrules that.
        if source_addr.startswith(rules.international_prefixes):  # all at once: most have none
            for prefix in rules.international_prefixes:
                if source_addr.startswith(prefix) and (ton != TON_NATIONAL or prefix == "+"):
                    return self._legal(source_addr[len(prefix) :])
        if ton == TON_INTERNATIONAL or (ton == TON_UNKNOWN and rules.unknown_ton == "international"):
            return self._legal(source_addr)
        if ton == TON_UNKNOWN and rules.unknown_ton == "refuse":
            return None
        return self._legal(self.country_code + source_addr.removeprefix(rules.trunk_prefix))

    def parse(self, text: str) -> str:
        """The MDN that a person wrote: ``+86 139 1234 5678``, ``0086-139...``, or national, where one reading is legal.

        Raises ValueError with a sentence.
        """
        written = text.translate(_SEPARATORS).strip()
        number = written.removeprefix("+") if written.startswith("+") else written.removeprefix("00")
        if not number:
            raise ValueError("the number is empty")
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"'{shown(text)}' is not a number: write digits, as in +{self.country_code}...")
        readings = [number] if number != written else [number, self.country_code + number]
        legal = [reading for reading in readings if self._legal(reading)]
        if len(legal) == 1:
            return legal[0]
        if legal:
            raise ValueError(f"'{shown(text)}' may be +{legal[0]} or +{legal[1]}: write the one that is meant, with +")
        raise ValueError(self._why_not(readings))

    def parse_known(self, text: str) -> str:
        """A number that may stand somewhere already, as `parse`; or its digits where it is in the plan no more.

        A ``+`` before them rules out that they are taken for a national number. Raises ValueError with a sentence.
        """
        try:
            return self.parse(text)
        except ValueError:
            digits = text.removeprefix("+")
            if not self.is_foreign(digits):
                raise
            return digits

    def is_foreign(self, number: str) -> bool:
        """Whether `number` is E.164 digits of no legal MDN: another plan, such as an earlier one, may have had it."""
        digits = number.isascii() and number.isdigit() and not number.startswith("0")
        return digits and len(number) <= E164_DIGITS_MAX and self._legal(number) is None

    def _legal(self, number: str) -> str | None:
        # isdigit() alone accepts the digits of every script.
        if not (number.isascii() and number.isdigit()):
            return None
        entry = self.range_of(number)
        return number if entry is not None and len(number) == entry.digits else None

    def _why_not(self, readings: list[str]) -> str:
        for reading in readings:
            if (entry := self.range_of(reading)) is not None:
                kind = f"a number in the range {entry.prefix} ({entry.name})"
                return f"+{shown(reading)} has {counted(len(reading), 'digit')}, {kind} has {entry.digits}"
        return f"+{shown(readings[0])} is in no range of the numbering plan"
