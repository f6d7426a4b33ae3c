"""The commands: one file each, and `main.py`, which finds them."""
