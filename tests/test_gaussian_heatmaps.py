"""Gaussian heatmaps and their decoders equal slow references."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chordate.ops.gaussian_heatmaps import decode_dark, decode_quarter, gaussian_heatmaps, shift_right

HEIGHT, WIDTH = 64, 48
positions = st.tuples(st.floats(0, WIDTH - 1), st.floats(0, HEIGHT - 1))


def heatmap(x: float, y: float, sigma: float = 2.0, dtype=torch.float64) -> torch.Tensor:
    return gaussian_heatmaps(torch.tensor([x, y], dtype=dtype), (HEIGHT, WIDTH), sigma)


def random_maps(seed: int, count: int, blur: float) -> torch.Tensor:
    """Noise `[count, HEIGHT, WIDTH]` with many local maxima, smoothed with sigma `blur` if it is not 0."""
    noise = np.random.default_rng(seed).random((count, HEIGHT, WIDTH))
    return torch.from_numpy(np.stack([cv2.GaussianBlur(one, (0, 0), blur) if blur else one for one in noise]))


def test_a_heatmap_is_a_gaussian_around_the_position():
    value = heatmap(10.3, 20.8)
    for x, y in ((10, 21), (13, 18), (0, 0)):
        assert value[y, x].item() == pytest.approx(math.exp(-((x - 10.3) ** 2 + (y - 20.8) ** 2) / 8))
    batch = gaussian_heatmaps(torch.tensor([[[10.3, 20.8], [1.0, 2.0]]], dtype=torch.float64), (HEIGHT, WIDTH), 2.0)
    assert batch.shape == (1, 2, HEIGHT, WIDTH) and torch.equal(batch[0, 0], value)


@given(positions, st.sampled_from([1.0, 2.0, 3.0]))
def test_a_quarter_of_a_cell_is_the_largest_error_of_the_round_trip(position, sigma):
    x, y, confidence = decode_quarter(heatmap(*position, sigma)).tolist()
    for found, true, last in ((x, position[0], WIDTH - 1), (y, position[1], HEIGHT - 1)):
        at_border = round(true) in (0, last)
        assert abs(found - true) <= (0.5 if at_border else 0.25) + 1e-6
    assert confidence <= 1


@given(st.tuples(st.floats(8, WIDTH - 9), st.floats(8, HEIGHT - 9)), st.sampled_from([torch.float32, torch.float64]))
def test_dark_recovers_the_center_of_a_gaussian(position, dtype):
    x, y, confidence = decode_dark(heatmap(*position, dtype=dtype), 2.0).tolist()
    assert abs(x - position[0]) < 0.05 and abs(y - position[1]) < 0.05
    # The center of the highest cell is at most half a cell from the peak along each axis.
    assert math.exp(-0.5 / 8 * 2) < confidence <= 1 + 1e-6


@given(positions)
def test_dark_is_within_a_cell_at_the_border_too(position):
    x, y, _ = decode_dark(heatmap(*position), 2.0).tolist()
    assert abs(x - position[0]) <= 0.9 and abs(y - position[1]) <= 0.9


@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_quarters_equal_a_slow_reference(blur):
    """The reference shifts the maximum by 1/4 cell per axis, to the higher neighbor (Xiao et al. 2018, section 4.1)."""
    maps = random_maps(0, 40, blur)
    for one, found in zip(maps.numpy(), decode_quarter(maps).tolist()):
        y, x = divmod(int(one.argmax()), WIDTH)
        expected = [float(x), float(y)]
        if 0 < x < WIDTH - 1:
            expected[0] += 0.25 if one[y, x + 1] > one[y, x - 1] else -0.25
        if 0 < y < HEIGHT - 1:
            expected[1] += 0.25 if one[y + 1, x] > one[y - 1, x] else -0.25
        assert found == pytest.approx([*expected, one.max()])


def test_dark_equals_a_slow_reference():
    """The reference computes equations 5 to 8 of Zhang et al. 2020 with OpenCV's blur, finite differences, and a linear
    system per heatmap."""
    maps = torch.cat([random_maps(1, 40, 2.0), torch.stack([heatmap(x, 30.2) for x in np.linspace(0, 47, 30)])])
    moved = 0
    for one, found in zip(maps.numpy(), decode_dark(maps, 2.0).tolist()):
        y, x = divmod(int(one.argmax()), WIDTH)
        logs = np.log(np.maximum(cv2.GaussianBlur(one, (11, 11), 2.0, borderType=cv2.BORDER_CONSTANT), 1e-10))
        expected = np.array([x, y], float)
        if 2 <= x < WIDTH - 2 and 2 <= y < HEIGHT - 2:
            gradient = np.array([logs[y, x + 1] - logs[y, x - 1], logs[y + 1, x] - logs[y - 1, x]]) / 2
            xx = (logs[y, x + 2] - 2 * logs[y, x] + logs[y, x - 2]) / 4
            yy = (logs[y + 2, x] - 2 * logs[y, x] + logs[y - 2, x]) / 4
            xy = (logs[y + 1, x + 1] - logs[y + 1, x - 1] - logs[y - 1, x + 1] + logs[y - 1, x - 1]) / 4
            hessian = np.array([[xx, xy], [xy, yy]])
            if (np.linalg.eigvalsh(hessian) < 0).all():
                step = -np.linalg.solve(hessian, gradient)
                if (abs(step) <= 2).all():
                    expected += step
                    moved += 1
        assert found[:2] == pytest.approx(expected.tolist(), abs=1e-6)
        assert found[2] == pytest.approx(one.max())
    assert moved > 40


def test_shifting_repeats_the_first_column():
    assert shift_right(torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist() == [[1, 1, 2], [4, 4, 5]]
