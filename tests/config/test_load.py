from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.ssh_options import SshOptions
from kmp_smsd.channels.tls_options import TlsOptions
from kmp_smsd.config.link import Link
from kmp_smsd.config.load import ConfigFaults, load
from kmp_smsd.config.models import MainFile, Secrets
from kmp_smsd.config.numbering import Numbering
from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.numbering import AddressRules
from kmp_smsd.domain.policy import OnConflict
from tests.config.config_files import MAIN, PLATFORM, TLS_PLATFORM

GOOD_LINES = MAIN.count("\n")


def test_good_configuration_becomes_frozen_values(files):
    files.write("platforms.d/metering.toml", PLATFORM)
    config = files.load()
    link = config.smsc["north"]
    assert link.hosts == (Host("smsc.example", 2775),)
    assert (link.temporary_status, link.never_status, link.interface_version) == (0x64, 0x66, 0x34)
    assert link.address_rules == AddressRules()
    assert config.policy.on_sim_change is OnConflict.HELD
    assert config.policy.late_hours == 72
    assert config.platforms["metering"].apps == ("meter",)
    assert config.numbering.canonical("13912345678", 2, 1, link.address_rules) == "8613912345678"
    assert config.storage.path == Path("/var/lib/kmp-smsd/kmp-smsd.db")
    with pytest.raises(ValidationError):
        link.system_id = "other"
    with pytest.raises(TypeError):
        config.smsc["south"] = link


def test_options_of_a_link_are_read(files):
    files.append(
        'local_address = "2001:db8::1"\ndata_coding = {0 = "ucs2", 4 = "octets"}\nunknown_ton = "national"\n'
        'international_prefixes = ["011"]\ntrunk_prefix = "1"\naccepted_npi = [1]\nnever_status = 0x00\n'
        '[smsc.south]\nhosts = ["[2001:db8::2]:2775", "10.0.0.1:9"]\nsystem_id = "k"\npassword = {file = "/run/p"}\n'
    )
    config = files.load()
    north = config.smsc["north"]
    assert north.local_address == "2001:db8::1"
    assert north.data_codings == {0: "ucs2", 4: "octets"}
    assert north.never_status == 0
    assert north.address_rules == AddressRules("national", ("011",), "1", frozenset({1}))
    assert config.smsc["south"].hosts == (Host("2001:db8::2", 2775), Host("10.0.0.1", 9))
    assert str(config.smsc["south"].hosts[0]) == "[2001:db8::2]:2775"


def test_relative_paths_start_at_the_file_that_names_them(files, monkeypatch):
    files.write(
        "kmp-smsd.toml",
        '[storage]\npath = "state/kmp.db"\n' + MAIN.replace("[numbering]", '[numbering]\ninclude = ["n/x.toml"]'),
    )
    files.write("n/x.toml", 'ranges = [{prefix = "1", digits = 11, name = "x"}]')
    config = files.load()
    assert config.storage.path == files.directory / "state/kmp.db"
    assert config.secrets.public_key == files.directory / "master-key.pub"
    assert config.numbering.parse("+1 202 555 0123") == "12025550123"
    monkeypatch.chdir(files.directory)
    assert load("kmp-smsd.toml").storage.path == Path("state/kmp.db")


def test_what_is_not_enabled_is_checked_but_not_used(files):
    files.append("enabled = false\n")
    files.write("platforms.d/metering.toml", "enabled = false\n" + PLATFORM)
    files.write("platforms.d/other.toml", PLATFORM)
    config = files.load()
    assert config.smsc == {}
    assert list(config.platforms) == ["other"]
    files.append("enabled = false\nsystem_type = 5\n")
    files.write("platforms.d/metering.toml", "enabled = false\nretry_min_s = 0\n" + PLATFORM)
    assert len(files.faults()) == 2


def test_only_toml_files_are_platforms(files):
    for name in (".hidden.toml", "a.toml~", "b.toml.dpkg-new", ".c.toml.swp", "README", "d.toml.bak"):
        files.write(f"platforms.d/{name}", b"\xff rubbish")
    assert files.load().platforms == {}


def test_platforms_may_stand_in_another_directory(files):
    files.write("elsewhere/metering.toml", PLATFORM)
    assert list(load(files.directory / "kmp-smsd.toml", files.directory / "elsewhere").platforms) == ["metering"]


