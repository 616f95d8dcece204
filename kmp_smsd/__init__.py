"""kmp-smsd: a key management platform that synchronises terminal keys by SMS."""

__version__ = "0.1.0"
