"""Training: the loop and what it uses."""
