"""The commands, one file each, and `main.py`, which dispatches to them."""
