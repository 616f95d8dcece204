"""SMPP 3.4 for an ESME, sans I/O: bytes in, events out."""
