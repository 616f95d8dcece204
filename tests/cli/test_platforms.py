"""Platforms on the command line, against a real SSH server that runs kmp-receive."""

from __future__ import annotations

import os

import pytest

from kmp_smsd.cli.gathering import secrets
from kmp_smsd.simulator.openssh import new_identity
from kmp_smsd.simulator.platform import SimulatedPlatform
from kmp_smsd.storage import figures
from kmp_smsd.storage.outbox import Reject
from kmp_smsd.storage.platforms import PlatformState
from tests.cli.site import FIRST, HOST_KEY, PLATFORM, SECOND, dead_port
from tests.sshd import receiver_command
from tests.stunnel import StunnelServer, new_certificate


@pytest.fixture
def platform(site):
    """A platform that lets in the holder of the site's SSH identity; its own key is pinned nowhere yet."""
    private, public = new_identity()
    identity = site.directory / "ssh-identity"
    identity.touch(mode=0o600)
    identity.write_bytes(private)
    server = SimulatedPlatform(receiver_command(site.directory / "held.db"), public)
    server.start()
    site.platform("metering", server.address)
    yield server
    server.stop()


@pytest.fixture
def dead_address():
    with dead_port() as port:
        yield f"127.0.0.1:{port}"


def test_a_platform_is_trusted_by_the_line_that_trust_shows(site, platform):
    done = site.run("platforms", "test", "metering")
    assert done.exit_code == 69
    assert "the host key is not one of host_keys" in done.stdout

    file = site.directory / "platforms.d" / "metering.toml"
    before = file.read_text()
    done = site.run("platforms", "trust", "metering")
    assert done.exit_code == 0
    assert "SHA256:" in done.stdout
    assert file.read_text() == before
    line = done.stdout[done.stdout.index("host_keys = [") :]
    site.write("platforms.d/metering.toml", before[: before.index("host_keys")] + line)

    (row,) = site.rows("platforms", "trust", "metering")
    assert row["pinned"] is True
    assert row["pin"] == f"{platform.address} {platform.host_key}"
    (row,) = site.rows("platforms", "test", "metering")
    assert (row["ok"], row["receiver"], row["error"]) == (True, "kmp-receive 1", None)
    assert row["fingerprint"].startswith("SHA256:")
    assert "good" in site.ok("platforms", "test", "metering")


@pytest.fixture
def stunnel(site):
    """A platform behind stunnel that lets in whoever has the site's certificate; its own key is pinned nowhere yet."""
    certificate, private = new_certificate("kmp")
    identity = site.directory / "tls-identity"
    identity.touch(mode=0o600)
    identity.write_bytes(certificate + private)
    server = StunnelServer(site.directory / "stunnel", receiver_command(site.directory / "held.db"), certificate)
    server.start()
    yield server
    server.stop()


def test_a_platform_behind_tls_is_trusted_by_the_line_that_trust_shows(site, stunnel):
    begun = f'apps = ["meter"]\n[channel]\nkind = "tls"\nhosts = ["{stunnel.address}"]\n'
    site.write("platforms.d/metering.toml", begun)
    assert site.run("check-config").exit_code == 78
    done = site.run("platforms", "trust", "metering")
    assert done.exit_code == 0
    line = done.stdout[done.stdout.index("server_keys = [") :]
    identity = f'identity = {{file = "{site.directory}/tls-identity"}}\n'
    site.write("platforms.d/metering.toml", begun + line + identity)
    (row,) = site.rows("platforms", "trust", "metering")
    assert row == {
        "host": stunnel.address,
        "algorithm": "ecdsa secp256r1",
        "fingerprint": stunnel.server_key,
        "pin": f"{stunnel.address} {stunnel.server_key}",
        "pinned": True,
        "error": None,
    }
    assert "good" in site.ok("platforms", "test", "metering")

    site.write("platforms.d/metering.toml", begun + f'server_keys = ["sha256//{"A" * 43}="]\n' + identity)
    (row,) = site.rows("platforms", "trust", "metering")
    assert row["pinned"] is False
    done = site.run("platforms", "test", "metering")
    assert (done.exit_code, "server key is not one of server_keys" in done.stdout) == (69, True)


