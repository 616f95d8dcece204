"""What a line of the business system asks for, and what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kmp_smsd.domain.numbering import NumberingPlan, NumberRange
from kmp_smsd.importing.request_lines import read_request
from kmp_smsd.storage.requests import Add, Fault, Remove, Renumber, Request

PLAN = NumberingPlan("86", (NumberRange("8613", 13, "mobile"),))
A, B = "8613900000001", "8613900000002"
ADD = {"id": "1", "op": "add", "mdn": A, "apps": ["meter"]}


def read(line: bytes | str | dict[str, Any] | None) -> Request:
    if isinstance(line, dict):
        line = json.dumps(line)
    return read_request(line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line, PLAN)


@pytest.mark.parametrize(
    ("line", "wish"),
    [
        (ADD, Add(A, ("meter",))),
        ({**ADD, "mdn": "+86 139 0000 0001", "apps": ["b", "a", "b"]}, Add(A, ("b", "a"))),
        ({**ADD, "op": "remove"}, Remove(A, ("meter",))),
        ({"id": "1", "op": "remove", "mdn": A, "all": True}, Remove(A, None)),
        ({"id": "1", "op": "renumber", "mdn": A, "to": B}, Renumber(A, B)),
        (b'\t{ "op":"add",\r"apps":["meter"], "mdn":"13900000001","id":"1"} \r', Add(A, ("meter",))),
    ],
)
def test_line_says_what_is_wished(line: Any, wish: object) -> None:
    request = read(line)
    assert (request.id, request.wish) == ("1", wish)


def test_digest_is_of_what_is_said_and_not_of_how_it_is_written() -> None:
    spaced = json.dumps(dict(reversed(ADD.items())), indent=1).replace("meter", "\\u006deter").replace("\n", " ")
    assert read(spaced).digest == read(ADD).digest
    others = [{**ADD, "id": "2"}, {**ADD, "op": "remove"}, {**ADD, "mdn": B}, {**ADD, "apps": ["meter", "meter"]}]
    assert len({read(line).digest for line in [ADD, *others]}) == 5


def test_byte_order_mark_with_which_windows_begins_a_file_in_utf_8_is_passed_over() -> None:
    assert read("\ufeff" + json.dumps(ADD)) == read(ADD)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (None, "the line has more than 65,536 octets; is a line end missing?"),
        (b'{"id":"\xff"}', "octet 8 is not UTF-8; write JSON in UTF-8"),
        (b"\xff\xfe{\0", "this is in UTF-16, or no text; save the file in UTF-8"),
        (b"\xfe\xff\0{", "this is in UTF-16, or no text; save the file in UTF-8"),
        (b'\0{\0"\0i\0d\0"\0:', "this is in UTF-16, or no text; save the file in UTF-8"),
        (b'{"id":"a\0"}', "this is in UTF-16, or no text; save the file in UTF-8"),
        ("\ufeff\ufeff{}", "not JSON from character 1 on; write one object in one line"),
        ("{} {}", "not JSON from character 4 on; write one object in one line"),
        ("add", "not JSON from character 1 on; write one object in one line"),
        ('{"id": "1"', "not JSON from character 11 on; write one object in one line"),
        ("[" * 60_000, "the line is nested too deeply; write one flat object"),
        ('{"a":' * 10_000, "the line is nested too deeply; write one flat object"),
        ('{"mdn": ' + "8" * 5_000 + "}", "a number is too long; write numbers of subscribers in quotes"),
        ('"add"', 'not a JSON object; write {"id": ..., "op": ..., ...}'),
        ("[]", 'not a JSON object; write {"id": ..., "op": ..., ...}'),
        ("null", 'not a JSON object; write {"id": ..., "op": ..., ...}'),
        ('{"id":"1","id":"1"}', "a field stands twice; write each once"),
        ('{"id":"1","mdn":{"a":1,"a":2}}', "a field stands twice; write each once"),
    ],
)
def test_line_that_is_no_object_is_a_fault_without_an_id(line: Any, reason: str) -> None:
    request = read(line)
    assert (request.id, request.wish) == (None, Fault(reason))


@pytest.mark.parametrize("id", [None, 1, "", "x" * 65, "é", "a\nb", "\x7f", ["1"], "\ud800"])
def test_id_must_be_one(id: Any) -> None:
    request = read({**ADD, "id": id})
    assert request.id is None
    assert request.wish == Fault('"id" must be 1 to 64 printable ASCII characters in quotes')


def test_longest_id_is_one() -> None:
    assert read({**ADD, "id": "x" * 64}).wish == Add(A, ("meter",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"op": None}, '"op" must be "add", "remove" or "renumber"'),
        ({"op": ["add"]}, '"op" must be "add", "remove" or "renumber"'),
        ({"op": "Add"}, '"op" must be "add", "remove" or "renumber"'),
        ({"app": "meter"}, "a field is unknown (did you mean 'apps'?)"),
        ({"Apps": ["meter"]}, "a field is unknown (did you mean 'apps'?)"),
        ({"13900000001": 1}, 'a field is unknown (the fields of "add" are id, op, mdn, apps)'),
        ({"all": True}, 'a field is unknown (the fields of "add" are id, op, mdn, apps)'),
        ({"mdn": 8613900000001}, '"mdn" must be a number of a subscriber in quotes, such as "+8613912345678"'),
        ({"mdn": float("nan")}, '"mdn" must be a number of a subscriber in quotes, such as "+8613912345678"'),
        ({"mdn": "861390000000"}, '"mdn" is no legal number of the numbering plan; correct it, or add its range to'),
        ({"mdn": ""}, '"mdn" is no legal number of the numbering plan'),
        ({"mdn": "\ud800"}, '"mdn" is no legal number of the numbering plan'),
        ({"apps": None}, '"apps" must be a list of 1 to 100 app IDs, such as ["meter"]'),
        ({"apps": "meter"}, '"apps" must be a list of 1 to 100 app IDs, such as ["meter"]'),
        ({"apps": []}, '"apps" must be a list of 1 to 100 app IDs, such as ["meter"]'),
        ({"apps": ["meter"] * 101}, '"apps" must be a list of 1 to 100 app IDs, such as ["meter"]'),
        ({"apps": ["meter", 1]}, "an app ID is 1 to 32 of A-Z a-z 0-9 . -, in quotes"),
        ({"apps": ["a_b"]}, "an app ID is 1 to 32 of A-Z a-z 0-9 . -, in quotes"),
        ({"op": "remove", "all": True}, 'write either "apps" or "all": true'),
        ({"op": "renumber", "to": B}, 'a field is unknown (the fields of "renumber" are id, op, mdn, to)'),
    ],
)
def test_faulty_request_is_told_what_to_mend_without_its_number(change: dict[str, Any], reason: str) -> None:
    request = read({**ADD, **change})
    assert request.id is not None
    assert isinstance(request.wish, Fault)
    assert request.wish.reason.startswith(reason)
    assert "390000000" not in request.wish.reason


@pytest.mark.parametrize("mdn", ["4915112345678", "+4915112345678"])
def test_number_that_left_the_plan_can_still_be_removed_and_replaced(mdn: str) -> None:
    assert read({"id": "1", "op": "remove", "mdn": mdn, "all": True}).wish == Remove("4915112345678", None)
    assert read({"id": "1", "op": "renumber", "mdn": mdn, "to": A}).wish == Renumber("4915112345678", A)
    for new in ({**ADD, "mdn": mdn}, {"id": "1", "op": "renumber", "mdn": A, "to": mdn}):
        assert isinstance(read(new).wish, Fault)


@pytest.mark.parametrize("flag", [False, "true", 1, None])
def test_all_is_only_ever_true(flag: Any) -> None:
    request = read({"id": "1", "op": "remove", "mdn": A, "all": flag})
    assert request.wish == Fault('write either "apps" or "all": true')


@pytest.mark.parametrize(
    ("name", "id"), [("mdn", f"x{A}"), ("mdn", "order-13900000001"), ("mdn", "139-0000-0001"), ("to", f"to-{B}")]
)
def test_id_with_a_number_in_it_is_not_even_repeated(name: str, id: str) -> None:
    request = read({"id": id, "op": "renumber", "mdn": A, "to": B})
    reason = f'"id" has the number of "{name}" in it; IDs are kept, take one that names nobody'
    assert (request.id, request.wish) == (None, Fault(reason))


@pytest.mark.parametrize(("mdn", "names_somebody"), [("491234567", False), ("4912345678", True)])
def test_few_digits_in_an_id_name_nobody(mdn: str, names_somebody: bool) -> None:
    request = read({"id": f"order-{mdn[3:]}", "op": "remove", "mdn": mdn, "all": True})
    assert isinstance(request.wish, Fault) == names_somebody


def test_both_numbers_of_a_renumbering_are_checked() -> None:
    wish = read({"id": "1", "op": "renumber", "mdn": A, "to": "1"}).wish
    assert isinstance(wish, Fault)
    assert wish.reason.startswith('"to" is no legal')
