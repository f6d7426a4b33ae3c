"""The input of the backbone: normalized images with zeros in the padding."""

import pytest
import torch

from chordate.errors import ConfigError
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalize
from chordate.structures import ImageInfo, collate_images

IMAGES = torch.randint(0, 256, (2, 3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SIZES = torch.tensor([[50, 40], [30, 70]])


def test_images_are_normalized_and_their_padding_is_zero():
    out = Normalize()(IMAGES, SIZES)
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    for image, (height, width) in enumerate(SIZES.tolist()):
        expected = (IMAGES[image, :, :height, :width].float() - mean) / std
        torch.testing.assert_close(out[image, :, :height, :width], expected)
        assert not out[image, :, height:].any() and not out[image, :, :, width:].any()


def test_batches_are_padded_to_a_multiple_of_the_divisor():
    """Collation pads images; the model only sets the padding to zero."""
    samples = [{"image": image, "info": ImageInfo(i, "", 50, 70)} for i, image in enumerate(IMAGES)]
    assert collate_images(samples, None, 32).images.shape == (2, 3, 64, 96)
    assert collate_images(samples, None, 10).images.shape == (2, 3, 50, 70)


def test_float_images_of_the_same_range_give_the_same_result():
    assert torch.equal(Normalize()(IMAGES.float(), SIZES), Normalize()(IMAGES, SIZES))


def test_bgr_models_get_the_channels_reversed():
    flipped = Normalize(bgr=True)(IMAGES.flip(1), SIZES)
    assert torch.equal(flipped, Normalize()(IMAGES, SIZES))


def test_float64_models_use_mean_and_std_without_rounding():
    normalize = Normalize().double()
    assert normalize.mean.flatten().tolist() == list(IMAGENET_MEAN)
    assert normalize(IMAGES, SIZES).dtype == torch.float64


def test_mean_and_std_are_not_in_the_state_dict():
    assert not Normalize().state_dict()


@pytest.mark.parametrize("mean, std", [((1.0, 2.0), (1.0,)), ((1.0,), (0.0,))])
def test_invalid_normalization_constants_are_refused(mean, std):
    with pytest.raises(ConfigError, match="one number per channel"):
        Normalize(mean, std)


def test_mean_and_std_for_pixels_up_to_1_are_refused_but_a_std_of_1_is_accepted():
    with pytest.raises(ConfigError, match="are for 0 … 1; multiply them by 255"):
        Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    Normalize((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))  # mean and std of Detectron2's Caffe weights
    Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the identity
