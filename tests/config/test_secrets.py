from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kmp_smsd.channels.options import SecretRef
from kmp_smsd.config.link import Link
from kmp_smsd.config.models import Secrets
from kmp_smsd.config.secrets import NO_FILE, SecretUnavailable, platform_identity, read_password, read_secret

UNITS = Path(__file__).resolve().parents[2] / "systemd"


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def link(**options):
    return Link.model_validate(
        {"hosts": ["smsc.example:2775"], "system_id": "kmp", "password": {"credential": "smsc"}, **options}
    )


@pytest.mark.parametrize(
    ("octets", "secret"),
    [
        (b"hunter2\n", b"hunter2"),
        (b"hunter2\r\n", b"hunter2"),
        (b"hunter2", b"hunter2"),
        (b"a\n\n", b"a\n"),
        (b"", b""),
        (b"\x00\xff", b"\x00\xff"),
        (b" a ", b" a "),
    ],
)
def test_secret_is_read_without_its_trailing_newline(credentials, octets, secret):
    (credentials / "smsc").write_bytes(octets)
    assert read_secret(SecretRef(credential="smsc")) == secret


def test_credential_of_any_mode_is_read_since_systemd_guards_it(credentials):
    (credentials / "smsc").write_bytes(b"x")
    (credentials / "smsc").chmod(0o444)
    assert read_secret(SecretRef(credential="smsc")) == b"x"


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("smsc_north", "put it into /etc/kmp-smsd/credentials/smsc/north and restart"),
        ("ssh_metering", "put it into /etc/kmp-smsd/credentials/ssh/metering and restart"),
        ("tls_metering", "put it into /etc/kmp-smsd/credentials/tls/metering and restart"),
        ("ssh-identity", "put it into /etc/kmp-smsd/credentials/ssh-identity and restart"),
        ("master-key", "`kmp-smsd master-key create` makes /etc/kmp-smsd/credentials/master-key, or put it back"),
        ("smsc", "the unit needs LoadCredential=smsc:/etc/kmp-smsd/credentials/smsc"),
    ],
)
def test_missing_credential_tells_where_our_units_look_for_it(name, remedy):
    with pytest.raises(SecretUnavailable, match=re.escape(f"credential {name}: No such file or directory: {remedy}")):
        read_secret(SecretRef(credential=name))


def test_placeholder_that_our_units_give_for_a_missing_file_is_no_secret(credentials):
    (credentials / "master-key").write_bytes(NO_FILE)
    with pytest.raises(SecretUnavailable, match="no file when the unit started: `kmp-smsd master-key create` makes"):
        read_secret(SecretRef(credential="master-key"))
    for unit in ("kmp-smsd-dispatch.service", "kmp-smsd.service"):
        assert f"SetCredential=master-key:{NO_FILE.decode()}\n" in (UNITS / unit).read_text(encoding="utf-8")


@pytest.mark.parametrize("given", [{}, {"CREDENTIALS_DIRECTORY": ""}])
def test_credential_without_systemd_is_a_sentence(monkeypatch, tmp_path, given):
    (tmp_path / "smsc").write_bytes(b"hunter2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SecretUnavailable, match=r"\$CREDENTIALS_DIRECTORY is not set"):
        read_secret(SecretRef(credential="smsc"))


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o601])
def test_secret_file_that_is_open_to_others_is_refused(tmp_path, mode):
    path = tmp_path / "secret"
    path.write_bytes(b"hunter2")
    path.chmod(mode)
    with pytest.raises(SecretUnavailable, match=r"is open to other users: chmod g-w,o= ") as raised:
        read_secret(SecretRef(file=path))
    assert "hunter2" not in str(raised.value)
    path.chmod(0o640)
    assert read_secret(SecretRef(file=path)) == b"hunter2"


def test_secret_that_is_no_file_is_a_sentence(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(SecretUnavailable, match="is not a file"):
        read_secret(SecretRef(file=tmp_path / "fifo"))
    with pytest.raises(SecretUnavailable, match="Is a directory"):
        read_secret(SecretRef(file=tmp_path))
    with pytest.raises(SecretUnavailable, match="No such file"):
        read_secret(SecretRef(file=tmp_path / "none"))


def test_secret_of_a_megabyte_is_refused(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"x" * 1_000_000)
    path.chmod(0o600)
    with pytest.raises(SecretUnavailable, match="longer than 65536 octets"):
        read_secret(SecretRef(file=path))


def test_password_longer_than_smpp_allows_needs_the_setting(credentials):
    (credentials / "smsc").write_bytes(b"12345678")
    assert read_password(link()) == "12345678"
    (credentials / "smsc").write_bytes(b"123456789")
    with pytest.raises(SecretUnavailable, match="allow_long_password = true") as raised:
        read_password(link())
    assert "123456789" not in str(raised.value)
    assert read_password(link(allow_long_password=True)) == "123456789"


@pytest.mark.parametrize("octets", [b"", b"\n"])
def test_empty_password_is_a_file_not_filled_in_unless_the_setting_says_otherwise(credentials, octets):
    path = credentials / "smsc_north"
    path.write_bytes(octets)
    path.chmod(0o600)
    named = {"password": {"credential": "smsc_north"}}
    with pytest.raises(SecretUnavailable, match="the password in smsc_north is empty: put it into /etc/kmp-smsd/cred"):
        read_password(link(**named))
    assert read_password(link(**named, allow_empty_password=True)) == ""
    with pytest.raises(SecretUnavailable, match=re.escape(f"the password in {path} is empty: write the one")) as raised:
        read_password(link(password={"file": str(path)}))
    assert str(raised.value).endswith("; if the SMSC wants none, set allow_empty_password = true")


@pytest.mark.parametrize("octets", [b"a\x00b", "ä".encode(), b"secret\n\n", b"one\ntwo"])
def test_password_that_smpp_cannot_carry_is_refused(credentials, octets):
    (credentials / "smsc").write_bytes(octets)
    with pytest.raises(SecretUnavailable, match="not printable ASCII: write it alone on one line"):
        read_password(link())


def test_platform_s_own_ssh_identity_wins_over_the_common_one():
    own, common = SecretRef(credential="ssh-metering"), SecretRef(file="/run/ssh")
    secrets = Secrets.model_construct(ssh_identity=common)
    assert platform_identity(own, secrets) == own
    assert platform_identity(None, secrets) == common
    with pytest.raises(SecretUnavailable, match=r"\[secrets\] ssh_identity is missing"):
        platform_identity(None, Secrets.model_construct(ssh_identity=None))