def test_keys_can_be_shown_before_the_file_is_complete(site, platform):
    site.write("platforms.d/metering.toml", f'[channel]\nhosts = ["{platform.address}"]\n')
    assert site.run("check-config").exit_code == 78
    (row,) = site.rows("platforms", "trust", "metering")
    assert row["pinned"] is False
    site.write("platforms.d/metering.toml", f'[channel]\nhosts = ["{platform.address}"]\nhost_keys = 5\n')
    assert site.rows("platforms", "trust", "metering") == [row]
    site.write("platforms.d/metering.toml", f'\ufeff[channel]\nhosts = ["{platform.address}"]\n')
    assert site.rows("platforms", "trust", "metering") == [row]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[channel]\nhost = 1\n", ': hosts = ["HOST:PORT"] is needed in [channel], a list in [ ]'),
        ("channel = 1\n", ': hosts = ["HOST:PORT"] is needed in [channel], a list in [ ]'),
        ('[channel]\nhosts = "keys.example"\n', ': hosts = ["HOST:PORT"] is needed in [channel], a list in [ ]'),
        ('[channel]\nhosts = ["keys.example:0"]\n', ": [channel] hosts: port 0 is not between 1 and 65535"),
        ('[channel]\nkind = "TLS"\nhosts = ["a.example:1"]\n', ": [channel] kind is not one of ssh, tls"),
        ('[channel]\nkind = ["tls"]\nhosts = ["a.example:1"]\n', ": [channel] kind is not one of ssh, tls"),
        ('apps = [\n[channel]\nhosts = ["keys.example"]\n', " is not in TOML: 'kmp-smsd check-config' tells where"),
    ],
)
def test_file_that_names_no_host_or_no_kind_of_channel_says_what_is_wrong_with_it(site, text, sentence):
    site.write("platforms.d/metering.toml", text)
    assert site.refused("platforms", "trust", "metering") == (78, f"platforms.d/metering.toml{sentence}")


def test_platform_without_a_file_gets_one_before_its_keys_are_shown(site):
    told = "no platforms.d/fleet.toml: write it first, with hosts in [channel]"
    assert site.refused("platforms", "trust", "fleet") == (1, told)
    told = "no platforms.d/metring.toml (did you mean 'metering'?)"
    assert site.refused("platforms", "trust", "metring") == (1, told)


def test_one_dead_host_of_two_is_told_and_spoils_the_exit_code(site, platform, dead_address):
    text = site.platform("metering", f'{platform.address}", "{dead_address}', platform.host_key).read_text()
    assert text.count("127.0.0.1") == 2
    done = site.run("platforms", "test", "metering", "--json")
    assert done.exit_code == 69
    assert [line.count('"ok": true') for line in done.stdout.splitlines()] == [1, 0]
    assert "Connection refused" in done.stdout.splitlines()[1]
    assert site.run("platforms", "trust", "metering").exit_code == 69


@pytest.fixture
def credential(site, platform, monkeypatch):
    """The identity as a credential: the file that the unit would load, which is not there yet."""
    monkeypatch.setattr(secrets, "CREDENTIALS", site.directory / "credentials")
    site.platform("metering", platform.address, platform.host_key)
    text = site.config.read_text()
    site.write("kmp-smsd.toml", text.replace(f'{{file = "{site.directory}/ssh-identity"}}', '{credential = "ssh"}'))
    return site.directory / "credentials" / "ssh"


def test_an_identity_that_a_unit_loads_is_read_from_its_file(site, credential):
    credential.parent.mkdir()
    (site.directory / "ssh-identity").rename(credential)
    assert "good" in site.ok("platforms", "test", "metering")


