from __future__ import annotations

import base64
import os
import time
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kmp_smsd.importing.csv_keys import read_keys
from kmp_smsd.importing.faults import MOST_KEPT, Faults
from kmp_smsd.importing.key_text import KeyEncoding
from kmp_smsd.importing.lines import MOST_OCTETS, Lines

KEY = bytes(range(16))
HEX = KEY.hex()
OTHER = "f0e1d2c3b4a5968778695a4b3c2d1e0f"


@pytest.fixture
def read(tmp_path):
    """Write a key file, and read its rows and its faults, as the text after the name."""

    def read(content, encoding=None):
        path = tmp_path / "keys.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        faults = Faults("keys.csv")
        with Lines(path) as lines:
            rows = list(read_keys(lines, faults, encoding))
        assert all(HEX not in str(fault) + repr(fault) for fault in faults.kept)
        return rows, [str(fault).removeprefix("keys.csv:") for fault in faults.by_line()]

    return read


def test_row_is_read_whole(read):
    rows, faults = read(
        "key_id,key,serial,app_id,algorithm,kcv,valid_from,valid_until\n"
        f"8A3F,{HEX},SN 17,meter,sm4,c118e5,2026-01-01,2026-01-01T12:00:00Z\n"
    )
    (row,) = rows
    assert (row.line, row.key_id, row.key, row.serial, row.app_id) == (2, "8A3F", KEY, "SN 17", "meter")
    assert (row.algorithm, row.kcv) == ("sm4", "C118E5")
    assert (row.valid_from, row.valid_until) == (1767225600000, 1767225600000 + 12 * 3600 * 1000)
    assert not faults


def test_row_shows_nothing_of_its_key(read):
    (row,), _ = read(f"key_id,key\n8A3F,{HEX}\n")
    assert repr(row) == str(row) == "<KeyRow 2 8A3F BE7ED6>"


def test_only_key_id_and_key_are_needed(read):
    (row,), faults = read(f"key_id,key\n8A3F,{HEX}\n")
    assert (row.serial, row.app_id, row.algorithm, row.kcv) == (None, None, "aes", "BE7ED6")
    assert (row.valid_from, row.valid_until) == (None, None)
    assert not faults


@pytest.mark.parametrize(
    "content",
    [
        f"key_id,key,serial\n8A3F,{HEX},7",
        f"key,serial,key_id\n{HEX},7,8A3F\n",
        f"\ufeffkey_id,key,serial\n8A3F,{HEX},7\n",
        f"key_id,key,serial\r\n8A3F,{HEX},7\r\n",
        f'"key_id","key","serial"\n"8A3F","{HEX}","7"\n',
        f'"key_id", "key", "serial"\n "8A3F", "{HEX}", "7"\n',
        f"key_id, key, serial\n 8A3F , {HEX.upper()} , 7 \n",
        f"key_id,key,serial\n\n8A3F,{HEX},7\n\n\n",
    ],
)
def test_same_table_is_the_same_however_it_was_saved(read, content):
    (row,), faults = read(content)
    assert (row.key_id, row.key, row.serial) == ("8A3F", KEY, "7")
    assert not faults