def test_faults_of_all_files_are_told_at_once(files):
    """The golden text: what an operator reads after a bad day."""
    files.write(
        "kmp-smsd.toml",
        """\
# Our daemon.
[storage]
path = 5
[secrets]
master_key = "aHVudGVyMg=="
[numbering]
country_code = "+86"
include = ["cn.toml", "missing.toml"]
[sync]
on_sim_change = "hold"
late_hours = "72"
batch_max = 5000
short_codes = ["10690", "meter"]
[smsc.north]
hosts = ["smsc.example:70000", "smsc.example"]
system_id = kmp
enquire_link = 30
port = 70000
password = hunter2
never_status = 0x65
temporary_status = 0
reconnect_min_s = 10
reconnect_max_s = 5.0
answer_within_s = 2s
bind_timeout_s = nan
allow_long_password = yes
interface_version = 34
data_coding = {300 = "ucs2", 8 = "ucs"}
accepted_npi = [
  1,
  6,
]
[smsc."bad name"]
hosts = []
[strage]
x = 1
""",
    )
    files.write("cn.toml", 'ranges = [\n{prefix = "+86", digits = 13, name = ""},\n{prefix = "8613", digits = 16}\n]\n')
    files.write("platforms.d/a b.toml", PLATFORM)
    files.write(
        "platforms.d/metering.toml",
        'apps = ["meter", "me ter"]\n[channel]\nkind = "irc"\nhosts = keys.example\nuser = "kmp"\nwindow = 0\n',
    )
    files.write("platforms.d/paying.toml", 'apps = []\n[channel]\nkind = "ssh"\nhosts = keys.example\nwindow = 0\n')
    files.write(
        "platforms.d/reading.toml",
        'apps = []\n[channel]\nkind = "tls"\nhosts = ["keys.example"]\nserver_key = "sha256//AA="\nuser = "kmp"\n'
        'server_keys = ["ssh-ed25519 AAAA", "sha256//AA=", "a.example:1 b.example:2 sha256//AA="]\n',
    )
    files.write("platforms.d/tracking.toml", "apps = [\n")
    files.write("platforms.d/unkind.toml", "apps = []\n[channel]\n")
    assert "\n".join(files.faults()) == (Path(__file__).parent / "faults.txt").read_text().rstrip("\n")


def one(files, text):
    files.append(text)
    (fault,) = files.faults()
    return fault.removeprefix(f"kmp-smsd.toml:{GOOD_LINES + 1}: [smsc.north] ")


def test_link_that_cannot_submit_cannot_reply(files):
    files.append('bind = "receiver"\nreply = "confirmed"')
    sentence = 'a receiver cannot reply: bind = "transceiver" or "pair" can'
    assert files.faults() == [f"kmp-smsd.toml:{GOOD_LINES + 2}: [smsc.north] reply: {sentence}"]


