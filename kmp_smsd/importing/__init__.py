"""Vendors' key files and registration files."""
