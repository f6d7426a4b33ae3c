"""Tensor functions and small layers that heads share."""
