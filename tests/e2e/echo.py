"""A platform that answers the hello, then echoes what it is told to both of its streams, in pieces, and dies."""

from __future__ import annotations

import sys

sys.stdin.readline()
print('{"v":1,"type":"hello","receiver":"echo","window":10,"max_line":65536}', flush=True)
line = sys.stdin.readline()
print(line, file=sys.stderr, flush=True)
print(line[50:], file=sys.stderr, flush=True)
print("you said " + line, flush=True)
