from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.smpp.constants import CommandStatus
from kmp_smsd.smpp.errors import PduError
from kmp_smsd.smpp.udh import UserDataHeader, split_udh


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("00", UserDataHeader()),
        ("06 05 04 1388 0000", UserDataHeader(source_port=0, destination_port=5000)),
        ("04 04 02 f0 f1", UserDataHeader(source_port=0xF1, destination_port=0xF0)),
        ("05 00 03 fe 02 01", UserDataHeader(concatenated=True)),
        ("06 08 04 00fe 02 01", UserDataHeader(concatenated=True)),
        ("05 08 03 fe 02 01", UserDataHeader(concatenated=True)),  # seen: 16-bit element of the 8-bit one's length
        ("05 00 03 fe 01 01", UserDataHeader()),  # one of one
        ("05 00 03 fe 00 01", UserDataHeader()),  # impossible marks are to be ignored
        ("05 00 03 fe 02 00", UserDataHeader()),
        ("05 00 03 fe 02 03", UserDataHeader()),
        ("08 70 01 aa 00 03 fe 03 02", UserDataHeader(concatenated=True)),  # an unknown element comes first
        ("0b 05 04 1388 0001 00 03 fe 03 02", UserDataHeader(1, 5000, True)),
        ("05 05 03 1388 00", UserDataHeader()),
        ("05 04 03 f0 f1 f2", UserDataHeader()),
        ("04 70 02 f0 f1", UserDataHeader()),
        ("05 70 03 fe 02 01", UserDataHeader()),
        ("07 00 05 00 00 fe 02 01", UserDataHeader()),
    ],
)
def test_header_is_walked_and_removed(header, expected):
    octets = bytes.fromhex(header)
    octets = bytes([len(octets) - 1]) + octets[1:]
    assert split_udh(octets + b"K1:A") == (expected, b"K1:A")


@pytest.mark.parametrize("text", ["", "01", "05 00 03 fe 02", "02 00 05 aa bb", "01 00 4b 31", "ff 00"])
def test_header_longer_than_what_it_is_in_is_refused(text):
    with pytest.raises(PduError) as caught:
        split_udh(bytes.fromhex(text))
    assert caught.value.command_status == CommandStatus.ESME_RINVESMCLASS


@given(st.binary(max_size=60))
def test_any_octets_are_split_or_refused(octets):
    try:
        _, text = split_udh(octets)
    except PduError:
        return
    assert octets.endswith(text)