@pytest.mark.parametrize("bind", ["transceiver", "pair", "auto"])
def test_link_that_can_submit_or_may_find_that_it_can_replies(files, bind):
    files.append(f'bind = "{bind}"\nreply = "confirmed"')
    assert files.load().smsc["north"].reply == "confirmed"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rate = 1", "rate: unknown option (did you mean 'rate_per_s'?)"),
        ("zzz = 1", "zzz: unknown option"),
        ('"a b\\u001b[31m" = 1', '"a b\\u001b[31m": unknown option'),
        ("bind = 1", "bind: 1 is not one of transceiver, receiver, pair, auto"),
        (
            'bind = "transmitter"',
            "bind: \"transmitter\" is not one of transceiver, receiver, pair, auto (did you mean 'transceiver'?)",
        ),
        ("bind = auto", 'bind: text needs quotes: "auto"'),
        ('reply = "always"', 'reply: "always" is not one of never, confirmed'),
        ("reply_window = 0", "reply_window: 0 is not between 1 and 1000"),
        ("reply_per_s = 0", "reply_per_s: 0 is not more than 0, at most 10000"),
        ("bind = “auto”", 'bind: text needs straight quotes: "auto"'),
        ("short_codes = [10.0.0.1:80]", "a comma, quotes or the closing ] is missing at column 20"),
        ('short_codes = ["1" "2"]', "a comma, quotes or the closing ] is missing at column 20"),
        ('short_codes = ["1"', "the closing ] is missing"),
        ("bind = 'auto", "the closing quote is missing"),
        ('bind = auto"', "bind: text needs quotes at both ends"),
        ("bind =", "bind: the value is missing"),
        ("bind = # auto", "bind: the value is missing"),
        ("bind auto", "this is neither [SECTION] nor NAME = VALUE"),
        ("bind", "this is neither [SECTION] nor NAME = VALUE"),
        ("local_address = 10.0.0.1", 'local_address: text needs quotes: "10.0.0.1"'),
        ('local_address = "smsc.example"', 'local_address: "smsc.example" is not an IP address'),
        ("system_type = 5", 'system_type: text needs quotes: "5"'),
        ("system_type = true", "system_type: text in quotes is expected"),
        ("system_type = []", "system_type: text in quotes is expected"),
        ('system_type = "1234567890123"', "system_type: 13 characters are too many: 12 at most"),
        ('system_type = "ä"', "system_type: write printable ASCII characters"),
        ('system_type = "a\\u0000b"', "system_type: write printable ASCII characters"),
        ('rate_per_s = "5"', "rate_per_s: a whole number is expected, without quotes"),
        ("rate_per_s = 5.5", "rate_per_s: a whole number is expected, 5.5 is none"),
        ("rate_per_s = true", "rate_per_s: a whole number is expected, true is none"),
        ("rate_per_s = 5/s", 'rate_per_s: text needs quotes: "5/s"'),
        ("rate_per_s = 0x1" + "0" * 5000, "rate_per_s: this number is not between 0 and 1000000"),
        ("system_type = 0x1" + "0" * 5000, "system_type: text in quotes is expected"),
        ("answer_within_s = 0x1" + "0" * 5000, "answer_within_s: the number is too large"),
        ("rate_per_s = -1", "rate_per_s: -1 is not between 0 and 1000000"),
        (
            "answer_within_s = 2s",
            "answer_within_s: a number stands without its unit, which is in the option's name; text needs quotes",
        ),
        ('answer_within_s = "2"', "answer_within_s: a number is expected, without quotes"),
        ("answer_within_s = inf", "answer_within_s: a number is expected, Infinity is none"),
        ("answer_within_s = 1979-05-27", 'answer_within_s: a number is expected, "1979-05-27" is none'),
        ("allow_long_password = yes", "allow_long_password: write true or false, in lower case"),
        ("allow_long_password = True", "allow_long_password: write true or false, in lower case"),
        ('allow_long_password = "true"', "allow_long_password: write true or false, without quotes"),
        (
            "temporary_status = 0",
            "temporary_status: 0x00 tells the SMSC that the message is stored, and it would be lost",
        ),
        ("max_pdu_octets = 16", "max_pdu_octets: 16 is not between 512 and 1048576"),
        ("accepted_npi = []", "accepted_npi: is empty"),
        ("accepted_npi = 1", "accepted_npi: a list in [ ] is expected"),
        (
            'international_prefixes = ["1"]',
            'international_prefixes[0]: write "+", or 2 to 4 digits of which the first is 0',
        ),
        ("data_coding = 8", "data_coding: a table in { } is expected"),
        ('system_id = "x"', "this option is given twice"),
        ("[smsc.north]", "this section is given twice"),
        ("reconnect_max_s = 0.5", "reconnect_max_s: 0.5 is less than reconnect_min_s"),
        ('system_type = "a\\q"', "write \\\\ for \\ in quotes, or put the text in 'single quotes'"),
        ('bind = "auto" enabled = true', "something follows the value: one option per line"),
    ],
)
def test_each_kind_of_fault_has_its_sentence(files, text, fault):
    assert one(files, text) == fault


@pytest.mark.parametrize(
    ("password", "option"),
    [
        ('"hunter2"', "password"),
        ("hunter2", "password"),
        ("12345678", "password"),
        ("'hunter2", ""),
        ('["hunter2"]', "password"),
        ('{value = "hunter2"}', "password.value"),
        ('{file = "hunter2"}', "password"),
        ('{credential = "hunter2/../x"}', "password.credential"),
        ('{credential = "a", file = "/b"}', "password"),
        ('"""hunter2\n"""', "password"),
    ],
)
def test_secret_in_clear_is_refused_with_the_remedy_and_never_shown(files, password, option):
    files.write("kmp-smsd.toml", MAIN.replace('{credential = "smsc-north"}', password))
    faults = files.faults()
    assert "hunter2" not in "".join(faults)
    assert "12345678" not in "".join(faults)
    assert any(f"[smsc.north] {option}" in fault for fault in faults)
    assert any("credential" in fault or "quote" in fault or "file" in fault for fault in faults)


