from __future__ import annotations

import pytest

from kmp_smsd.channels.host import Host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("keys.example:2222", Host("keys.example", 2222)),
        ("192.0.2.7:22", Host("192.0.2.7", 22)),
        ("[2001:db8::1]:2022", Host("2001:db8::1", 2022)),
        ("[keys.example]:2222", Host("keys.example", 2222)),  # as known_hosts has it
    ],
)
def test_host_is_read_and_written_in_one_form(text: str, host: Host) -> None:
    assert Host.parse(text) == host == Host.parse(str(host))


@pytest.mark.parametrize("text", ["", "a:", "a:b", "a b:1", "2001:db8::1", "u@h:1", "a:1\n", "a:٣", 7, None])
def test_what_is_no_host_is_told_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match='write "HOST:PORT"'):
        Host.parse(text)


@pytest.mark.parametrize("port", ["0", "65536", "123456789"])
def test_port_that_is_none_is_told(port: str) -> None:
    with pytest.raises(ValueError, match=f"port {port} is not between 1 and 65535"):
        Host.parse(f"a:{port}", default_port=22)


@pytest.mark.parametrize("name", [".example", "a..b", "a" * 64, f"keys.{'a' * 64}.example", "."])
def test_name_that_no_resolver_takes_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 63 characters between its dots"):
        Host.parse(f"{name}:22")
    Host.parse(f"{'a' * 63}.example.:22")


def test_port_may_be_left_out_only_where_there_is_a_usual_one() -> None:
    assert Host.parse("a", default_port=22) == Host("a", 22)
    with pytest.raises(ValueError, match="write"):
        Host.parse("a")
