from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kmp_smsd.domain.numbering import AddressRules, NumberingPlan, NumberRange

CHINA = NumberingPlan(
    "86",
    (
        NumberRange("8613", 13, "mobile"),
        NumberRange("8614", 13, "mobile"),
        NumberRange("86146", 15, "IoT"),
        NumberRange("861064", 15, "IoT"),
    ),
)
# Under this plan ten digits may be a national number, and eleven the same number in full.
NANP = NumberingPlan("1", (NumberRange("1", 11, "North America"),))
RULES = AddressRules()
STRICT = AddressRules(unknown_ton="refuse", international_prefixes=(), trunk_prefix="")

digits = st.text("0123456789", max_size=20)
addresses = st.one_of(
    digits, digits.map("+".__add__), digits.map("00".__add__), digits.map("86".__add__), st.text(max_size=21)
)
rules = st.builds(
    AddressRules,
    unknown_ton=st.sampled_from(["international", "national", "refuse"]),
    international_prefixes=st.sampled_from([(), ("+",), ("00",), ("+", "00"), ("+", "011")]),
    trunk_prefix=st.sampled_from(["", "0", "1"]),
    accepted_npi=st.frozensets(st.integers(0, 18)),
)


@pytest.mark.parametrize(
    ("address", "ton", "npi"),
    [
        ("8613912345678", 1, 1),
        ("+8613912345678", 1, 1),
        ("008613912345678", 1, 1),
        ("8613912345678", 1, 0),
        ("13912345678", 2, 1),
        ("013912345678", 2, 1),
        ("+8613912345678", 2, 1),
        ("8613912345678", 0, 1),
        ("+8613912345678", 0, 0),
        ("008613912345678", 0, 0),
    ],
)
def test_every_way_to_write_a_number_gives_one_mdn(address, ton, npi):
    assert CHINA.canonical(address, ton, npi, RULES) == "8613912345678"


@pytest.mark.parametrize(
    ("address", "ton", "npi"),
    [
        ("", 0, 0),
        ("", 1, 1),
        ("+", 1, 1),
        ("00", 1, 1),
        ("++8613912345678", 1, 1),
        ("+008613912345678", 1, 1),
        ("13912345678", 1, 1),
        ("8613912345678", 2, 1),
        ("008613912345678", 2, 1),
        ("0013912345678", 2, 1),
        ("861391234567", 1, 1),
        ("86139123456789", 1, 1),
        ("8613912345678901234", 1, 1),
        ("8613912345678", 3, 1),
        ("8613912345678", 4, 1),
        ("13912345678", 3, 1),
        ("13912345678", 4, 1),
        ("+8613912345678", 5, 1),
        ("13912345678", 6, 1),
        ("8613912345678", 5, 0),
        ("8613912345678", 6, 1),
        ("8613912345678", 7, 1),
        ("8613912345678", 255, 1),
        ("460001234567890", 1, 6),
        ("8613912345678", 1, 6),
        ("8613912345678", 1, 14),
        ("10086", 0, 1),
        ("10086", 2, 1),
        ("KEYSYNC", 0, 0),
        ("861391234567a", 1, 1),
        ("8613912345678\n", 1, 1),
        (" 8613912345678", 1, 1),
        ("86 13912345678", 1, 1),
        ("86139123456\u00b2", 1, 1),
        ("861391234567\u0668", 1, 1),
        ("8613912345678\x00", 1, 1),
        ("447700900123", 1, 1),
    ],
)
def test_address_that_is_no_legal_mdn_is_refused(address, ton, npi):
    assert CHINA.canonical(address, ton, npi, RULES) is None


def test_longest_prefix_decides_between_11_and_13_digit_ranges():
    assert CHINA.canonical("14512345678", 2, 1, RULES) == "8614512345678"
    assert CHINA.canonical("14612345678", 2, 1, RULES) is None
    assert CHINA.canonical("1461234567890", 2, 1, RULES) == "861461234567890"
    assert CHINA.canonical("1451234567890", 2, 1, RULES) is None
    assert CHINA.canonical("1064123456789", 2, 1, RULES) == "861064123456789"


def test_unknown_type_of_number_is_read_as_the_link_says():
    read = {
        reading: CHINA.canonical("13912345678", 0, 1, AddressRules(unknown_ton=reading))
        for reading in ("international", "national", "refuse")
    }
    assert read == {"international": None, "national": "8613912345678", "refuse": None}


def test_explicit_prefix_says_more_than_an_unknown_type():
    assert CHINA.canonical("008613912345678", 0, 1, AddressRules(unknown_ton="national")) == "8613912345678"
    assert CHINA.canonical("+8613912345678", 0, 1, AddressRules(unknown_ton="refuse")) == "8613912345678"


def test_prefixes_that_a_link_does_not_use_are_refused():
    assert CHINA.canonical("+8613912345678", 1, 1, STRICT) is None
    assert CHINA.canonical("008613912345678", 1, 1, STRICT) is None
    assert CHINA.canonical("013912345678", 2, 1, STRICT) is None
    assert CHINA.canonical("8613912345678", 0, 1, STRICT) is None
    assert CHINA.canonical("8613912345678", 1, 1, STRICT) == "8613912345678"


def test_other_trunk_and_international_prefixes_serve_other_countries():
    american = AddressRules(international_prefixes=("+", "011"), trunk_prefix="1")
    assert NANP.canonical("2025550123", 2, 1, american) == "12025550123"
    assert NANP.canonical("12025550123", 2, 1, american) == "12025550123"
    assert NANP.canonical("01112025550123", 0, 1, american) == "12025550123"


