"""What a reload finds changed, and what of that it can put in force."""

from __future__ import annotations

import pytest

from kmp_smsd.config.changes import changes, in_force
from kmp_smsd.config.section import Reload
from tests.config.config_files import MAIN, PLATFORM, TLS_PLATFORM, Files

OWN_CREDENTIAL = PLATFORM + 'identity = {credential = "ssh-own"}\n'
OWN_FILE = PLATFORM + 'identity = {file = "/etc/ssh-own"}\n'


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def edit(files):
    """Load, change files, load again: both configurations."""

    def edited(main=MAIN, platforms=None):
        old = files.load()
        files.write("kmp-smsd.toml", main)
        for name, text in (platforms or {}).items():
            files.write(f"platforms.d/{name}.toml", text)
        return old, files.load()

    return edited


def told(old, new):
    return {str(change): change.reload for change in changes(old, new)}


def test_the_same_files_differ_in_nothing(edit):
    assert told(*edit()) == {}


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        (MAIN + "in_flight_max = 5\n", {"[smsc.north] in_flight_max": Reload.LINK}),
        (MAIN + "[sync]\nmdn_burst = 3\n", {"[sync] mdn_burst": Reload.AT_ONCE}),
        (MAIN.replace("8613", "8614"), {"[numbering]": Reload.AT_ONCE}),
        (MAIN + "[gateway.data]\n", {"[gateway.data] new": Reload.AT_ONCE}),
        (MAIN + '[storage]\npath = "/other.db"\n', {"[storage] path": Reload.RESTART}),
        (MAIN + '[control]\ndirectory = "/other"\n', {"[control] directory": Reload.RESTART}),
        (MAIN.replace('"ssh-identity"', '"other"'), {"[secrets] ssh_identity": Reload.RESTART}),
        (
            MAIN.replace("smsc.north", "smsc.south").replace('{credential = "smsc-north"}', '{file = "/south"}'),
            {"[smsc.north] gone": Reload.LINK, "[smsc.south] new": Reload.LINK},
        ),
        (MAIN.replace('{credential = "smsc-north"}', '{file = "/north"}'), {"[smsc.north] password": Reload.LINK}),
        (
            MAIN.replace('"smsc-north"', '"other"') + "in_flight_max = 5\n",
            {"[smsc.north] password": Reload.RESTART, "[smsc.north] in_flight_max": Reload.RESTART},
        ),
        (MAIN + "enabled = false\n", {"[smsc.north] disabled": Reload.LINK}),
    ],
)
def test_each_changed_option_is_named_with_what_a_reload_does(edit, main, expected):
    assert told(*edit(main)) == expected


def test_platforms_are_named_by_their_files(files, edit):
    files.write("platforms.d/metering.toml", PLATFORM)
    fleet = PLATFORM.replace('"meter"', '"tracker"')
    old, new = edit(platforms={"metering": PLATFORM + "window = 7\n", "fleet": fleet})
    assert told(old, new) == {
        "platforms.d/fleet.toml new": Reload.PLATFORM,
        "platforms.d/metering.toml window": Reload.PLATFORM,
    }
    assert told(new, old)["platforms.d/fleet.toml gone"] is Reload.PLATFORM


def test_a_platform_whose_file_is_there_but_not_enabled_is_not_said_to_be_gone(files, edit):
    files.write("platforms.d/metering.toml", PLATFORM)
    old, new = edit(platforms={"metering": "enabled = false\n" + PLATFORM})
    assert told(old, new) == {"platforms.d/metering.toml disabled": Reload.PLATFORM}


@pytest.mark.parametrize(
    ("section", "role"),
    [
        ("[sync]\nmdn_burst = 3\n", "intake"),
        ('[storage]\npath = "/other.db"\n', ""),
        ("[smsc.south]\nhosts = ['h:1']\nsystem_id = 'k'\npassword = {credential = 'p'}\n", "intake"),
    ],
)
def test_each_change_knows_the_role_that_it_matters_to(edit, section, role):
    (change,) = changes(*edit(MAIN + section))
    assert change.role == role


def test_secrets_matter_to_the_role_that_reads_them(edit):
    found = changes(*edit(MAIN.replace('"master-key"', '"other"').replace("master-key.pub", "other.pub")))
    assert [(change.option, change.role) for change in found] == [("public_key", "intake"), ("master_key", "dispatch")]


