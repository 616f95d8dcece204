from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice, tee
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.storage import open_store
from tests.peers.peers import Peer, Tap, net_smpp, node_smpp
from tests.quick_lab import QuickLab

SHORT_CODE = "10690000"
TERMINALS = 400


class ForeignLab(QuickLab):
    """An installation whose SMSC somebody else wrote, behind a tap; it has terminals that report to it."""

    def __init__(self, directory: Path, *, link: dict[str, Any] | None = None, **options: Any) -> None:
        self.tap = Tap()
        first = {"hosts": [f"127.0.0.1:{self.tap.port}"], "enquire_after_s": 0, "reconnect_max_s": 0.2}
        super().__init__(
            directory, {"metering": ("meter",)}, link=first | (link or {}), **{"sync": {"mdn_burst": 1000}} | options
        )
        self._terminals = iter([(f"8613{number:09d}", f"KEY-{number:04d}") for number in range(1, TERMINALS + 1)])
        self._counted_before: Counter[str] = Counter()

    def start(self) -> None:
        super().start()
        keys, registrations = self.directory / "keys.csv", self.directory / "registrations.csv"
        terminals, self._terminals = tee(self._terminals)
        with keys.open("w") as key_file, registrations.open("w") as registration_file:
            print("key_id,key", file=key_file)
            print("mdn,app_id", file=registration_file)
            for mdn, key_id in terminals:
                print(f"{key_id},{secrets.token_hex(16)}", file=key_file)
                print(f"{mdn},meter", file=registration_file)
        self.here("keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
        self.here("registrations", "import", str(registrations))

    def close(self) -> None:
        super().close()
        self.tap.close()

    def attach(self, smsc_port: int) -> None:
        """Give the daemon an SMSC; connections and outcomes are counted from here on."""
        self.tap.wires.clear()
        self._counted_before = self._counted()
        self.tap.open(smsc_port)

    def terminals(self, count: int) -> list[tuple[str, str]]:
        """MDNs that have not reported yet, each registered for an app and with the ID of a key of its own."""
        return list(islice(self._terminals, count))

    def bindings(self, terminals: Iterable[tuple[str, str]]) -> dict[str, str]:
        """What is bound on disk for these terminals: the key ID by MDN."""
        self.wait_for(self.all_settled, "every message to be settled")
        with open_store(self.database) as store:
            return {row["mdn"]: row["key_id"] for mdn, _ in terminals for row in store.bindings.of(mdn)}

    def counted(self) -> dict[str, int]:
        """How many messages had which outcome, on disk, since the SMSC was attached."""
        self.wait_for(self.all_settled, "every message to be settled")
        return dict(self._counted() - self._counted_before)

    def _counted(self) -> Counter[str]:
        with open_store(self.database) as store:
            return Counter({row["outcome"]: row["count"] for row in store.journal.tallies()})


def mo(number: int, source_addr: str, text: str, **fields: Any) -> dict[str, Any]:
    """The order to send one deliver_sm."""
    return {
        "pdu": "deliver_sm", "sequence_number": number, "source_addr": source_addr, "source_addr_ton": 1,
        "source_addr_npi": 1, "destination_addr": SHORT_CODE, "short_message": text, **fields,
    }  # fmt: skip


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignLab]:
    """An installation for many tests, its daemon running."""
    with ForeignLab(tmp_path_factory.mktemp("lab")) as one:
        one.start_role_unbound("run")
        yield one
        assert one.roles[0].stop() == 0


@pytest.fixture
def lab_with(tmp_path: Path) -> Iterator[Callable[..., ForeignLab]]:
    """Make an installation with options of its own, its daemon running."""
    with ExitStack() as stack:

        def make(**options: Any) -> ForeignLab:
            one = stack.enter_context(ForeignLab(tmp_path, **options))
            one.start_role_unbound("run")
            return one

        yield make


@pytest.fixture(params=[net_smpp, node_smpp])
def start_peer(request: pytest.FixtureRequest) -> Iterator[Callable[..., Peer]]:
    """Start an SMSC, with each library in turn, and attach an installation to it."""
    with ExitStack() as stack:

        def start(lab: ForeignLab, **behave: Any) -> Peer:
            peer: Peer = request.param(**behave)
            stack.callback(peer.kill)
            lab.attach(peer.port)
            stack.callback(lab.tap.shut)
            return peer

        yield start
