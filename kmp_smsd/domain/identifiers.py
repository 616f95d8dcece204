"""Key IDs and app IDs: the characters that mean the same in GSM 7-bit, ASCII and Latin-1.

A terminal sends both in its SMS, so nothing else may be imported or registered. Case matters.
"""

from __future__ import annotations

import re

KEY_ID_RULE = "a key ID is 1 to 64 of A-Z a-z 0-9 . -"
APP_ID_RULE = "an app ID is 1 to 32 of A-Z a-z 0-9 . -"
KEY_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
APP_ID = re.compile(r"[A-Za-z0-9.-]{1,32}")


def is_key_id(text: str) -> bool:
    """Whether `text` is a key ID."""
    return KEY_ID.fullmatch(text) is not None


def is_app_id(text: str) -> bool:
    """Whether `text` is an app ID."""
    return APP_ID.fullmatch(text) is not None