def test_quoted_value_may_hold_commas_and_quotes(read):
    (row,), faults = read(f'key_id,key,serial\n8A3F,{HEX},"7,""a"""\n')
    assert row.serial == '7,"a"'
    assert not faults


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("key_id,key,seriel", "1: column 3 has an unknown name (did you mean 'serial'?)"),
        ("key_id,key,Serial", "1: column 3 has an unknown name (did you mean 'serial'?)"),
        ("key_id,serial", '1: there is no column "key"'),
        ("key_id,key,key", '1: columns 2 and 3 are both "key"; remove one'),
        ("key_id;key", "1: the first line does not name the columns, *(separated by commas, not by semicolons)"),
        ("key_id\tkey", "1: the first line does not name the columns, *(separated by commas, not by tabs)"),
        ("KEY_ID,Key", "1: the first line does not name the columns, *(in lower case)"),
        (f"8A3F,{OTHER}", "1: the first line does not name the columns, key_id,key[,serial][,app_id][,algorithm]*"),
        ("", "1: the first line is empty; it must name the columns, key_id,key[,serial]*"),
    ],
)
def test_header_that_is_none_is_explained_without_quoting_it(read, header, sentence):
    rows, faults = read(f"{header}\n8A3F,{HEX}\n")
    assert not rows
    (fault,) = faults
    beginning, _, end = sentence.partition("*")
    assert fault.startswith(beginning)
    assert fault.endswith(end)
    assert OTHER not in fault


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (f"a_b,{HEX},,,,,,", 'column 1 "key_id": a key ID is 1 to 64 of A-Z a-z 0-9 . -'),
        (f",{HEX},,,,,,", 'column 1 "key_id": a key ID is 1 to 64 of A-Z a-z 0-9 . -'),
        (f"{'x' * 65},{HEX},,,,,,", 'column 1 "key_id": a key ID is 1 to 64 of A-Z a-z 0-9 . -'),
        ("a,,,,,,,", 'column 2 "key": the key is missing'),
        ("a,!!,,,,,,", 'column 2 "key": the key is not hexadecimal, two digits for each octet, but the first key of *'),
        (f"a,{HEX}0,,,,,,", 'column 2 "key": the key is not hexadecimal, two digits for each octet, but the first *'),
        (f"a,{HEX}00,,,,,,", 'column 2 "key": a key of aes has 16, 24 or 32 octets, this one has 17'),
        (f"a,{HEX},{'7' * 65},,,,,", 'column 3 "serial": a serial number has at most 64 printable characters'),
        (f"a,{HEX},,a b,,,,", 'column 4 "app_id": an app ID is 1 to 32 of *'),
        (f"a,{HEX},,,des,,,", 'column 5 "algorithm": the algorithm is not one of aes, sm4, hmac'),
        (f"a,{HEX},,,AES,,,", 'column 5 "algorithm": the algorithm is not one of aes, sm4, hmac'),
        (f"a,{HEX},,,,000000,,", 'column 6 "kcv": the key on this line has KCV BE7ED6; ask *'),
        (f"a,{HEX},,,,,31.12.2026,", 'column 7 "valid_from": this is not a date like 2026-01-31 or *'),
        (f"a,{HEX},,,,,,2026-02-30", 'column 8 "valid_until": this is not a date like *'),
        (f"a,{HEX},,,,,,2026-01-01T00:00:00+08:00", 'column 8 "valid_until": this is not a date like *'),
        (f"a,{HEX},,,,,2026-01-02,2026-01-01", 'column 8 "valid_until": this is before valid_from'),
        (f"a,{HEX},,,,,,,", "9 values, but the header names 8 columns"),
        ("a", "1 value, but the header names 8 columns"),
        (f'a,"{HEX},,,,,,', "the quotes are wrong: *"),
        (f'a,"{HEX}"x,,,,,,', "the quotes are wrong: *"),
        (
            f'a,"{HEX}" ,,,,,,',
            'the quotes are wrong: write "..." around the whole value, no space behind, and "" for a quote in it',
        ),
        (f"a,{HEX},\0,,,,,", "character 36 is not printable; is this a text file?"),
        (f"a,{HEX},\r,,,,,", "character 36 is not printable; is this a text file?"),
        (f"a,{HEX},1\t2,,,,,", 'column 3 "serial": a serial number has at most 64 printable characters'),
        (f"a,{HEX},{'7' * MOST_OCTETS},,,,,", "the line has more than 4,096 octets; is a line end missing?"),
    ],
)
def test_fault_is_told_with_line_and_column_and_the_rows_around_it_are_read(read, row, sentence):
    header = "key_id,key,serial,app_id,algorithm,kcv,valid_from,valid_until"
    rows, faults = read(f"{header}\nfirst,{OTHER},,,,,,\n{row}\nlast,{OTHER},,,,,,\n")
    (fault,) = faults
    beginning, star, _ = sentence.partition("*")
    assert fault.startswith(f"3: {beginning}") if star else fault == f"3: {beginning}"
    assert [row.line for row in rows] == [2, 4]


def test_every_fault_of_a_row_is_told_at_once(read):
    _, faults = read("key_id,key,app_id\na_b,zz,c d\n")
    assert [fault[: fault.index(":", 3)] for fault in faults] == [
        '2: column 1 "key_id"',
        '2: column 2 "key"',
        '2: column 3 "app_id"',
    ]


def test_columns_are_numbered_as_the_file_has_them(read):
    _, faults = read(f"serial,key,key_id\n7,{HEX},a_b\n")
    assert faults == ['2: column 3 "key_id": a key ID is 1 to 64 of A-Z a-z 0-9 . -']


