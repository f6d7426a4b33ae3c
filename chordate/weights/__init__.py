"""Reads checkpoints from files and URLs safely, and loads weights of any known format; see `docs/weights.md`."""
