"""Parts of a backbone that are not trained: the first stages keep what ImageNet taught them."""

from collections.abc import Iterable

from torch import nn


def freeze(backbone: nn.Module, parts: Iterable[str]) -> None:
    """Take the gradients from the named parts and set them to evaluation mode; parts not built are passed over."""
    for part in parts:
        if hasattr(backbone, part):
            getattr(backbone, part).requires_grad_(False)
    keep_still(backbone, parts)


def keep_still(backbone: nn.Module, parts: Iterable[str]) -> None:
    """Set the named parts back to evaluation mode, so that their BatchNorms do not drift; call it after `train()`.

    Parts are named and not held, because SyncBatchNorm's conversion puts new modules in their place.
    """
    for part in parts:
        if hasattr(backbone, part):
            getattr(backbone, part).eval()