@given(addresses, st.integers(0, 255), st.integers(0, 255), rules)
@example("8613912345678", 1, 1, RULES)
def test_what_is_accepted_is_a_number_of_the_plan_and_made_of_what_was_sent(address, ton, npi, rules):
    mdn = CHINA.canonical(address, ton, npi, rules)
    if mdn is None:
        return
    entry = CHINA.range_of(mdn)
    assert mdn.isascii()
    assert mdn.isdigit()
    assert entry is not None
    assert len(mdn) == entry.digits <= 15
    assert mdn.startswith(entry.prefix)
    assert npi in rules.accepted_npi
    assert ton <= 2
    assert address.endswith(mdn.removeprefix("86"))
    assert CHINA.canonical(mdn, 1, npi, rules) == mdn


@given(st.sampled_from(CHINA.ranges), st.data())
def test_every_number_of_a_range_is_accepted_in_every_form(entry, data):
    rest = data.draw(
        st.text("0123456789", min_size=entry.digits - len(entry.prefix), max_size=entry.digits - len(entry.prefix))
    )
    mdn = entry.prefix + rest
    if CHINA.range_of(mdn) != entry:  # a longer prefix owns this one
        return
    forms = [(mdn, 1), ("+" + mdn, 1), ("00" + mdn, 1), (mdn[2:], 2), ("0" + mdn[2:], 2), (mdn, 0)]
    assert {CHINA.canonical(address, ton, 1, RULES) for address, ton in forms} == {mdn}
    assert {
        CHINA.parse(text) for text in (mdn, "+" + mdn, "00" + mdn, mdn[2:], f"+{mdn[:2]} {mdn[2:5]}-{mdn[5:]}")
    } == {mdn}


@given(st.lists(st.text("12", min_size=1, max_size=5), unique=True), st.text("12", max_size=6))
def test_range_of_is_the_longest_prefix(prefixes, number):
    plan = NumberingPlan("1", tuple(NumberRange(prefix, 15, "") for prefix in prefixes))
    matching = [prefix for prefix in prefixes if number.startswith(prefix)]
    found = plan.range_of(number)
    assert (found.prefix if found else None) == max(matching, key=len, default=None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the number is empty"),
        (" + ", "the number is empty"),
        ("meter", "'meter' is not a number: write digits, as in +86..."),
        ("+86 139 1234 567x", "'+86 139 1234 567x' is not a number: write digits, as in +86..."),
        ("+861391234567\uff18", "'+861391234567\uff18' is not a number: write digits, as in +86..."),
        ("+86+13912345678", "'+86+13912345678' is not a number: write digits, as in +86..."),
        ("+86 139 1234 567", "+861391234567 has 12 digits, a number in the range 8613 (mobile) has 13"),
        ("1391234567", "+861391234567 has 12 digits, a number in the range 8613 (mobile) has 13"),
        ("+44 7700 900123", "+447700900123 is in no range of the numbering plan"),
    ],
)
def test_person_who_wrote_no_mdn_is_told_why(text, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        CHINA.parse(text)


def test_number_with_two_legal_readings_is_not_guessed():
    plan = NumberingPlan("86", (*CHINA.ranges, NumberRange("139", 11, "elsewhere")))
    with pytest.raises(
        ValueError, match=r"may be \+13912345678 or \+8613912345678: write the one that is meant, with \+"
    ):
        plan.parse("139 1234 5678")
    assert plan.parse("+139 1234 5678") == "13912345678"
    assert plan.parse("+86 139 1234 5678") == "8613912345678"


@given(st.text(max_size=30))
def test_person_gets_a_number_of_the_plan_or_a_sentence(text):
    try:
        mdn = CHINA.parse(text)
    except ValueError:
        return  # any other exception fails the test
    assert CHINA.canonical(mdn, 1, 1, STRICT) == mdn


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NumberRange("+86", 13, ""), "is not a prefix"),
        (lambda: NumberRange("0086", 13, ""), "is not a prefix"),
        (lambda: NumberRange("", 13, ""), "is not a prefix"),
        (lambda: NumberRange("8613", 16, ""), "16 is not between 5 and 15"),
        (lambda: NumberRange("8613", 4, ""), "4 is not between 5 and 15"),
        (lambda: NumberingPlan("+86", ()), "is not a country code"),
        (lambda: NumberingPlan("0", ()), "is not a country code"),
        (lambda: NumberingPlan("", ()), "is not a country code"),
        (lambda: NumberingPlan("1234", ()), "is not a country code"),
        (lambda: NumberingPlan("1", (NumberRange("1", 11, "a"), NumberRange("1", 12, "b"))), "prefix 1 is given twice"),
    ],
)
def test_impossible_plan_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_plan_without_ranges_knows_no_legal_number():
    assert NumberingPlan("86", ()).canonical("8613912345678", 1, 1, RULES) is None


@given(st.from_regex("[1-9][0-9]{0,14}", fullmatch=True))
def test_stored_number_is_legal_or_foreign_and_so_can_be_named_under_every_plan(number):
    assert CHINA.is_foreign(number) == (CHINA.canonical(number, 1, 1, STRICT) is None)


@pytest.mark.parametrize(
    "text", ["", "0", "0441234", "+441234", "44 1234", "44x", "\uff14\uff14", "4" * 16, "8613912345678"]
)
def test_what_no_plan_stored_is_not_foreign(text):
    assert not CHINA.is_foreign(text)


def test_number_that_may_stand_already_need_not_be_in_the_plan_any_more():
    assert CHINA.parse_known("139 1234 5678") == "8613912345678"
    assert CHINA.parse_known("+4915112345678") == CHINA.parse_known("4915112345678") == "4915112345678"
    for text in ("", "+49 151", "1234567890123456", "abc"):
        with pytest.raises(ValueError, match=r"number|\+"):
            CHINA.parse_known(text)
