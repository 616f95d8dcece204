from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import logging
import random
import re
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import paramiko
import pytest

from kmp_smsd.channels import shown_keys
from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.hiding import REPEATS_A_KEY, presentable
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.line_channel import LineChannel
from kmp_smsd.channels.opening import open_channel, probe
from kmp_smsd.channels.protocol import Bind, ChannelDown, Confirmed, Rejected, TryLater, Withdraw
from kmp_smsd.channels.shown_keys import fetch_host_keys
from kmp_smsd.channels.ssh_options import SshOptions
from kmp_smsd.simulator.openssh import OpensshServer, new_identity
from kmp_smsd.simulator.platform import SimulatedPlatform
from tests.channels.peer import NOW_S, VERSION, Platform, make_binds
from tests.channels.spellings import SPELLINGS
from tests.channels.test_hiding import is_legible
from tests.sshd import receiver_command

STRANGER = new_identity()[1]
KEY = bytes.fromhex("5ec2e7ca11ab1e0ddba11c0ffee00d1e")


def secret_bind(version: int = VERSION) -> Bind:
    return Bind(
        mdn="8613912345678", app_id="meter", version=version, key_id="8A3F", algorithm="aes", kcv="BE7ED6", key=KEY
    )


def withdraw(bind: Bind, version: int) -> Withdraw:
    return Withdraw(mdn=bind.mdn, app_id=bind.app_id, version=version)


@pytest.fixture
def second(platform: Platform) -> OpensshServer:
    """A second door to the platform's store, with a host key of its own."""
    platform.second.start()
    return platform.second


# --- delivering -------------------------------------------------------------------------------------------------------


def test_key_is_held_by_the_platform_once_it_is_confirmed(platform: Platform, binds: list[Bind]) -> None:
    results = list(platform.open().deliver(binds))
    assert results == [Confirmed(bind) for bind in binds]
    assert platform.held() == {(bind.mdn, bind.app_id): (VERSION, bind.key) for bind in binds}


def test_withdrawn_key_is_gone_and_its_tombstone_stays(platform: Platform, binds: list[Bind]) -> None:
    channel = platform.open()
    list(channel.deliver(binds[:2]))
    assert list(channel.deliver([withdraw(binds[0], VERSION + 1)])) == [Confirmed(withdraw(binds[0], VERSION + 1))]
    assert platform.held() == {
        (binds[0].mdn, "meter"): (VERSION + 1, None),
        (binds[1].mdn, "meter"): (VERSION, binds[1].key),
    }
    [late] = channel.deliver([binds[0]])
    assert isinstance(late, TryLater)
    assert late.held_version == VERSION + 1


def test_delivery_repeated_after_a_lost_answer_is_confirmed_again(platform: Platform, binds: list[Bind]) -> None:
    list(platform.open().deliver(binds))
    assert all(isinstance(result, Confirmed) for result in platform.open().deliver(binds))


def test_other_key_under_the_same_version_is_rejected(platform: Platform) -> None:
    channel = platform.open()
    list(channel.deliver([secret_bind()]))
    [result] = channel.deliver([dataclasses.replace(secret_bind(), key_id="OTHER")])
    assert isinstance(result, Rejected)
    assert platform.held() == {("8613912345678", "meter"): (VERSION, KEY)}


def test_thousands_go_through_one_window_and_each_has_one_result(platform: Platform) -> None:
    binds = make_binds(5000)
    results = list(platform.open().deliver(binds))
    assert sorted(result.delivery.mdn for result in results) == sorted(bind.mdn for bind in binds)
    assert all(isinstance(result, Confirmed) for result in results)
    assert len(platform.held()) == 5000


def test_one_connection_serves_batch_after_batch(platform: Platform, binds: list[Bind]) -> None:
    channel = platform.open()
    for version in range(VERSION, VERSION + 20):
        batch = [dataclasses.replace(bind, version=version) for bind in binds]
        assert all(isinstance(result, Confirmed) for result in channel.deliver(batch))
    assert list(channel.deliver([])) == []
    assert {version for version, _ in platform.held().values()} == {VERSION + 19}


def test_answers_may_come_in_any_order(platform: Platform, binds: list[Bind]) -> None:
    platform.misbehave("backwards", str(len(binds)))
    results = list(platform.open().deliver(binds))
    assert [result.delivery for result in results] == binds[::-1]
    assert all(isinstance(result, Rejected) and result.reason == result.delivery.key_id for result in results)