def test_misspelt_secret_is_not_shown(files):
    assert one(files, 'pasword = "hunter2"') == "pasword: unknown option (did you mean 'password'?)"
    assert one(files, "passwd = hunter2").startswith("passwd: a secret is never written here")


def test_even_the_own_text_of_pydantic_shows_no_secret():
    with pytest.raises(ValidationError) as raised:
        MainFile.model_validate({"smsc": {"north": {"password": "hunter2"}}})
    assert "hunter2" not in str(raised.value)


def test_unquoted_text_does_not_hide_other_faults(files):
    files.append("bind = auto\nsystem_type = VMA\nrate_per_s = -1\n")
    assert [fault.split("] ")[1].split(":")[0] for fault in files.faults()] == ["bind", "system_type", "rate_per_s"]


def test_missing_sections_and_options_are_named(files):
    files.write("kmp-smsd.toml", "[numbering]\n")
    assert files.faults() == [
        "kmp-smsd.toml: [secrets] is missing",
        "kmp-smsd.toml:1: [numbering] country_code: is missing",
        "kmp-smsd.toml:1: [numbering] no range is given, so every message would be refused: see include",
    ]


def test_section_that_is_no_section_is_a_fault(files):
    files.write("kmp-smsd.toml", "sync = 5\n[[smsc]]\n" + MAIN.split("[smsc.north]")[0])
    assert files.faults() == [
        "kmp-smsd.toml:1: [sync] a section is expected",
        "kmp-smsd.toml:2: [smsc] a section is expected",
    ]


def test_link_and_gateway_without_a_name_are_one_fault_each(files):
    """Else each option would be taken for a link's name."""
    files.write("kmp-smsd.toml", MAIN.replace("[smsc.north]", "[smsc]") + '[gateway]\non_late = "held"\n')
    link = MAIN[: MAIN.index("[smsc.north]")].count("\n") + 1
    assert files.faults() == [
        f"kmp-smsd.toml:{link}: [smsc] options stand under a name: write [smsc.NAME] above them",
        f"kmp-smsd.toml:{GOOD_LINES + 1}: [gateway] options stand under a name: write [gateway.NAME] above them",
    ]


def test_app_in_two_files_is_a_fault(files):
    files.write("platforms.d/a.toml", PLATFORM)
    files.write("platforms.d/b.toml", PLATFORM.replace('"meter"', '"x",\n"meter"').replace("keys.", "other."))
    assert files.faults() == [
        'platforms.d/b.toml:2: apps[1]: "meter" goes to one platform only, and platforms.d/a.toml:1 has it already'
    ]
    files.write("platforms.d/b.toml", "enabled = false\n" + PLATFORM)
    assert list(files.load().platforms) == ["a"]


def test_two_files_may_lead_to_one_receiver(files):
    """As when one is split: the versions see to it that the key stays there."""
    files.write("platforms.d/a.toml", PLATFORM)
    files.write("platforms.d/b.toml", PLATFORM.replace('"meter"', '"x"'))
    assert set(files.load().platforms) == {"a", "b"}


def test_platform_without_apps_gives_up_what_it_holds(files):
    files.write("platforms.d/a.toml", PLATFORM.replace('"meter"', ""))
    assert files.load().platforms["a"].apps == ()


def test_app_named_twice_in_one_file_is_a_fault(files):
    files.write("platforms.d/a.toml", PLATFORM.replace('"meter"', '"meter", "meter"'))
    assert len(files.faults()) == 1


