"""Formats of other libraries: one file a library, each registered in FORMATS."""