def test_no_more_are_sent_unanswered_than_the_receiver_wants(platform: Platform, binds: list[Bind]) -> None:
    platform.misbehave("window")
    results = list(platform.open().deliver(binds))
    assert len(results) == len(binds)
    assert {result.reason for result in results if isinstance(result, Rejected)} <= {"most 1", "most 2", "most 3"}


def test_more_is_sent_before_answers_are_handed_over(platform: Platform) -> None:
    platform.misbehave("backwards", "4")
    waiting = iter(make_binds(20))
    results = platform.open(window=4).deliver(waiting)
    assert len(list(islice(results, 4))) == 4
    assert len(list(waiting)) == 20 - 8


def test_far_side_has_something_to_do_while_the_rest_of_a_window_is_made(
    platform: Platform, binds: list[Bind], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = platform.open(window=8)
    lines: list[int] = []
    send = channel._stream.send

    def watched(octets: bytes, *more: Any) -> None:
        lines.append(octets.count(b"\n"))
        send(octets, *more)

    monkeypatch.setattr(channel._stream, "send", watched)
    assert len(list(channel.deliver(binds[:8]))) == 8
    assert lines == [2, 2, 2, 2]


def test_what_was_answered_counts_although_more_cannot_be_sent(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.misbehave("backwards", "4")
    channel = platform.open(window=4)
    waiting = iter(make_binds(20))
    results: list[Confirmed | TryLater | Rejected] = []

    def until_down() -> None:
        for result in channel.deliver(waiting):
            results.append(result)

    def a_window(octets: bytes, *more: Any) -> None:
        sent.append(octets)
        if b"".join(sent).count(b"\n") > 4:
            raise stream.down("the connection broke")
        send(octets, *more)

    sent: list[bytes] = []
    stream = channel._stream
    send = stream.send
    monkeypatch.setattr(stream, "send", a_window)
    with pytest.raises(ChannelDown, match="the connection broke"):
        until_down()
    assert len(results) == 4


def answering(monkeypatch: pytest.MonkeyPatch, channel: LineChannel, answers: list[dict[str, object]]) -> None:
    """All of `answers` are there when the first one is waited for."""
    lines = [json.dumps(answer).encode() for answer in answers]
    monkeypatch.setattr(channel._stream, "receive", lambda *_: lines)


def test_receiver_that_answers_ahead_gets_no_more_than_a_window_more(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.misbehave("hang")
    channel = platform.open(window=4)
    answering(monkeypatch, channel, [{"id": number, "status": "retry"} for number in range(1, 101)])
    waiting = iter(make_binds(100))
    results = channel.deliver(waiting)
    assert len(list(islice(results, 20))) == 20
    assert len(list(waiting)) >= 100 - 20 - 2 * 4


def test_key_is_hidden_though_a_window_was_sent_since(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.misbehave("hang")
    channel = platform.open(window=4)
    quoted = "ODZIvwxFwaf/PtkJuwkTOA=="
    first, *others = make_binds(8)
    binds = [dataclasses.replace(first, key=base64.b64decode(quoted)), *others]
    answers = [{"id": number, "status": "rejected", "reason": f"cannot store {quoted}"} for number in (2, 3, 4, 1)]
    answering(monkeypatch, channel, answers)
    waiting = iter(binds)
    for result in islice(channel.deliver(waiting), 3):
        assert isinstance(result, Rejected)
        assert result.reason == REPEATS_A_KEY
    assert list(waiting) == []


def test_line_longer_than_the_receiver_takes_is_rejected_and_its_neighbours_go_on(platform: Platform) -> None:
    platform.misbehave("short")
    long = dataclasses.replace(secret_bind(), key_id="L" * 1_000)  # which only a stolen intake could ask for
    short = withdraw(secret_bind(), VERSION)
    results = list(platform.open().deliver([long, short]))
    assert isinstance(next(result for result in results if result.delivery is long), Rejected)
    assert Confirmed(short) in results


# --- a peer that is not what it should be -----------------------------------------------------------------------------


def test_host_with_another_key_gets_no_login_and_no_key(platform: Platform) -> None:
    with pytest.raises(ChannelDown, match="host key is not one of host_keys") as caught:
        platform.open(host_keys=[STRANGER])
    assert "SHA256:" in str(caught.value)
    assert platform.server.wait_for_log("Connection closed by", "Connection reset by")
    assert "kex: algorithm" in platform.server.log
    assert "userauth-request" not in platform.server.log
    # And the same log tells of a login where there is one.
    platform.open()
    assert platform.server.wait_for_log("userauth-request")
    assert platform.held() == {}


def test_host_without_a_key_of_the_pinned_type_gets_no_login(platform: Platform) -> None:
    point = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA"
    with pytest.raises(ChannelDown, match="no host key of type ecdsa-sha2-nistp256"):
        platform.open(host_keys=[point + "=" * (-len(point.split()[1]) % 4)])
    assert "userauth-request" not in platform.server.log


def test_key_pinned_to_one_host_does_not_open_another(platform: Platform, second: OpensshServer) -> None:
    pinned = [f"{platform.server.address} {second.host_key}", f"{second.address} {platform.server.host_key}"]
    with pytest.raises(ChannelDown, match="host key is not one of host_keys"):
        platform.open(hosts=[platform.server.address, second.address], host_keys=pinned)


def test_refused_login_says_which_key_to_authorize(platform: Platform) -> None:
    with pytest.raises(ChannelDown, match=r"refused our login as .* SHA256:\S+ \(ssh-ed25519\)"):
        platform.open(identity=new_identity()[0])


def damaged(place: int) -> bytes:
    """An identity with another bit in its public half, which stands there three times."""
    private, public = new_identity()
    head, *body, tail = private.splitlines()
    raw, half = bytearray(base64.b64decode(b"".join(body))), base64.b64decode(public.split()[1])[-32:]
    raw[[found.start() for found in re.finditer(re.escape(half), raw)][place]] ^= 1
    return b"\n".join([head, base64.b64encode(raw), tail])


@pytest.mark.parametrize(
    "identity",
    [
        b"",
        b"\xff\xfe",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        *map(damaged, range(3)),
    ],
)
def test_unreadable_identity_is_a_sentence_and_no_connection(platform: Platform, identity: bytes) -> None:
    with pytest.raises(ChannelDown, match="the SSH identity"):
        platform.open(identity=identity or b"\n")
    assert "Connection from" not in platform.server.log


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("version", "another version"),
        ("narrow", "takes lines of 200 octets only"),
        ("greeting", r"not JSON: Welcome to Debian GNU/Linux 12!"),
        ("silent", "within 0.5 s|no answer for 0.5 s"),
    ],
)
def test_receiver_without_our_hello_is_refused(platform: Platform, behaviour: str, said: str) -> None:
    platform.misbehave(behaviour)
    with pytest.raises(ChannelDown, match=said):
        platform.open(connect_within_s=20.0 if behaviour != "silent" else 0.5)


def test_missing_command_is_named_with_its_exit_status(platform: Platform) -> None:
    platform.server.command("/nowhere/kmp-receive")
    with pytest.raises(ChannelDown, match=r"exit status 127 .*/nowhere/kmp-receive: (No such file|not found)"):
        platform.open()


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("rubbish", r"not JSON: \.\.\. fault\.\.\.|not JSON: \.\.\."),
        ("endless", "a line of more than 65536 octets"),
        ("exit", r"exit status 3 \(it said: no space left on device\)"),
        ("twice", "answered an id that was never asked or has its answer"),
        ("unasked", "answered an id that was never asked"),
        ("hang", "no answer for 0.3 s"),
        ("dribble", "no answer for 0.3 s"),
    ],
)
def test_receiver_that_breaks_the_stream_is_dropped_and_confirms_nothing(
    platform: Platform, binds: list[Bind], behaviour: str, said: str
) -> None:
    platform.misbehave(behaviour)
    channel = platform.open(answer_within_s=0.3 if behaviour in ("hang", "dribble") else 20.0)
    results = []
    with pytest.raises(ChannelDown, match=said):
        results += channel.deliver(binds)
    assert not any(isinstance(result, Confirmed) for result in results)
    with pytest.raises(ChannelDown):
        list(channel.deliver(binds))
    platform.second.start()
    honest = platform.open(hosts=[platform.second.address], host_keys=[platform.second.host_key])
    assert list(honest.deliver(binds)) == [Confirmed(bind) for bind in binds]


