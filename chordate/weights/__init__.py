"""Reads checkpoints from files and URLs without running code, and loads all known formats; see `docs/weights.md`."""
