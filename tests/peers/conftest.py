from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.simulator.lab import Lab
from kmp_smsd.storage import open_store
from tests.peers.peers import Peer, Tap, net_smpp, node_smpp

SHORT_CODE = "10690000"


class ForeignLab(Lab):
    """An installation whose SMSC somebody else wrote, behind a tap."""

    def __init__(self, directory: Path, platforms: dict[str, tuple[str, ...]], link: dict[str, Any], **options: Any):
        self.tap = Tap()
        link = {"hosts": [f"127.0.0.1:{self.tap.port}"], "enquire_after_s": 0, **link}
        super().__init__(directory, platforms, link=link, **{"sync": {"mdn_burst": 1000}, **options})

    def close(self) -> None:
        super().close()
        self.tap.close()

    def terminals(self, count: int) -> list[tuple[str, str]]:
        """MDNs that are registered for the app meter, each with the ID of a key of its own."""
        made = [(f"8613{number:09d}", f"KEY-{number:04d}") for number in range(1, count + 1)]
        keys, registrations = self.directory / "keys.csv", self.directory / "registrations.csv"
        keys.write_text("key_id,key\n" + "".join(f"{key},{secrets.token_hex(16)}\n" for _, key in made))
        registrations.write_text("mdn,app_id\n" + "".join(f"{mdn},meter\n" for mdn, _ in made))
        self.command("keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
        self.command("registrations", "import", str(registrations))
        return made

    def bindings(self) -> dict[str, str]:
        """What is bound on disk: the key ID by MDN."""
        with open_store(self.database) as store:
            return {row["mdn"]: row["key_id"] for row in store.bindings.active(limit=10_000)}

    def counted(self) -> dict[str, int]:
        """How many messages had which outcome, on disk."""
        with open_store(self.database) as store:
            return {row["outcome"]: row["count"] for row in store.tallies()}


def mo(number: int, source_addr: str, text: str, **fields: Any) -> dict[str, Any]:
    """The order to send one deliver_sm."""
    return {
        "pdu": "deliver_sm", "sequence_number": number, "source_addr": source_addr, "source_addr_ton": 1,
        "source_addr_npi": 1, "destination_addr": SHORT_CODE, "short_message": text, **fields,
    }  # fmt: skip


@pytest.fixture
def start_lab(tmp_path: Path) -> Iterator[Callable[..., ForeignLab]]:
    """Make an installation; afterwards its daemon is stopped in good order."""
    labs: list[ForeignLab] = []

    def start(*, meter: bool = False, **options: Any) -> ForeignLab:
        link = options.pop("link", {})
        lab = ForeignLab(tmp_path / str(len(labs)), {"metering": ("meter",)} if meter else {}, link, **options)
        labs.append(lab)
        lab.start()
        return lab

    yield start
    for lab in labs:
        lab.close()


@pytest.fixture(params=[net_smpp, node_smpp])
def start_peer(request: pytest.FixtureRequest) -> Iterator[Callable[..., Peer]]:
    """Make an SMSC, with each library in turn."""
    peers: list[Peer] = []

    def start(**behave: Any) -> Peer:
        peers.append(request.param(**behave))
        return peers[-1]

    yield start
    for peer in peers:
        peer.kill()
