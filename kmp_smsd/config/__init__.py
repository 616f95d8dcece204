"""The configuration files as frozen values."""