def test_valid_until_a_day_lasts_to_its_end(read):
    (row,), _ = read(f"key_id,key,valid_from,valid_until\na,{HEX},2026-01-01,2026-01-01\n")
    assert row.valid_until - row.valid_from == 86_400_000


@pytest.fixture
def far_east(monkeypatch):
    monkeypatch.setenv("TZ", "EAST-8")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_dates_and_times_are_utc_wherever_the_file_is_read(read):
    (row,), _ = read(f"key_id,key,valid_from,valid_until\na,{HEX},2027-05-01,2027-05-01T00:00:01Z\n")
    assert (row.valid_from, row.valid_until) == (1809129600000, 1809129601000)


def test_last_day_of_the_calendar_is_a_day(read):
    (row,), _ = read(f"key_id,key,valid_until\na,{HEX},9999-12-31\n")
    assert row.valid_until == 253402300800000


def test_faults_are_all_counted_and_the_first_hundred_kept(tmp_path):
    path = tmp_path / "keys.csv"
    path.write_text("key_id,key\n" + "a,zz\n" * 12_000)
    faults = Faults("keys.csv")
    with Lines(path) as lines:
        assert list(read_keys(lines, faults)) == []
    assert faults.count == 12_000
    assert [fault.line for fault in faults.kept] == list(range(2, 2 + MOST_KEPT))


BASE64 = [
    base64.b64encode(b"\xfb" * 16).decode(),
    base64.urlsafe_b64encode(b"\xfb" * 16).decode(),
    base64.urlsafe_b64encode(b"\xfb" * 16).decode().rstrip("="),
]


@pytest.mark.parametrize("text", BASE64)
@pytest.mark.parametrize("encoding", [None, KeyEncoding.BASE64])
def test_key_may_be_base64_in_both_alphabets_with_padding_or_without(read, text, encoding):
    (row,), faults = read(f"key_id,key\na,{text}\n", encoding)
    assert row.key == b"\xfb" * 16
    assert not faults


def test_first_key_may_be_hexadecimal_that_is_no_base64(read):
    (row,), faults = read(f"key_id,key,algorithm\na,{HEX}ff,hmac\n")
    assert row.key == KEY + b"\xff"
    assert not faults


def test_first_key_decides_how_all_keys_are_written(read):
    rows, faults = read(f"key_id,key\na,{HEX}\nb,{BASE64[0]}\n")
    assert [row.key_id for row in rows] == ["a"]
    assert faults == [
        '3: column 2 "key": the key is not hexadecimal, two digits for each octet, but the first key of the file is '
        "hex; write all alike, or name the encoding"
    ]


def test_hexadecimal_key_in_a_base64_file_is_not_taken_for_24_octets(read):
    rows, faults = read(f"key_id,key\na,{BASE64[0]}\nb,{HEX}\n")
    assert [row.key_id for row in rows] == ["a"]
    assert faults == [
        '3: column 2 "key": the key could be hexadecimal, but the first key of the file is base64; '
        "write all alike, or name the encoding"
    ]


def test_key_that_could_be_both_is_read_as_its_encoding_is_named(read):
    (row,), _ = read(f"key_id,key\na,{HEX}\n", KeyEncoding.BASE64)
    assert row.key == base64.b64decode(HEX)
    (row,), _ = read(f"key_id,key\na,{HEX}\n", KeyEncoding.HEX)
    assert row.key == KEY


def test_key_in_no_encoding_decides_nothing(read):
    rows, faults = read(f"key_id,key\na,!!\nb,{BASE64[0]}\n")
    assert [row.key_id for row in rows] == ["b"]
    assert faults == ['2: column 2 "key": the key is neither hexadecimal nor base64']


@pytest.mark.parametrize("text", ["AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAAAA=", "=AAAA", "AAAAA", "é" * 22])
def test_base64_with_a_wrong_end_is_refused(read, text):
    rows, faults = read(f"key_id,key\na,{text}\n", KeyEncoding.BASE64)
    assert not rows
    assert faults == ['2: column 2 "key": the key is not base64']


