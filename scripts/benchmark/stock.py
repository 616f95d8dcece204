"""Terminals in any number: their keys and registrations in the store, their messages as an SMSC sends them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kmp_smsd.domain.key import StagedKey
from kmp_smsd.simulator.deliver import deliver_sm_body
from kmp_smsd.simulator.lab import SHORT_CODE
from kmp_smsd.storage import open_store
from kmp_smsd.storage.subscribers import Registration
from kmp_smsd.vault.algorithms import kcv
from kmp_smsd.vault.data_key import DataKey
from kmp_smsd.vault.master_key import PublicKey

APP = "meter"
_STEP = 5_000


class Fresh:
    """Terminals that nobody has heard of yet, in random order."""

    def __init__(self, numbers: range) -> None:
        self._numbers = list(numbers)
        random.Random(1).shuffle(self._numbers)

    def take(self, count: int) -> list[int]:
        """The next `count` of them."""
        if count > len(self._numbers):
            raise SystemExit(f"bench: {count:,} more new bindings need as many keys: raise --keys")
        taken, self._numbers = self._numbers[:count], self._numbers[count:]
        return taken


def mdn(number: int) -> str:
    """The MDN of a terminal."""
    return f"8613{number:09d}"


def message(number: int) -> bytes:
    """A terminal's sync request: the body of a deliver_sm."""
    return deliver_sm_body(mdn(number), f"K1:K{number:08d}", destination_addr=SHORT_CODE)


def stranger(number: int) -> bytes:
    """A request with a key that nobody imported, from a number that nobody registered: it is refused for good."""
    return deliver_sm_body(mdn(999_999_999 - number), f"K1:X{number:08d}", destination_addr=SHORT_CODE)


def mixed(news: Sequence[int], known: Sequence[int]) -> list[bytes]:
    """Two of five new, two known, one a stranger, as long as `news` lasts."""
    bodies: list[bytes] = []
    for at, number in enumerate(news):
        bodies += [message(number), message(known[at % len(known)])]
        if at % 2:
            bodies.append(stranger(number))
    return bodies


def fill(database: Path, public_key: Path, numbers: range, told: Callable[[int], None] = lambda _: None) -> None:
    """Import and register these terminals, each key really encrypted; `told` how many, after each step."""
    public, data_key = PublicKey.load(public_key), DataKey.new()
    now = int(time.time() * 1000)
    with open_store(database) as store:
        number = store.imports.begin(
            vendor="bench", file_name=f"bench-{numbers.start}", data_key_id=data_key.id,
            sealed=public.seal(data_key), fingerprint=public.fingerprint, now=now,
        )  # fmt: skip
        for start in range(numbers.start, numbers.stop, _STEP):
            step = range(start, min(start + _STEP, numbers.stop))
            store.imports.stage(number, [_staged(data_key, one) for one in step])
            store.registrations.add([Registration(mdn(one), APP) for one in step], now)
            told(step.stop)
        store.imports.publish(number, "", now)


def _staged(data_key: DataKey, number: int) -> StagedKey:
    key_id = f"K{number:08d}"
    key = number.to_bytes(16, "big")
    wrapped = data_key.wrap(key, key_id, "aes", None)
    return StagedKey(key_id, f"S{number}", None, "aes", kcv("aes", key), wrapped.nonce, wrapped.ciphertext, None, None)
