"""A platform that answers the hello, then quotes the key that it is told, on both of its streams, and dies.

Standard error gets it in all spellings; the reason, and a line that is no answer, in one: each start in the next. Its
argument is the file in which the starts are counted.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.channels.spellings import SPELLINGS

spellings = [SPELLINGS[name] for name in ("repr", "hex, spaced", "0x", "decimal", "percent", "octal escapes", "raw")]
count = Path(sys.argv[1])
said = int(count.read_text()) if count.exists() else 0
sys.stdin.readline()
print('{"v":1,"type":"hello","receiver":"echo","window":10,"max_line":65536}', flush=True)
line = sys.stdin.readline()
asked = json.loads(line)
key = base64.urlsafe_b64decode(asked["key"] + "==")
for spell in SPELLINGS.values():
    print("bad key", spell(key).encode("utf-8", "replace").decode(), file=sys.stderr, flush=True)
print(line[50:], file=sys.stderr, flush=True)
reason = f"no {asked['mdn']}: {spellings[said % len(spellings)](key)}"
print(json.dumps({"id": asked["id"], "status": "retry", "retry_after_s": 0, "reason": reason}), flush=True)
count.write_text(str(said + 1))
print("you said " + (line if said % 2 else spellings[said % len(spellings)](key)), flush=True)
