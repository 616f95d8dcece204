"""What is the same over every kind of channel, against kmp-receive behind OpenSSH and behind stunnel."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.channels import opening
from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.hiding import REPEATS_A_KEY, presentable
from kmp_smsd.channels.line_channel import LineChannel
from kmp_smsd.channels.opening import probe
from kmp_smsd.channels.protocol import Bind, ChannelDown, Confirmed, NotLetIn, Rejected, TryLater, WrongKey
from kmp_smsd.channels.stream import Stream
from tests.channels.peer import KEY, VERSION, WORDY, Platform, make_binds, secret_bind, withdraw


@pytest.fixture(params=["ssh_platform", "tls_platform"])
def platform(request: pytest.FixtureRequest) -> Platform:
    found: Platform = request.getfixturevalue(request.param)
    return found


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
    lines = lines_of_each_burst(monkeypatch, channel)
    assert len(list(channel.deliver(binds[:8]))) == 8
    assert lines == [2, 2, 2, 2]


def test_far_side_gets_lines_in_bursts_though_it_answers_one_by_one(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It commits them together, which takes as long as one alone."""
    platform.misbehave("hang")
    channel = platform.open(window=8)
    lines = lines_of_each_burst(monkeypatch, channel)
    answers = iter([json.dumps({"id": number, "status": "retry"}).encode()] for number in range(1, 17))
    monkeypatch.setattr(channel._stream, "receive", lambda *_: next(answers))
    assert len(list(channel.deliver(make_binds(16)))) == 16
    assert lines == [2] * 8


def lines_of_each_burst(monkeypatch: pytest.MonkeyPatch, channel: LineChannel) -> list[int]:
    """How many lines are sent together, from now on."""
    lines: list[int] = []
    send = channel._stream.send

    def watched(octets: bytes, *more: Any) -> None:
        lines.append(octets.count(b"\n"))
        send(octets, *more)

    monkeypatch.setattr(channel._stream, "send", watched)
    return lines


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

    def a_window(octets: bytes, within_s: float, keys: Collection[bytes]) -> None:
        sent.append(octets)
        if b"".join(sent).count(b"\n") > 4:
            raise stream.down("the connection broke", keys)
        send(octets, within_s, keys)

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


class Eager(Stream):
    """Says its hello and more in one breath."""

    def send(self, *_: Any) -> None: ...

    def receive(self, *_: Any) -> list[bytes]:
        return [b'{"v":1,"type":"hello","receiver":"r","window":50,"max_line":65536}', b"and more"]

    def _hang_up(self) -> None: ...


def test_receiver_that_says_more_than_a_hello_is_refused(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_connect", lambda *_: lambda host: contextlib.nullcontext(Eager(host, "", 65_536)))
    with pytest.raises(ChannelDown, match="more than a hello: and more"):
        platform.open()


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("rubbish", r"not JSON: \.\.\. fault\.\.\.|not JSON: \.\.\."),
        ("endless", "a line of more than 65536 octets"),
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
    honest = platform.open(**platform.doors(platform.second))
    assert list(honest.deliver(binds)) == [Confirmed(bind) for bind in binds]


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


# --- hosts that go away -----------------------------------------------------------------------------------------------


def test_second_host_is_used_when_the_first_is_down(platform: Platform, binds: list[Bind]) -> None:
    platform.second.start()
    platform.server.stop()
    channel = platform.open(**platform.doors(platform.server, platform.second))
    assert str(channel.host) == platform.second.address
    assert len(list(channel.deliver(binds))) == len(binds) == len(platform.held())


def test_every_host_that_failed_is_named_with_its_reason(platform: Platform) -> None:
    platform.second.start()
    platform.server.stop()
    hosts = [platform.server.address, platform.second.address]
    said = rf"{hosts[0]}: Connection refused; {hosts[1]}: the (host|server) key is not one"
    with pytest.raises(ChannelDown, match=said):
        platform.open(hosts=hosts)


def test_host_that_accepts_and_then_says_nothing_is_given_up(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(ChannelDown, match=r"not connected within 0\.3 s"):
            platform.open(hosts=[f"127.0.0.1:{mute.getsockname()[1]}"], connect_within_s=0.3)
        assert time.monotonic() - began < 5


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
    taken, ended = threading.Event(), threading.Event()

    def until_taken() -> Iterator[Bind]:
        yield from binds
        taken.set()

    def deliver() -> None:
        with pytest.raises(ChannelDown, match="closed by us"):
            list(channel.deliver(until_taken()))
        ended.set()

    thread = threading.Thread(target=deliver)
    thread.start()
    assert taken.wait(10)
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


def test_probe_tells_of_every_host_and_sends_no_key(platform: Platform) -> None:
    platform.second.start()
    options = platform.options(hosts=[platform.second.address, platform.server.address])
    bad, good = probe(options, lambda _reference: platform.identity, "metering")
    assert isinstance(bad.fault, WrongKey)
    assert all(0 < one.took_s < 60 for one in (bad, good))  # each has 10 s
    (elsewhere := platform.directory / "elsewhere").mkdir()
    stranger = type(platform)(elsewhere).identity
    assert isinstance(probe(options, lambda _reference: stranger, "metering")[1].fault, NotLetIn)
    assert good.hello is not None
    assert good.hello.receiver == "kmp-receive 1"
    assert good.fingerprint.lower().startswith("sha256")
    assert platform.held() == {}
