"""Rivals of cliprt, side by side: `make rivals` (see ``__main__.py``)."""
