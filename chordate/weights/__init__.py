"""Checkpoints: reading files and URLs safely, and loading everybody's weights; one file a foreign format."""