@pytest.mark.parametrize(
    ("behaviour", "spelling"),
    [
        ("quote-line", "hex"), ("quote-line", "repr"), ("quote-line", "raw"), ("quote-line", "base64"),
        ("quote-error", "hex"), ("quote-error", "repr"), ("quote-error", "raw"), ("quote-error", "0x"),
        ("quote-octets", "hex"), ("quote-octets", "hexdump"), ("quote-octets", "decimal"),
        ("quote-reason", "percent"), ("quote-reason", "octal escapes"), ("quote-reason", "json escapes"),
    ],
)  # fmt: skip
def test_key_that_a_receiver_quotes_is_in_no_error_and_no_log(
    platform: Platform, behaviour: str, spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    platform.misbehave(behaviour, spelling)
    caplog.set_level(logging.DEBUG)
    if behaviour == "quote-reason":
        [result] = platform.open().deliver([secret_bind()])
        assert isinstance(result, TryLater)
        told = result.reason
    else:
        with pytest.raises(ChannelDown) as caught:
            list(platform.open().deliver([secret_bind()]))
        told = str(caught.value) + repr(caught.getrepr(chain=True))
    everything = told + caplog.text
    assert "bad key" in everything or REPEATS_A_KEY in everything
    # What is said of one octet after the other may stand in several lines.
    said = "".join(re.findall(r"says: (.*)", caplog.text))
    assert not is_legible(KEY, SPELLINGS[spelling](KEY), said)
    assert not is_legible(KEY, SPELLINGS[spelling](KEY), told)


WORDY = base64.b64decode("ODZIvwxFwaf/PtkJuwkTOA==")  # two words and a sign, which are free where nobody knows the key


@pytest.mark.parametrize("case", ["kept", "lower"])
def test_key_of_another_delivery_that_a_reason_quotes_is_hidden(platform: Platform, case: str) -> None:
    assert presentable(f"cannot store {base64.b64encode(WORDY).decode()}").endswith("PtkJuwkTOA==")
    platform.misbehave("quote-neighbours", "3", case)
    binds = [
        secret_bind(),
        dataclasses.replace(secret_bind(), app_id="other"),
        dataclasses.replace(secret_bind(), app_id="third", key=WORDY),
    ]
    results = list(platform.open().deliver(binds))
    assert [result.reason for result in results if isinstance(result, Rejected)] == [REPEATS_A_KEY] * 3


def test_key_that_is_quoted_long_after_its_answer_is_hidden(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """As by what says something only once it has much to say. A small window does not make that any sooner."""
    platform.misbehave("quote-late", "5")
    caplog.set_level(logging.INFO)
    channel = platform.open(window=1)
    bind = dataclasses.replace(secret_bind(), key=WORDY)
    assert list(channel.deliver([bind])) == [TryLater(bind, "busy")]
    with pytest.raises(ChannelDown) as caught:
        list(channel.deliver(make_binds(5)))
    assert f"says: {REPEATS_A_KEY}" in caplog.text
    assert REPEATS_A_KEY in str(caught.value)
    assert "PtkJuwkTOA" not in caplog.text + str(caught.value)


def test_key_over_which_a_receiver_broke_is_hidden_when_it_begins_anew(
    platform: Platform, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    platform.misbehave("quote-later", str(tmp_path / "kept"))
    caplog.set_level(logging.INFO)
    with pytest.raises(ChannelDown):
        list(platform.open().deliver([dataclasses.replace(secret_bind(), key=WORDY)]))
    channel = platform.open()
    assert channel.peer.receiver == REPEATS_A_KEY
    with pytest.raises(ChannelDown) as caught:
        list(channel.deliver([secret_bind()]))
    assert f"says: {REPEATS_A_KEY}" in caplog.text
    assert "PtkJuwkTOA" not in caplog.text + str(caught.value)


def test_octet_of_a_key_in_each_line_is_hidden_from_the_fourth_on(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.misbehave("quote-error", "hex, lines")
    caplog.set_level(logging.INFO)
    with pytest.raises(ChannelDown):
        list(platform.open().deliver([secret_bind()]))
    shown = re.findall(r"says: (?:bad key )?([0-9a-f]{2})$", caplog.text, re.MULTILINE)
    assert len(shown) < 4


def test_error_without_the_end_of_its_line_is_told(platform: Platform) -> None:
    platform.misbehave("unended")
    with pytest.raises(ChannelDown, match=r"exit status 3 \(it said: no space left on device\)"):
        list(platform.open().deliver([secret_bind()]))


def test_host_that_shows_another_key_on_a_live_connection_gets_nothing_more(tmp_path: Path) -> None:
    """As RFC 4253 allows, and paramiko: only a simulated host does it."""
    identity, public = new_identity()
    store = tmp_path / "keys.db"
    server = SimulatedPlatform(receiver_command(store), public)
    server.start()
    try:
        options = SshOptions(kind="ssh", hosts=(server.address,), user=server.user, host_keys=(server.host_key,))
        channel = open_channel(options, lambda _reference: identity, "metering", Cancel(), lambda: NOW_S, deque())
        first, second = make_binds(2)
        assert list(channel.deliver([first])) == [Confirmed(first)]
        [transport] = server._connections
        other = paramiko.Ed25519Key.from_private_key(io.StringIO(new_identity()[0].decode()))
        transport.add_server_key(other)
        transport.renegotiate_keys()
        with pytest.raises(ChannelDown, match="host key changed"):
            list(channel.deliver([second]))
        listed = subprocess.run([*receiver_command(store), "list", "--json"], check=True, capture_output=True)
        assert len(listed.stdout.splitlines()) == 1
    finally:
        server.stop()


def answer_of(platform: Platform, **answer: object) -> Confirmed | TryLater | Rejected:
    platform.misbehave("answer", json.dumps(answer))
    [result] = platform.open().deliver([secret_bind()])
    return result


@pytest.mark.parametrize("proof", [{"receipt": "zsK3lg-CzMhj3PeymwM_Gg"}, {}, {"receipt": 7}, {"receipt": "\ud800"}])
def test_receipt_that_proves_nothing_is_an_alarm_and_no_confirmation(
    platform: Platform, proof: dict[str, object]
) -> None:
    result = answer_of(platform, status="stored", **proof)
    assert isinstance(result, Rejected)
    assert result.alarm


def test_platform_that_asks_for_time_gets_it(platform: Platform) -> None:
    result = answer_of(platform, status="retry", retry_after_s=30, reason="maintenance")
    assert result == TryLater(secret_bind(), "maintenance", retry_after_s=30.0)


def test_rejection_comes_with_its_reason(platform: Platform) -> None:
    assert answer_of(platform, status="rejected", reason="unknown app") == Rejected(secret_bind(), "unknown app")


def test_platform_ahead_of_us_says_how_far(platform: Platform) -> None:
    result = answer_of(platform, status="stale", version=VERSION + 1)
    assert isinstance(result, TryLater)
    assert result.held_version == VERSION + 1


def test_platform_more_than_a_day_ahead_of_us_is_an_alarm(platform: Platform) -> None:
    result = answer_of(platform, status="stale", version=VERSION + 86_400_001)
    assert isinstance(result, Rejected)
    assert result.alarm


def test_standard_error_that_never_ends_stops_no_delivery_and_fills_no_log(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.misbehave("noise")
    caplog.set_level(logging.INFO)
    assert len(list(platform.open().deliver(make_binds(200)))) == 200
    assert 0 < caplog.text.count("a line of standard error") <= 100


# --- hosts that go away -----------------------------------------------------------------------------------------------


def test_second_host_is_used_when_the_first_is_down(
    platform: Platform, second: OpensshServer, binds: list[Bind]
) -> None:
    platform.server.stop()
    channel = platform.open(
        hosts=[platform.server.address, second.address], host_keys=[platform.server.host_key, second.host_key]
    )
    assert str(channel.host) == second.address
    assert len(list(channel.deliver(binds))) == len(binds) == len(platform.held())


def test_every_host_that_failed_is_named_with_its_reason(platform: Platform, second: OpensshServer) -> None:
    platform.server.stop()
    hosts = [platform.server.address, second.address]
    with pytest.raises(ChannelDown, match=rf"{hosts[0]}: Connection refused; {hosts[1]}: the host key is not one"):
        platform.open(hosts=hosts)


def test_host_that_accepts_and_then_says_nothing_is_given_up(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(ChannelDown, match=r"not connected within 0\.3 s"):
            platform.open(hosts=[f"127.0.0.1:{mute.getsockname()[1]}"], connect_within_s=0.3)
        assert time.monotonic() - began < 5


def test_mute_host_is_given_up_in_the_same_words_where_paramiko_notices_first(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Timer, "start", lambda _: None)
    test_host_that_accepts_and_then_says_nothing_is_given_up(platform)


def seconds_to_cancel(platform: Platform, hosts: list[str], is_connecting: Callable[[], object]) -> float:
    """How long connecting goes on after another thread has cancelled it."""
    cancel = Cancel()
    requested_at = []

    def request() -> None:
        is_connecting()
        requested_at.append(time.monotonic())
        cancel.request()

    requester = threading.Thread(target=request)
    requester.start()
    with pytest.raises(ChannelDown):
        platform.open(hosts=hosts, connect_within_s=60, cancel=cancel)
    ended_at = time.monotonic()
    requester.join(10)
    return ended_at - requested_at[0]


def test_cancelled_connecting_ends_at_once_and_tries_no_further_host(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        host = f"127.0.0.1:{mute.getsockname()[1]}"
        accepted: list[socket.socket] = []
        hosts = [host, platform.server.address]
        assert seconds_to_cancel(platform, hosts, lambda: accepted.append(mute.accept()[0])) < 2
        accepted[0].close()
    assert platform.channels == []


def unanswered_syns(port: int) -> int:
    """How many connections to `port` wait for its first answer, as the kernel tells."""
    return sum(f":{port:04X} 02 " in line for line in Path("/proc/net/tcp").read_text().splitlines())


def in_queue(port: int) -> int:
    """How many connections the listener on `port` has not accepted yet, as the kernel tells."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    (queues,) = (line[4] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A")
    return int(queues.partition(":")[2], 16)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The queue of the listener is full: then the kernel leaves a SYN without an answer."""
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # one may wait
        port = full.getsockname()[1]
        opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        deadline = time.monotonic() + 10
        while not in_queue(port):
            assert time.monotonic() < deadline
        yield port


def test_cancelled_tcp_connect_ends_at_once(platform: Platform, silent_port: int) -> None:
    before = unanswered_syns(silent_port)

    def is_connecting() -> None:
        deadline = time.monotonic() + 10
        while unanswered_syns(silent_port) <= before:
            assert time.monotonic() < deadline

    assert seconds_to_cancel(platform, [f"127.0.0.1:{silent_port}"], is_connecting) < 2


def test_address_that_never_answers_leaves_time_for_the_next_one(
    platform: Platform, binds: list[Bind], silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its share is a tenth: two seconds, and eighteen are left for the others.
    addresses = [("127.0.0.1", silent_port), *[("127.0.0.1", platform.server.port)] * 9]
    found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    channel = platform.open(connect_within_s=20)
    assert [type(result) for result in channel.deliver(binds)] == [Confirmed] * len(binds)


def test_what_was_connected_before_it_was_cancelled_goes_on(platform: Platform, binds: list[Bind]) -> None:
    cancel = Cancel()
    channel = platform.open(cancel=cancel)
    cancel.request()
    assert [type(result) for result in channel.deliver(binds)] == [Confirmed] * len(binds)
    with pytest.raises(ChannelDown, match="cancelled"):
        platform.open(cancel=cancel)


def test_host_killed_in_mid_delivery_loses_nothing_and_confirms_only_what_is_held(platform: Platform) -> None:
    binds = make_binds(3000)
    channel = platform.open()
    confirmed = confirmed_until_down(channel, binds, 1000, platform.server.stop)
    assert 1000 <= len(confirmed) < 3000
    assert_held(platform, confirmed)
    platform.server.start()
    assert all(isinstance(result, Confirmed) for result in platform.open().deliver(binds))
    assert_held(platform, binds)


def test_receiver_killed_at_any_moment_has_confirmed_only_what_is_held(platform: Platform) -> None:
    chance = random.Random(11)
    confirmed: dict[str, Bind] = {}
    for number in range(20):
        before_the_kill = chance.randrange(1, 1400)
        binds = make_binds(
            before_the_kill + 2100, VERSION + number
        )  # more than two windows of them are left at the kill
        channel = platform.open()
        for bind in confirmed_until_down(channel, binds, before_the_kill, platform.server.kill_receivers):
            confirmed[bind.mdn] = bind
        assert_held(platform, list(confirmed.values()), at_least=True)
    final = make_binds(2000, VERSION + 20)
    assert all(isinstance(result, Confirmed) for result in platform.open().deliver(final))
    assert_held(platform, final)


def confirmed_until_down(channel: LineChannel, binds: list[Bind], after: int, kill: Callable[[], object]) -> list[Bind]:
    """What was confirmed until the channel broke; `kill` was called after so many results."""
    confirmed: list[Bind] = []
    try:
        for result in channel.deliver(binds):
            assert isinstance(result, Confirmed)
            assert isinstance(result.delivery, Bind)
            confirmed.append(result.delivery)
            if len(confirmed) == after:
                kill()
    except ChannelDown:
        return confirmed
    pytest.fail("the channel outlived what it was connected to")


def assert_held(platform: Platform, binds: list[Bind], at_least: bool = False) -> None:
    held = platform.held()
    for bind in binds:
        version, key = held[bind.mdn, bind.app_id]
        assert key == bind.key
        # What was killed before its answer may be held too, in the next version.
        assert version == bind.version or (at_least and version > bind.version)


def test_connection_closed_while_idle_is_noticed_at_the_next_delivery(platform: Platform, binds: list[Bind]) -> None:
    channel = platform.open()
    list(channel.deliver(binds))
    platform.server.restart()
    with pytest.raises(ChannelDown):
        list(channel.deliver(binds))
    assert len(list(platform.open().deliver(binds))) == len(binds)


def test_close_from_another_thread_ends_a_delivery(platform: Platform, binds: list[Bind]) -> None:
    platform.misbehave("hang")
    channel = platform.open(answer_within_s=60.0)
    ended = threading.Event()

    def deliver() -> None:
        with pytest.raises(ChannelDown, match="closed by us"):
            list(channel.deliver(binds))
        ended.set()

    thread = threading.Thread(target=deliver)
    thread.start()
    channel.close()
    channel.close()
    assert ended.wait(10)
    thread.join()


def test_caller_that_stops_early_leaves_no_answers_for_the_next_batch(platform: Platform, binds: list[Bind]) -> None:
    channel = platform.open()
    results = channel.deliver(binds)
    next(iter(results))
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(ChannelDown, match="closed by us"):
        list(channel.deliver(binds))


# --- what an administrator asks ---------------------------------------------------------------------------------------


def test_shown_host_keys_can_be_pinned_as_they_are(platform: Platform) -> None:
    [shown] = fetch_host_keys([Host.parse(platform.server.address)])
    [key] = shown.keys
    assert (key.algorithm, key.fingerprint[:7]) == ("ssh-ed25519", "SHA256:")
    assert platform.server.host_key in key.pin.text()
    assert "userauth-request" not in platform.server.log
    assert isinstance(platform.open(host_keys=[key.pin.text()]), LineChannel)


def test_host_that_is_down_shows_its_fault_instead_of_keys(platform: Platform) -> None:
    platform.server.stop()
    [shown] = fetch_host_keys([Host.parse(platform.server.address)])
    assert shown.keys == ()
    assert "Connection refused" in shown.fault


def test_host_without_a_key_of_a_type_that_can_be_pinned_says_so(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_keys, "HOST_KEY_ALGORITHMS", ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"))
    host = Host.parse(platform.server.address)
    [shown] = fetch_host_keys([host])
    assert shown.keys == ()
    assert (
        shown.fault == f"{host}: no common algorithm, or no host key of type ecdsa-sha2-nistp384, ecdsa-sha2-nistp521"
    )


def test_probe_tells_of_every_host_and_sends_no_key(platform: Platform, second: OpensshServer) -> None:
    options = platform.options(hosts=[second.address, platform.server.address])
    bad, good = probe(options, lambda _reference: platform.identity, "metering", time.time)
    assert "host key" in bad.fault
    assert good.hello is not None
    assert good.hello.receiver == "kmp-receive 1"
    assert good.fingerprint.startswith("SHA256:")
    assert platform.held() == {}
