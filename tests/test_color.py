"""Lighting noise and random erasing: the papers' formulas, checked by statistics over many samples."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.tv_tensors import Image

from chordate.data.transforms import Lighting, NoiseErasing
from chordate.errors import ConfigError
from chordate.registry import TRANSFORMS


def test_lighting_adds_colors_with_imagenets_covariance():
    """Krizhevsky et al. 2012: [p1, p2, p3] [a1 l1, a2 l2, a3 l3]ᵀ, so the covariance is P diag((0.1 l)²) Pᵀ."""
    torch.manual_seed(0)
    image = Image(torch.full((3, 2, 2), 100.0))
    added = torch.stack([Lighting(0.1)(image)[:, 0, 0] - 100 for _ in range(4000)]).double()
    components = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    torch.testing.assert_close(components @ components.T, torch.eye(3), atol=1e-3, rtol=0)
    scaled = components.double() * 0.1 * 255 * torch.tensor([0.2175, 0.0188, 0.0045], dtype=torch.float64)
    wanted = scaled @ scaled.T
    assert added.mean(0).abs().max() < 0.3
    torch.testing.assert_close(torch.cov(added.T), wanted, rtol=0.1, atol=0.1)


def test_lighting_is_one_color_for_the_whole_image_and_stays_in_range():
    torch.manual_seed(1)
    image = Image(torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8))
    lit, label = Lighting(1.0)(image, 3)
    assert label == 3 and isinstance(lit, Image) and lit.dtype == torch.uint8
    change = lit.int() - image.int()
    for channel, before in zip(change, image):
        inside = (before > 100) & (before < 150)  # far from 0 and 255, so that nothing is clipped
        assert channel[inside].unique().numel() == 1
    assert torch.equal(Lighting(0.0)(image), image)
    with pytest.raises(ConfigError, match="std"):
        TRANSFORMS.build({"type": "Lighting", "std": -1})


def test_an_erased_patch_is_standard_normal_noise_after_normalization():
    """timm's "pixel" mode, which works on normalized images."""
    torch.manual_seed(2)
    erase = NoiseErasing(p=1, scale=(0.3, 0.3), ratio=(1, 1))
    image = Image(torch.zeros(3, 100, 100, dtype=torch.uint8))
    found = torch.stack([erase(image) for _ in range(20)])
    patch = found.amax(1) > 0
    assert patch.float().mean() == pytest.approx(0.3, abs=0.02)
    normalized = v2.functional.normalize(found / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for channel in normalized.transpose(0, 1):
        noise = channel[patch]
        assert noise.mean().item() == pytest.approx(0, abs=0.1)  # tolerance for clipping to 0 … 255
        assert noise.std().item() == pytest.approx(1, abs=0.1)


def test_erasing_leaves_most_images_unchanged():
    torch.manual_seed(3)
    image = Image(torch.zeros(3, 32, 32, dtype=torch.uint8))
    erased = sum(bool(NoiseErasing(p=0.25)(image).any()) for _ in range(400))
    assert erased / 400 == pytest.approx(0.25, abs=0.06)