def test_platform_without_any_identity_is_a_fault(files):
    files.write("kmp-smsd.toml", MAIN.replace('ssh_identity = {credential = "ssh-identity"}\n', ""))
    files.write("platforms.d/a.toml", PLATFORM)
    assert files.faults() == [
        "platforms.d/a.toml:2: [channel] identity: "
        "is missing, and kmp-smsd.toml has no [secrets] ssh_identity for all platforms"
    ]
    files.write("platforms.d/a.toml", PLATFORM + 'identity = {credential = "own"}\n')
    assert files.load().platforms["a"].channel.identity.credential == "own"


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("a.example:1", "server_keys names a.example:1, which is not one of hosts"),
        ("keys.example:4443", "server_keys has no key for other.example:4443"),
    ],
)
def test_host_without_a_pin_and_pin_without_a_host_are_faults(files, host, sentence):
    text = TLS_PLATFORM.replace('"sha256', f'"{host} sha256').replace(':4443"', ':4443", "other.example:4443"')
    files.write("platforms.d/a.toml", text)
    assert files.faults() == [f"platforms.d/a.toml:2: [channel] {sentence}"]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("", "2: [channel] kind: is missing"),
        ('kind = "irc"', '3: [channel] kind: "irc" is not one of ssh, tls'),
        ("kind = 7", "3: [channel] kind: 7 is not one of ssh, tls"),
    ],
)
@pytest.mark.parametrize("text", [PLATFORM, TLS_PLATFORM])
def test_channel_of_no_known_kind_has_the_faults_that_it_would_have_of_each(files, text, kind, fault):
    text = re.sub("kind = .*", kind, text)
    files.write("platforms.d/a.toml", text)
    assert files.faults() == [f"platforms.d/a.toml:{fault}"]
    files.write("platforms.d/a.toml", text + 'window = 0\nwindou = 1\nmax_line_octets = "many"\n')
    assert files.faults() == [
        f"platforms.d/a.toml:{fault}",
        "platforms.d/a.toml:7: [channel] window: 0 is not between 1 and 10000",
        "platforms.d/a.toml:8: [channel] windou: unknown option (did you mean 'window'?)",
        "platforms.d/a.toml:9: [channel] max_line_octets: a whole number is expected, without quotes",
    ]


@pytest.mark.parametrize("more", ['tls = "x"\n', '[channel.tls]\nkind = "tls"\n'])
def test_option_with_the_name_of_a_kind_is_a_fault_of_its_own(files, more):
    files.write("platforms.d/a.toml", TLS_PLATFORM + more)
    assert files.faults() == ["platforms.d/a.toml:7: [channel] tls: unknown option"]
    files.write("platforms.d/a.toml", TLS_PLATFORM.replace("hosts = ", "host = ") + more)
    assert files.faults()[0] == "platforms.d/a.toml:2: [channel] hosts: is missing"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (PLATFORM.replace("A" * 43, "ä" * 43), "host_keys[0]: the base64 part of the ssh-ed25519 host key is damaged"),
        (
            PLATFORM.replace("A" * 43, "!" + "A" * 43),
            "host_keys[0]: the base64 part of the ssh-ed25519 host key is damaged",
        ),
        (
            TLS_PLATFORM.replace("A" * 43, "ä" * 43),
            "server_keys[0]: the base64 part of the server key is damaged: it is that of 32 octets",
        ),
        (
            TLS_PLATFORM.replace("A" * 43, "!" + "A" * 43),
            "server_keys[0]: the base64 part of the server key is damaged: it is that of 32 octets",
        ),
    ],
)
def test_pin_in_other_letters_is_damaged(files, text, sentence):
    files.write("platforms.d/a.toml", text)
    (fault,) = files.faults()
    assert fault.endswith(f"[channel] {sentence}")


def test_empty_pin_is_told_with_what_belongs_there(files):
    files.write("platforms.d/a.toml", re.sub("sha256//A*=", "", TLS_PLATFORM))
    (fault,) = files.faults()
    assert "server_keys[0]: '' is not a server key: write \"sha256//BASE64\"" in fault


def test_prefix_given_twice_is_a_fault_across_files(files):
    files.write("kmp-smsd.toml", MAIN.replace("[numbering]", '[numbering]\ninclude = ["x.toml", "x.toml", "y.toml"]'))
    files.write("x.toml", 'ranges = [\n  {prefix = "8613", digits = 14, name = "x"},\n]')
    files.write("y.toml", '[[ranges]]\nprefix = "8615"\ndigits = 14\nname = "y"\n')
    assert files.faults() == [
        "kmp-smsd.toml:6: [numbering] include[1]: is given twice",
        "x.toml:2: ranges[0].prefix: 8613 has been given at kmp-smsd.toml:8",
    ]