def test_what_needs_a_restart_stays_in_force_as_it_was(edit):
    old, new = edit(MAIN + '[storage]\npath = "/other.db"\n[sync]\nmdn_burst = 3\n')
    now = in_force(old, new)
    assert (now.storage, now.sync.mdn_burst) == (old.storage, 3)
    assert [str(change) for change in changes(now, new)] == ["[storage] path"]


@pytest.mark.parametrize(
    ("text", "served", "needs_restart"),
    [
        (PLATFORM, True, []),
        (OWN_FILE, True, []),
        (OWN_CREDENTIAL, False, ["platforms.d/metering.toml new"]),
    ],
)
def test_a_dropped_in_platform_is_served_unless_its_credential_was_not_there_at_the_start(
    edit, text, served, needs_restart
):
    old, new = edit(platforms={"metering": text})
    now = in_force(old, new)
    assert ("metering" in now.platforms) is served
    assert [str(change) for change in changes(now, new)] == needs_restart


def test_a_platform_keeps_its_identity_and_takes_the_rest(files, edit):
    files.write("platforms.d/metering.toml", PLATFORM)
    old, new = edit(platforms={"metering": "retry_min_s = 9\n" + OWN_CREDENTIAL})
    now = in_force(old, new)
    assert now.platforms["metering"].channel.identity is None
    assert now.platforms["metering"].retry_min_s == 9
    assert [str(change) for change in changes(now, new)] == ["platforms.d/metering.toml identity"]


@pytest.mark.parametrize(
    ("before", "after", "reload"),
    [
        (PLATFORM, TLS_PLATFORM, Reload.PLATFORM),
        (TLS_PLATFORM, PLATFORM, Reload.PLATFORM),
        (TLS_PLATFORM, OWN_CREDENTIAL, Reload.RESTART),
        (PLATFORM, TLS_PLATFORM.replace('file = "/etc/tls-own"', 'credential = "tls_own"'), Reload.RESTART),
    ],
)
def test_a_platform_gets_another_kind_of_channel_whole_or_keeps_the_one_it_has(files, edit, before, after, reload):
    files.write("platforms.d/metering.toml", before)
    old, new = edit(platforms={"metering": "retry_min_s = 9\n" + after})
    assert told(old, new) == {
        "platforms.d/metering.toml kind": reload,
        "platforms.d/metering.toml retry_min_s": Reload.PLATFORM,
    }
    now = in_force(old, new)
    expected = old if reload is Reload.RESTART else new
    assert now.platforms["metering"].channel == expected.platforms["metering"].channel
    assert now.platforms["metering"].retry_min_s == 9
    left = ["platforms.d/metering.toml kind"] if reload is Reload.RESTART else []
    assert [str(change) for change in changes(now, new)] == left


SOUTH = """\
[smsc.south]
hosts = ["south.example:2775"]
system_id = "kmp"
password = {credential = "smsc-south"}
"""


def test_a_new_link_is_left_out_where_its_credential_was_not_there_at_the_start(edit):
    old, new = edit(MAIN + "in_flight_max = 5\n" + SOUTH)
    now = in_force(old, new)
    assert (list(now.smsc), now.smsc["north"].in_flight_max) == (["north"], 5)
    assert told(now, new) == {"[smsc.south] new": Reload.RESTART}


def test_a_link_that_is_to_use_another_credential_stays_all_as_it_was(edit):
    other = MAIN.replace('"smsc-north"', '"other"').replace('system_id = "kmp"', 'system_id = "kmp2"')
    old, new = edit(other + "[sync]\nmdn_burst = 3\n")
    now = in_force(old, new)
    assert (now.smsc["north"], now.sync.mdn_burst) == (old.smsc["north"], 3)
    assert [str(change) for change in changes(now, new)] == ["[smsc.north] system_id", "[smsc.north] password"]


def test_links_go_on_where_none_of_the_new_ones_could_start(edit):
    old, new = edit(MAIN.replace("smsc.north", "smsc.south") + "[sync]\nmdn_burst = 3\n")
    now = in_force(old, new)
    assert (now.smsc, now.sync.mdn_burst) == (old.smsc, 3)
    assert [str(change) for change in changes(now, new)] == ["[smsc.north] gone", "[smsc.south] new"]
