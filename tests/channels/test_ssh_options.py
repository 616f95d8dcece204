from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.options import SecretRef
from kmp_smsd.channels.ssh_options import HostKey, SshOptions

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDVQ3PMTlbQ5V53eyeGY2bsDNNFbV0JbNCcp+n1TJz5B"
PLAIN: dict[str, Any] = {"kind": "ssh", "hosts": ["keys.example"], "user": "kmp", "host_keys": [ED25519]}


def faults(**changes: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        SshOptions.model_validate(PLAIN | changes)
    return [error["msg"] for error in caught.value.errors()]


@pytest.mark.parametrize(
    "text", ["", "a b", "keys.example:", "keys.example:0", "keys.example:70000", "2001:db8::1", "u@h", 22]
)
def test_host_that_is_none_is_a_fault(text: object) -> None:
    assert faults(hosts=[text])


@pytest.mark.parametrize("user", ["", "a b", "-l", "kmp\n", "k\N{LATIN SMALL LETTER U WITH DIAERESIS}", "k" * 65])
def test_user_that_is_none_is_a_fault(user: str) -> None:
    assert faults(user=user)


def test_platform_has_at_least_one_host_and_not_too_many() -> None:
    assert faults(hosts=[])
    hosts = [f"h{number}" for number in range(17)]
    assert len(SshOptions.model_validate(PLAIN | {"hosts": hosts[:16]}).hosts) == 16
    assert faults(hosts=hosts)


def test_host_without_a_port_has_that_of_ssh() -> None:
    options = SshOptions.model_validate(PLAIN | {"hosts": ["keys.example", "[2001:db8::1]"]})
    assert options.hosts == (Host("keys.example", 22), Host("2001:db8::1", 22))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-dss AAAAB3NzaC1kc3M=",
        "ssh-ed25519 not-base64!",
        "ecdsa-sha2-nistp256 " + ED25519.split()[1],
        "ssh-rsa ssh-rsa",
    ],
)
def test_host_key_that_is_none_is_a_fault(text: str) -> None:
    assert faults(host_keys=[text])


def test_line_of_ssh_keyscan_is_a_host_key() -> None:
    options = SshOptions.model_validate(
        PLAIN | {"hosts": ["keys.example:2222"], "host_keys": [f"[keys.example]:2222 {ED25519} a comment"]}
    )
    [key] = options.pinned_for(Host("keys.example", 2222))
    assert HostKey.parse(key.text()) == key


def test_every_host_needs_a_key_and_every_key_its_host() -> None:
    assert faults(host_keys=[]) != []
    assert "no key for b:22" in faults(hosts=["a", "b"], host_keys=[f"a {ED25519}"])[0]
    assert "names c:22, which is not one of hosts" in faults(host_keys=[f"c {ED25519}", ED25519])[0]


def test_unknown_option_is_a_fault() -> None:
    assert faults(pasword="x") == ["Extra inputs are not permitted"]


def test_options_do_not_change() -> None:
    options = SshOptions.model_validate(PLAIN)
    with pytest.raises(ValidationError):
        options.window = 7  # type: ignore[misc]


def test_every_option_is_described() -> None:
    for model in (SshOptions, SecretRef):
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize("reference", [{}, {"credential": "a", "file": "/b"}, {"file": "b"}, {"credential": "../a"}])
def test_secret_is_found_in_exactly_one_place(reference: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        SecretRef.model_validate(reference)


def test_faulty_secret_is_not_repeated_in_its_error() -> None:
    with pytest.raises(ValidationError) as caught:
        SecretRef.model_validate({"password": "hunter2-hunter2"})
    assert "hunter2" not in str(caught.value)
