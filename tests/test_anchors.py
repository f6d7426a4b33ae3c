"""Anchors have the areas, aspect ratios and positions of Faster R-CNN, FPN and torchvision's implementation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors
from torchvision.models.detection.image_list import ImageList

from chordate.errors import ConfigError
from chordate.ops.anchors import AnchorGenerator
from chordate.ops.boxes import area


def test_anchors_have_the_configured_areas_and_aspect_ratios():
    (anchors,) = AnchorGenerator([16], sizes=[[32, 100]], ratios=[0.5, 1.0, 2.0])([(1, 1)], (16, 16))
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    torch.testing.assert_close(area(anchors), torch.tensor([32.0, 32, 32, 100, 100, 100]) ** 2)
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1, 2, 0.5, 1, 2]))


def test_anchors_are_centered_on_cell_corners_in_row_major_order():
    (anchors,) = AnchorGenerator([8], ratios=[1.0])([(2, 3)], (16, 24))
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centers.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]


def test_sizes_default_to_those_of_the_fpn_paper():
    levels = AnchorGenerator([4, 8, 16, 32, 64], ratios=[1.0])([(1, 1)] * 5, (64, 64))
    assert [float(area(level).sqrt()) for level in levels] == [32, 64, 128, 256, 512]


@settings(max_examples=25)
@given(height=st.integers(64, 900), width=st.integers(64, 900))
def test_rounded_anchors_with_strides_from_the_grid_equal_torchvisions(height, width):
    height, width = -(-height // 32) * 32, -(-width // 32) * 32
    grids = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32, 64)]
    ours = AnchorGenerator([4, 8, 16, 32, 64], rounded=True, stride_from_grid=True)
    theirs = TorchvisionAnchors(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.empty(1, 1, height, width), [(height, width)])
    maps = [torch.empty(1, 1, *grid) for grid in grids]
    assert torch.equal(torch.cat(ours(grids, (height, width))), theirs(images, maps)[0])


def test_anchors_of_a_padded_level_are_closer_only_with_stride_from_grid():
    grid = [(13, 13)]  # the side of 800 pixels divided by stride 64, rounded up
    (nominal,) = AnchorGenerator([64], ratios=[1.0])(grid, (800, 800))
    (from_grid,) = AnchorGenerator([64], ratios=[1.0], stride_from_grid=True)(grid, (800, 800))
    assert (nominal[1] - nominal[0])[0] == 64
    assert (from_grid[1] - from_grid[0])[0] == 800 // 13


@pytest.mark.parametrize("sizes", [[32, 64], [[32, 64], [128], [256]]])
def test_anchor_sizes_that_do_not_match_the_levels_are_an_error(sizes):
    with pytest.raises(ConfigError, match="do not fit 3 feature maps"):
        AnchorGenerator([4, 8, 16], sizes=sizes)


def test_anchor_sizes_and_sizes_per_stride_exclude_each_other():
    with pytest.raises(ConfigError, match="sizes and sizes_per_stride .* remove one of them"):
        AnchorGenerator([8, 16], sizes=[32, 64], sizes_per_stride=[4.0])