def test_lower_bound_above_the_default_of_the_upper_one_is_a_fault(files):
    files.append("reconnect_min_s = 100\n")
    files.write("platforms.d/metering.toml", "retry_min_s = 1000\n" + PLATFORM)
    assert files.faults() == [
        "kmp-smsd.toml:8: [smsc.north] reconnect_max_s: 60 is less than reconnect_min_s",
        "platforms.d/metering.toml: retry_max_s: 900 is less than retry_min_s",
    ]


def test_section_that_is_given_twice_is_named_and_not_the_one_before_it(files):
    files.append("[secrets]\n")
    assert files.faults() == [f"kmp-smsd.toml:{GOOD_LINES + 1}: [secrets] this section is given twice"]


@pytest.mark.parametrize("path", ["", "a\\u0000b"])
def test_included_path_that_can_be_none_is_one_fault(files, path):
    ranges = 'ranges = [{prefix = "8613", digits = 13, name = "mobile"}]'
    assert ranges in MAIN
    for rest in (ranges, ""):
        files.write("kmp-smsd.toml", MAIN.replace(ranges, f'include = ["{path}"]\n{rest}'))
        assert files.faults() == ["kmp-smsd.toml:7: [numbering] include[0]: write a path in quotes"]


def test_file_that_others_can_write_is_refused(files):
    (files.directory / "kmp-smsd.toml").chmod(0o660)
    files.write("platforms.d/a.toml", PLATFORM).chmod(0o642)
    (files.directory / "platforms.d").chmod(0o770)
    assert files.faults() == [
        "kmp-smsd.toml: others can write it: chmod go-w kmp-smsd.toml",
        "platforms.d: others can write in it: chmod go-w platforms.d",
        "platforms.d/a.toml: others can write it: chmod go-w platforms.d/a.toml",
    ]


def test_missing_file_directory_and_fifo_are_told_at_once(files):
    (files.directory / "kmp-smsd.toml").unlink()
    (files.directory / "platforms.d").mkdir(mode=0o755)
    (files.directory / "platforms.d" / "dir.toml").mkdir()
    os.mkfifo(files.directory / "platforms.d" / "fifo.toml", 0o600)
    (files.directory / "platforms.d" / "gone.toml").symlink_to("nowhere")
    assert files.faults() == [
        "kmp-smsd.toml: cannot be read: No such file or directory",
        "platforms.d/dir.toml: is a directory, not a file",
        "platforms.d/fifo.toml: is not a file",
        "platforms.d/gone.toml: cannot be read: No such file or directory",
    ]


def test_control_directory_without_room_for_the_path_of_every_socket_is_a_fault(files):
    for written, octets in (("d", 1), ("é", 2)):
        room = 107 - len(b"//dispatch.sock") - octets
        files.append(f'[control]\ndirectory = "/{written}{"d" * room}"\n')
        files.load()
        files.append(f'[control]\ndirectory = "/{written}{"d" * (room + 1)}"\n')
        (fault,) = files.faults()
        assert fault.startswith("kmp-smsd.toml:13: [control] directory: /")
        assert fault.endswith(
            "d/dispatch.sock has 108 octets, a socket's path has at most 107: give [control] directory a shorter one"
        )


def test_platforms_d_that_is_a_file_is_a_fault(files):
    files.write("platforms.d", "")
    assert files.faults() == ["platforms.d: cannot be read: Not a directory"]


def test_file_that_may_not_be_read_is_a_fault(files, monkeypatch):
    def refuse(path, _flags):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("kmp_smsd.config.load.open_without_waiting", refuse)  # root can read every file
    assert files.faults() == [
        "kmp-smsd.toml: permission denied: run this as root, or as a member of the service's group;"
        " a role needs owners and modes as 'systemd-tmpfiles --create kmp-smsd.conf' sets them"
    ]


def test_file_of_10_megabytes_is_refused_unread(files):
    files.write("kmp-smsd.toml", b"# x\n" * 2_500_000)
    assert files.faults() == ["kmp-smsd.toml: is longer than 1048576 octets: this is no configuration file"]


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ("{a=", "}")])
def test_deep_nesting_is_a_fault(files, open_, close):
    files.write("kmp-smsd.toml", "a = " + open_ * 50_000 + close * 50_000)
    assert files.faults() == ["kmp-smsd.toml: lists or tables are nested too deeply"]


