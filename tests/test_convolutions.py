"""Convolution towers of heads: He's initialization formula, and outputs equal to applying the layers in sequence."""

import pytest
import torch
from torch import nn

from chordate.ops.convolutions import conv_tower, he_init


def test_convolutions_start_with_hes_variance_and_without_bias():
    """He et al. 2015, equation 14: the standard deviation is sqrt(2 / (k² · output channels))."""
    torch.manual_seed(0)
    tower = conv_tower(64, 96, 2, norm=None)
    for conv in (tower[0][0], tower[1][0]):
        assert conv.weight.std().item() == pytest.approx((2 / (3**2 * 96)) ** 0.5, rel=0.05)
        assert not conv.bias.any()


def test_a_transposed_convolution_starts_as_in_detectron2():
    """c2_msra_fill computes fan-out from the weight's first dimension, which in a transposed convolution is the number
    of input channels."""
    torch.manual_seed(0)
    deconv = nn.ConvTranspose2d(128, 32, 4)
    he_init(deconv)
    assert deconv.weight.std().item() == pytest.approx((2 / (4**2 * 128)) ** 0.5, rel=0.05)
    assert not deconv.bias.any()


@pytest.mark.parametrize("norm", [None, "GN"])
def test_a_tower_is_convolution_norm_and_relu_in_turn(norm):
    tower = conv_tower(8, 32, 2, norm)
    x = torch.randn(2, 8, 5, 7)
    wanted = x
    for conv, normalize, _ in tower:
        assert (conv.bias is None) == (norm is not None)
        wanted = normalize(conv(wanted)).relu()
    torch.testing.assert_close(tower(x), wanted)


def test_a_tower_without_convolutions_is_the_identity():
    x = torch.randn(1, 8, 3, 3)
    assert torch.equal(conv_tower(8, 32, 0, None)(x), x)
