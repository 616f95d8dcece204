from __future__ import annotations

import base64
import math
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.channels.hiding import REPEATS_A_KEY, SHOWN_CHARACTERS, presentable, quotes, weight
from tests.channels.spellings import SPELLINGS

KEY = bytes.fromhex("5ec2e7ca11ab1e0ddba11c0ffee00d1e")


@pytest.mark.parametrize(
    "reason",
    [
        "no such app meter",
        "maintenance until 04:00",
        "unknown app",
        "mdn is missing or malformed",
        "disk full: /var/lib/x (errno 28)",
        "disk is 95% full",
        "Permission denied (publickey)",
        "kmp-receive 1",
        "Traceback (most recent call last):",
        'File "/usr/lib/python3.11/json/decoder.py", line 355, in raw_decode',
        "KeyError: 'mdn'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/var/lib/keys/keys.db'",
        "sqlite3.OperationalError: database is locked",
        "java.lang.NullPointerException: Cannot invoke a method",
        "HTTP 503 Service Unavailable",
        "bash: line 1: /usr/local/bin/kmp-receive: No such file or directory",
        "Welcome to Debian GNU/Linux 12!",
        "Error reading SSH protocol banner",
        "Incompatible ssh peer (no acceptable host key)",
    ],
)
def test_ordinary_reason_stays_as_it_is(reason: str) -> None:
    assert presentable(reason, [KEY]) == reason


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-24 02:52:04 ERROR disk full at /dev/sda1", "... ERROR disk full at ..."),
        ("connect to 192.0.2.12 port 5432 failed: Connection refused",
         "connect to ... port ... failed: Connection refused"),
        ("bad key 5ec2e7ca11ab1e0d is held", "bad key ... is held"),
        ("no\n\x1b[2J such\tapp \u202e here", "no ... such app ... here"),
        ("bad key no*up", "bad key ..."),  # 4 octets, in base 85
        ("a key 5ec2e7ca11ab1e0d in punctuation ., /: or in verify(key) is no prose",
         "a key ... in punctuation ... or in ... is no prose"),
    ],
)  # fmt: skip
def test_many_numbers_give_way_and_the_words_stay(text: str, shown: str) -> None:
    assert presentable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no subscriber 8613912345678", "no subscriber 8613..."),
        ("no subscriber +8613912345678 (errno 2)", "no subscriber +8613... (errno 2)"),
        ("8613912345678: 8613987654321 is not here", "... is not here"),
        ("no subscriber 139-1234-5678", "no subscriber ..."),
        ("no subscriber 86 139 1234 5678", "no subscriber ..."),
        ("no subscriber msisdn8613912345678", "no subscriber ..."),
        ("no subscriber 1391234", "no subscriber 1391..."),
    ],
)
def test_number_of_a_subscriber_keeps_its_first_four_digits_at_most(text: str, shown: str) -> None:
    assert presentable(text) == shown


# Without the key nobody tells its letters from words, nor base64 without case from anything.
DECODABLE = [name for name in SPELLINGS if "raw" not in name and name not in ("utf-8, what fits", "base64, lower")]


def is_legible(key: bytes, spelled: str, shown: str) -> bool:
    """Whether as much of the spelled key is shown as 4 octets take, with or without what stands between them."""
    octets = key if len(spelled) > len(key) else key[:16]

    def squeezed(text: str) -> str:
        return re.sub("[^a-z0-9]", "", text.lower())

    for form, text in ((spelled, shown), (squeezed(spelled), squeezed(shown))):
        size = max(4, math.ceil(4 * len(form) / len(octets)))
        if any(form[at : at + size] in text for at in range(len(form) - size + 1)):
            return True
    return False


