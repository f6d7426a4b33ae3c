"""Functions of tensors that heads share, and the small layers built on them."""
