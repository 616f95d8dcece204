"""How people on this machine ask and tell a running role: one JSON object per line, over a unix socket."""