@pytest.mark.parametrize("name", SPELLINGS)
@given(
    key=st.sampled_from((16, 24, 32, 64)).flatmap(
        lambda size: (
            st.binary(min_size=size, max_size=size)
            | st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=size, max_size=size).map(str.encode)
            | st.sampled_from((b"ffffffff", b"deadbeef", b"meterKey", b"12345678")).map(lambda text: text * (size // 8))
        )
    )
)
def test_no_four_octets_of_a_key_are_shown_in_any_spelling(name: str, key: bytes) -> None:
    spelled = SPELLINGS[name](key)
    shown = presentable(f"no such subscriber: {spelled}", [bytes(16), key])
    if shown == REPEATS_A_KEY:
        return
    assert not is_legible(key, spelled, shown.removeprefix("no such subscriber"))


@pytest.mark.parametrize("key", ["00111a00709300060f0064000c000000", "0c01000030300000231831002d300002"])
def test_key_whose_base85_has_words_and_few_numbers_is_hidden(key: str) -> None:
    """Found by the test above: words and punctuation of "01+AhaFYNA4*+BU3;+NC" and "3;_TDFfafBBN#CNEieEA" were free."""
    spelled = base64.b85encode(bytes.fromhex(key)).decode()
    assert presentable(f"no such subscriber: {spelled}") == "no such subscriber: ..."


@pytest.mark.parametrize("spell", [base64.a85encode, base64.b85encode])
@pytest.mark.parametrize("before", range(4))
def test_known_key_whose_base85_is_words_alone_is_hidden(spell: Callable[[bytes], bytes], before: int) -> None:
    decode = base64.a85decode if spell is base64.a85encode else base64.b85decode
    key = decode(b"Bugaborimen=Salotam)")
    assert presentable("bad key Bugaborimen=Salotam)").endswith("Salotam)")
    said = "bad key " + spell(bytes(before) + key).decode()
    assert presentable(said, [bytes(16), key]) == REPEATS_A_KEY
    assert quotes(said, [bytes(16), key])


@pytest.mark.parametrize("before", range(6))
def test_known_key_whose_base64_or_base32_is_words_alone_is_hidden(before: int) -> None:
    """However many octets are encoded together with it."""
    said = "the open sesame words are full of sun and of rain"
    letters = re.sub(" ", "", said)[:32]
    for octets in (base64.b64decode(letters), base64.b32decode(letters.upper())):
        assert presentable(said, [octets[before : before + 14]]) == REPEATS_A_KEY


def test_characters_of_base85_that_are_no_octets_are_looked_at_all_the_same() -> None:
    """Of 5 of them some are more than 4 octets: the highest, in either alphabet."""
    for highest in ("uuuuu", "~~~~~"):
        assert not quotes(highest, [KEY])
        assert presentable(highest, [KEY]) == "..."


@pytest.mark.parametrize("name", DECODABLE)
def test_key_that_we_have_forgotten_is_hidden_all_the_same(name: str) -> None:
    chance = random.Random(name)
    for _ in range(50):
        key = chance.randbytes(16)
        spelled = SPELLINGS[name](key)
        assert not is_legible(key, spelled, presentable(f"no such subscriber: {spelled}"))


def test_the_search_itself_finds_a_key() -> None:
    for name, spell in SPELLINGS.items():
        assert is_legible(KEY, spell(KEY), f"bad key {spell(KEY)[: len(spell(KEY)) * 3 // 4]}"), name


@pytest.mark.parametrize("piece", [b"hunter2-", b"rabbit", b"wxyz"])
def test_piece_of_a_key_that_is_text_hides_all(piece: bytes) -> None:
    key = b"%" * (32 - len(piece)) + piece
    text = piece.decode().removesuffix("-")
    assert presentable(f"no such thing: {text} is not here", [KEY, key]) == REPEATS_A_KEY
    assert presentable(f"no such thing: {text.upper()[::-1]} is not here", [KEY, key]) == REPEATS_A_KEY
    assert quotes(f"no such thing: {text}", [KEY, key])
    assert quotes(text, [KEY, key])


@given(st.text(max_size=400), st.integers(0, 7))
def test_what_is_shown_is_one_short_line_within_its_allowance(text: str, allowance: int) -> None:
    shown = presentable(text, allowance=allowance)
    assert len(shown) <= SHOWN_CHARACTERS
    assert shown.isascii()
    assert shown.isprintable()
    assert weight(shown) <= allowance or len(shown) == SHOWN_CHARACTERS
    assert not re.search("[0-9]{7}", shown)


@given(st.text(), st.binary(min_size=16, max_size=64))
def test_hiding_twice_hides_no_more(text: str, key: bytes) -> None:
    shown = presentable(text, [key])
    assert presentable(shown, [key]) == shown
