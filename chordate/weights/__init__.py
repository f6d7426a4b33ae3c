"""Reads checkpoints from files and URLs without running their code, and loads every known format (docs/weights.md)."""
