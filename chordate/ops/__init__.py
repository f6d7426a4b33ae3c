"""Tensor functions and small modules that several heads, models and backbones use."""
