"""Reads checkpoints from files and URLs safely, and loads weights of all known formats; see `docs/weights.md`."""
