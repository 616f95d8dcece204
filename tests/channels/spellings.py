"""The ways in which programs have been seen to write octets down, and more."""

from __future__ import annotations

import base64
import binascii
import html
import json
import quopri
import re
import urllib.parse
import uuid
from collections.abc import Callable


def _dump(key: bytes) -> str:
    return "\n".join(
        f"{at:08x}  {key[at : at + 16].hex(' ')}  |{re.sub('[^ -~]', '.', key[at : at + 16].decode('latin-1'))}|"
        for at in range(0, len(key), 16)
    )


SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "raw": lambda key: key.decode("latin-1"),
    "raw, spaced": lambda key: " ".join(key.decode("latin-1")),
    "raw, upper": lambda key: key.decode("latin-1").upper(),
    "raw, backwards": lambda key: key[::-1].decode("latin-1"),
    "utf-8, what fits": lambda key: key.decode("utf-8", "replace"),
    "repr": repr,
    "repr of bytearray": lambda key: repr(bytearray(key)),
    "json": lambda key: json.dumps(key.decode("latin-1")),
    "json escapes": lambda key: "".join(f"\\u{octet:04x}" for octet in key),
    "html": lambda key: html.escape(key.decode("latin-1")),
    "html references": lambda key: "".join(f"&#{octet};" for octet in key),
    "html hex references": lambda key: "".join(f"&#x{octet:x};" for octet in key),
    "percent": lambda key: urllib.parse.quote(key),
    "percent, all": lambda key: "".join(f"%{octet:02X}" for octet in key),
    "quoted-printable": lambda key: quopri.encodestring(key).decode("latin-1"),
    "octal escapes": lambda key: "".join(f"\\{octet:03o}" for octet in key),
    "hex escapes": lambda key: "".join(f"\\x{octet:02x}" for octet in key),
    "hex": lambda key: key.hex(),
    "hex, upper": lambda key: key.hex().upper(),
    "hex, backwards": lambda key: key[::-1].hex(),
    "hex, digits backwards": lambda key: key.hex()[::-1],
    "hex, half": lambda key: key[: len(key) // 2].hex(),
    "hex, other half": lambda key: key[len(key) // 2 :].hex(),
    "hex, spaced": lambda key: key.hex(" "),
    "hex, colons": lambda key: key.hex(":"),
    "hex, words": lambda key: key.hex(" ", 4),
    "hex, sevens": lambda key: " ".join(key.hex()[at : at + 7] for at in range(0, 2 * len(key), 7)),
    "hex, lines": lambda key: key.hex("\n"),
    "hex, among words": lambda key: " ".join(f"octet {octet:x} then" for octet in key),
    "0x": lambda key: ", ".join(hex(octet) for octet in key),
    "0x, long": lambda key: " ".join("0x" + key[at : at + 4].hex() for at in range(0, len(key), 4)),
    "uuid": lambda key: str(uuid.UUID(bytes=key[:16])),
    "hexdump": _dump,
    "decimal": lambda key: str(list(key)),
    "decimal, spaced": lambda key: " ".join(map(str, key)),
    "decimal, signed": lambda key: str([octet - 256 if octet > 127 else octet for octet in key]),
    "octal": lambda key: " ".join(f"{octet:03o}" for octet in key),
    "bits": lambda key: " ".join(f"{octet:08b}" for octet in key),
    "one number": lambda key: str(int.from_bytes(key, "big")),
    "base64": lambda key: base64.b64encode(key).decode(),
    "base64url": lambda key: base64.urlsafe_b64encode(key).decode().rstrip("="),
    "base64, further on": lambda key: base64.b64encode(b"." + key).decode()[2:],
    "base64, spaced": lambda key: " ".join(base64.b64encode(key).decode()),
    "base64, lower": lambda key: base64.b64encode(key).decode().lower(),
    "base32": lambda key: base64.b32encode(key).decode(),
    "base32, lower": lambda key: base64.b32encode(key).decode().lower(),
    "base85": lambda key: base64.b85encode(key).decode(),
    "ascii85": lambda key: base64.a85encode(key, adobe=True).decode(),
    "uuencode": lambda key: "".join(
        binascii.b2a_uu(key[at : at + 45], backtick=True).decode() for at in range(0, len(key), 45)
    ),
    "letters for digits": lambda key: key.hex().translate(str.maketrans("0123456789abcdef", "cbdefghijklnrtuv")),
}
