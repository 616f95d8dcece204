from __future__ import annotations

import pytest

from kmp_smsd.importing.csv_registrations import RegistrationRow, check_registrations, read_registrations
from kmp_smsd.importing.faults import Faults
from kmp_smsd.importing.lines import Lines


def canonical(text):
    digits = text.removeprefix("+")
    if not digits.isdecimal():
        raise ValueError("this is not a number")
    return digits


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "registrations.csv"
        path.write_text(content)
        faults, warnings = Faults("r.csv"), Faults("r.csv")
        with Lines(path, passes=2) as lines:
            good = check_registrations(lines, faults, warnings, canonical, {"meter", "Meter", "pay"})
            rows = list(read_registrations(lines, Faults("r.csv"), canonical))
        assert len(rows) == good
        return rows, [str(fault) for fault in faults.by_line()], [str(warning) for warning in warnings.by_line()]

    return read


def test_mdn_becomes_canonical_and_may_have_several_apps(read):
    rows, faults, warnings = read("app_id,mdn\nmeter,+8613912345678\npay,8613912345678\n")
    assert rows == [RegistrationRow(2, "8613912345678", "meter"), RegistrationRow(3, "8613912345678", "pay")]
    assert not faults
    assert not warnings


def test_every_fault_is_told_in_the_order_of_the_file(read):
    rows, faults, _ = read("mdn,app_id\nhello,a b\n8613912345678,\n8613912345678\n8613912345678,meter\n")
    assert [row.line for row in rows] == [5]
    assert faults == [
        'r.csv:2: column 1 "mdn": this is not a number',
        'r.csv:2: column 2 "app_id": an app ID is 1 to 32 of A-Z a-z 0-9 . -',
        'r.csv:3: column 2 "app_id": an app ID is 1 to 32 of A-Z a-z 0-9 . -',
        "r.csv:4: 1 value, but the header names 2 columns",
    ]


def test_same_registration_again_and_apps_that_differ_in_case_are_warnings(read):
    _, faults, warnings = read("mdn,app_id\n+861391,meter\n861391,meter\n861391,Meter\n")
    assert not faults
    assert warnings == [
        "r.csv:3: the registration of line 2 again",
        'r.csv:4: column 2 "app_id": the app ID of line 2 in another case; they are two different apps',
    ]


def test_app_of_no_platform_is_a_warning_once(read):
    rows, faults, warnings = read("mdn,app_id\n861391,meter\n861391,metre\n861392,metre\n")
    assert (len(rows), faults) == (3, [])
    told = "no enabled platform has metre among its apps: its keys wait until one has"
    assert warnings == [f'r.csv:3: column 2 "app_id": {told}']


def test_file_without_registrations_is_a_fault(read):
    assert read("mdn,app_id\n")[1] == ["r.csv:1: there are no registrations in this file"]


def test_file_without_a_good_registration_has_the_faults_of_those_that_it_has(read):
    assert read("mdn,app_id\nhello,meter\n")[1] == ['r.csv:2: column 1 "mdn": this is not a number']