@pytest.mark.parametrize("key", [bytes(16), os.urandom(16), os.urandom(24), os.urandom(32)])
@pytest.mark.parametrize("write", [bytes.hex, lambda key: base64.b64encode(key).decode()])
def test_key_comes_back_from_both_encodings(read, key, write):
    (row,), _ = read(f"key_id,key\na,{write(key)}\n")
    assert row.key == key


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "1: the first line is empty; it must name the columns"),
        (b"key_id,key\n", "1: there are no keys in this file"),
        (b"PK\x03\x04rubbish", "1: this is a spreadsheet or a ZIP archive; save the table as CSV in UTF-8"),
        (b"\x1f\x8b\x08", "1: this file is compressed; unpack it first"),
        ("key_id,key\n".encode("utf-16"), "1: this file is in UTF-16; save it as CSV in UTF-8"),
        ("key_id,key\na,\xe9".encode("latin-1"), "2: octet 3 is not UTF-8; save the file as CSV in UTF-8"),
        (f"key_id,key\ra,{HEX}\r".encode(), "1: character 11 is not printable; is this a text file?"),
        (b"\0" * 5000, "1: the line has more than 4,096 octets"),
    ],
)
def test_file_of_another_kind_gets_one_clear_answer(read, content, sentence):
    rows, faults = read(content)
    assert not rows
    assert len(faults) == 1
    assert faults[0].startswith(sentence)


@settings(max_examples=200)
@given(st.binary(max_size=3000), st.booleans())
@example(b"\n" * 50, True)
@example(b',"\n",\n"', True)
def test_binary_noise_gives_faults_and_nothing_else(tmp_path_factory, noise, header):
    path = tmp_path_factory.mktemp("noise") / "keys.csv"
    path.write_bytes((b"key_id,key\n" if header else b"") + noise)
    faults = Faults("keys.csv")
    with Lines(path) as lines:
        rows = list(read_keys(lines, faults))
    assert faults
    assert rows == []


def test_line_of_2_gigabytes_is_one_fault_in_constant_memory(tmp_path):
    path = tmp_path / "keys.csv"
    with open(path, "wb") as file:
        file.write(b"key_id,key\n")
        file.seek(2 << 30)  # a hole: takes no room
        file.write(f"\na_b,{HEX}\n".encode())
    faults = Faults("keys.csv")
    tracemalloc.start()
    try:
        with Lines(path) as lines:
            assert list(read_keys(lines, faults)) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [fault.line for fault in faults.kept] == [2, 3]
    assert peak < 2_000_000


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_longest_line_is_a_line_and_one_octet_more_is_none(tmp_path, end):
    path = tmp_path / "lines"
    path.write_bytes(b"x" * MOST_OCTETS + end)
    with Lines(path) as lines:
        assert [line for _, line in lines] == [b"x" * MOST_OCTETS]
    path.write_bytes(b"x" * (MOST_OCTETS + 1) + end + b"next")
    with Lines(path) as lines:
        assert [line for _, line in lines] == ([None, b"next"] if end else [None])


def test_progress_is_told_as_a_file_is_read_and_ends_at_its_size(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"x" * 99 + b"\n" + (b"y" * 4000 + b"\n") * 1500 + b"z" * 99_999)
    told = []
    with Lines(path, passes=2, progress=lambda *step: told.append(step)) as lines:
        list(lines)
        list(lines)
    size = path.stat().st_size
    assert len(told) > 8
    assert told == sorted(told)
    assert {total for _, total in told} == {2 * size}
    assert told[-1] == (2 * size, 2 * size)


def test_progress_is_told_within_one_endless_line_too(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"x" * 3_500_000)
    told = []
    with Lines(path, progress=lambda done, _: told.append(done // 1_000_000)) as lines:
        assert list(lines) == [(1, None)]
    assert told == [1, 2, 3, 3]


def test_large_file_is_read_although_nobody_asks_how_far_that_is(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"x" * 1_500_000 + b"\nnext")
    with Lines(path) as lines:
        assert list(lines) == [(1, None), (2, b"next")]
        assert not lines.changed(lines.digest)


def test_repr_of_a_row_hides_its_key(read):
    (row,), _ = read(f"key_id,key\na,{HEX}\n")
    assert "key=" not in repr(row)
    assert repr(KEY)[2:-1] not in repr(row)
    assert HEX not in repr(row)


def test_fault_of_a_whole_line_stands_before_those_of_its_columns():
    faults = Faults("keys.csv")
    faults.columns = {"key_id": 1, "key": 2}
    for line, column in ((3, "key"), (3, None), (3, "key_id"), (2, "key")):
        faults.add(line, str(column), column)
    assert [(fault.line, fault.sentence) for fault in faults.by_line()] == [
        (2, "key"), (3, "None"), (3, "key_id"), (3, "key"),
    ]  # fmt: skip
