"""Reads checkpoints from files and URLs without running code from them, and loads every known format; see `docs/weights.md`."""
