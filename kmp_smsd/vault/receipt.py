"""The receipt: how a platform proves that it holds this key for this binding (docs/platform-protocol.rst).

It is computed by the platform from the stored key, read back, and by us from the key that we sent.
"""

from __future__ import annotations

import base64
import hmac
from typing import Final

RECEIPT_OCTETS: Final = 16


def receipt(key: bytes, mdn: str, app_id: str, key_id: str, version: int) -> str:
    """The first 16 octets of HMAC-SHA256, in base64url without padding: 22 characters.

    The message is "kmp-smsd receipt v1", MDN, app ID, key ID and the version in decimal, with 0x00 between them. None
    of them can hold a 0x00, so two bindings never have one message.
    """
    message = "\0".join(("kmp-smsd receipt v1", mdn, app_id, key_id, str(version))).encode("ascii")
    return base64.urlsafe_b64encode(hmac.digest(key, message, "sha256")[:RECEIPT_OCTETS]).rstrip(b"=").decode("ascii")


def receipt_matches(claimed: str, key: bytes, mdn: str, app_id: str, key_id: str, version: int) -> bool:
    """Whether `claimed` is the receipt of this key for this binding. Compares in constant time; takes any text."""
    expected = receipt(key, mdn, app_id, key_id, version)
    return hmac.compare_digest(claimed.encode("utf-8", "surrogatepass"), expected.encode("ascii"))