@pytest.mark.usefixtures("credential")
@pytest.mark.parametrize(
    ("uid", "remedy"), [(0, "can read; name it with"), (1, "can read; run this as root, or name it with")]
)
def test_an_identity_that_only_the_unit_has_is_named_by_hand(site, monkeypatch, uid, remedy):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    code, told = site.refused("platforms", "test", "metering")
    assert code == 77
    assert told.startswith("credentials/ssh: No such file or directory")
    assert told.endswith(f"{remedy} --identity")
    assert "good" in site.ok("platforms", "test", "metering", "--identity", str(site.directory / "ssh-identity"))
    code, told = site.refused("platforms", "test", "metering", "--identity", str(site.config))
    assert (code, "is not a private key" in told) == (77, True)


def test_more_than_is_counted_is_told_to_be_more(site, monkeypatch):
    monkeypatch.setattr(figures, "COUNTED_MAX", 1)
    site.ready("K1", "K2", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1")
    site.message(SECOND, "K2")
    (row,) = (row for row in site.rows("platforms", "list") if not row["platform"])
    assert (row["due"], row["due_more"]) == (1, True)
    assert "1+" in site.ok("platforms", "list")
    (row,) = (row for row in site.rows("platforms", "list", "--count-all") if not row["platform"])
    assert (row["due"], row["due_more"]) == (2, False)
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        list(store.routes.move(1))
        rows = store.outbox.due("metering", 1, 2)
        store.outbox.settle("metering", [Reject(one, 1, "no room") for one in rows], 1)
    for words, rejected in (((), (1, True)), (("--count-all",), (2, False))):
        (row,) = (row for row in site.rows("platforms", "list", *words) if row["platform"] == "metering")
        assert (row["rejected"], row["rejected_more"]) == rejected
    assert "1+" in site.ok("platforms", "list")


def test_platforms_are_listed_whether_dispatch_has_seen_them_or_not(site):
    site.ready("K1", apps=("alarm",))
    (new,) = site.rows("platforms", "list")
    assert (new["platform"], new["configured"], new["due"], new["held_back"]) == ("metering", True, 0, False)
    site.message(FIRST, "K1")
    waiting, _ = site.rows("platforms", "list")
    assert (waiting["platform"], waiting["due"], waiting["configured"]) == ("", 1, False)
    with site.store() as store:
        store.routes.set({"alarm": "gone"})
    assert "in no file" in site.ok("platforms", "list")
    disabled = PLATFORM.format(host="gone.example", host_key=HOST_KEY)
    site.write("platforms.d/gone.toml", "enabled = false\n" + disabled)
    assert "disabled" in site.ok("platforms", "list")
    assert {row["platform"]: row["disabled"] for row in site.rows("platforms", "list")} == {
        "": False, "gone": True, "metering": False
    }  # fmt: skip
    site.platform("metering", "keys.example", HOST_KEY).unlink()
    assert [row["configured"] for row in site.rows("platforms", "list")].count(True) == 0


def test_platform_that_is_not_enabled_is_found_by_its_file(site):
    site.ready()
    path = site.platform("metering", "keys.example", HOST_KEY)
    path.write_text(f"enabled = false\n{path.read_text()}")
    code, told = site.refused("platforms", "test", "metering")
    assert (code, told.partition(";")[0]) == (1, "platforms.d/metering.toml: set enabled = true first")
    assert site.refused("platforms", "test", "meterin")[1].startswith("no enabled platform 'meterin'")
    assert f"no platform is enabled in {site.directory}/platforms.d" in site.ok("platforms", "list")


def test_platform_that_is_held_back_is_not_said_to_be_paused_which_is_a_person_s_doing(site):
    site.ready()
    with site.store() as store:
        store.platforms.report(PlatformState("metering", last_error="20 rejections in a row", held_back=True))
    (listed,) = site.rows("platforms", "list")
    assert (listed["held_back"], "paused" in listed) == (True, False)
    assert "held back" in site.ok("platforms", "list")
