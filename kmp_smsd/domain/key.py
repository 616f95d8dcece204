"""A key as an import brings it."""

from __future__ import annotations

from typing import NamedTuple


class StagedKey(NamedTuple):
    """One terminal's key, wrapped, before its import goes live. Nobody can read the key without the master key.

    `serial` is the vendor's serial number of the terminal, `app_id` the app that the key is reserved for. The key is
    valid from `valid_from` on and before `valid_until`, both Unix milliseconds; None is no limit. A plain tuple, since
    an import makes one for each key; the store writes its fields in this order.
    """

    key_id: str
    serial: str | None
    app_id: str | None
    algorithm: str
    kcv: str
    nonce: bytes
    ciphertext: bytes
    valid_from: int | None
    valid_until: int | None

    def __repr__(self) -> str:
        return f"<StagedKey {self.key_id} {self.kcv}>"