def test_number_of_thousands_of_digits_is_a_fault(files):
    files.append("rate_per_s = " + "9" * 5000)
    assert files.faults() == ["kmp-smsd.toml: a number has thousands of digits"]


def test_name_of_a_file_cannot_paint_the_terminal(files):
    files.write("platforms.d/\x1b[31m.toml", PLATFORM)
    assert "platforms.d/\\x1b[31m.toml: the file's name is the platform's" in files.faults()[0]


def test_text_in_another_encoding_is_a_fault(files):
    files.write("kmp-smsd.toml", MAIN.encode("utf-16"))
    assert files.faults() == ["kmp-smsd.toml: is not text in UTF-8: octet 0 cannot be read"]
    files.write("kmp-smsd.toml", MAIN.encode("utf-8-sig"))
    assert files.load().smsc.keys() == {"north"}


@given(st.one_of(st.binary(max_size=200), st.text(st.sampled_from("[]{}=\"'#\n\\ab.,5 "), max_size=60).map(str.encode)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_a_fault_of_its_file_and_nothing_else(files, noise):
    files.write("kmp-smsd.toml", noise)
    with pytest.raises(ConfigFaults) as raised:
        files.load()
    for fault in raised.value.faults:
        assert fault.file == str(files.directory / "kmp-smsd.toml")
        assert str(fault).isprintable()


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_line_gives_a_fault_or_a_configuration(files, data):
    rows = MAIN.split("\n")
    number = data.draw(st.integers(0, len(rows) - 1))
    at = data.draw(st.integers(0, len(rows[number])))
    rows[number] = (
        rows[number][:at] + data.draw(st.text(st.characters(codec="utf-8"), max_size=4)) + rows[number][at:][1:]
    )
    files.write("kmp-smsd.toml", "\n".join(rows))
    files.told()  # any other exception fails the test


VALUES = [
    "5",
    "-1",
    "2.5",
    "nan",
    "true",
    '"hunter2"',
    '""',
    "[]",
    "[[5]]",
    '["hunter2"]',
    "{}",
    "{hunter2 = {a = 1}}",
    "07:32:00",
]


@pytest.mark.parametrize(
    ("section", "option"),
    [
        *(("smsc.north", name) for name in Link.model_fields),
        *(("sync", name) for name in Sync.model_fields),
        *(("numbering", name) for name in Numbering.model_fields),
        *(("secrets", name) for name in Secrets.model_fields),
        *(("channel", name) for name in SshOptions.model_fields),
        *(("channel", name) for name in TlsOptions.model_fields if name not in SshOptions.model_fields),
        ("platform", "apps"),
        ("platform", "enabled"),
    ],
)
def test_value_of_any_type_is_a_fault_of_its_line_or_taken(files, section, option):
    written = TLS_PLATFORM if option in TlsOptions.model_fields and option not in SshOptions.model_fields else PLATFORM
    main, platform = MAIN + "[sync]\n", "[platform]\n" + written
    for value in VALUES:
        texts = []
        for text in (main, platform):
            tables = re.split(r"(?m)^(?=\[)", text)
            for number, table in enumerate(tables):
                if table.startswith(f"[{section}]"):
                    table = re.sub(rf"(?m)^{option} = .*\n", "", table)
                    tables[number] = table.replace("]\n", f"]\n{option} = {value}\n", 1)
            texts.append("".join(tables))
        files.write("kmp-smsd.toml", texts[0])
        files.write("platforms.d/a.toml", texts[1].removeprefix("[platform]\n"))
        told = files.told()
        if section != "numbering":  # whose files and ranges are judged together
            assert not told or [fault for fault in told if fault.line and option in str(fault)]
        if option in ("password", "master_key", "ssh_identity", "identity"):
            assert '"hunter2' not in "".join(map(str, told))


def test_configuration_imports_neither_twisted_nor_paramiko():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, kmp_smsd.config.load; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout.split()
    assert not {name.split(".")[0] for name in loaded} & {"twisted", "paramiko", "cryptography", "sqlite3", "smpplib"}
