"""How colors in label images map to classes: palette images contain indices, RGB colors are mapped by `palette`."""

from __future__ import annotations

import numpy as np
import pytest
from label_images import error, folder, masks_of, write
from PIL import Image

from chordate.structures import IGNORED, DatasetMeta

PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


@pytest.mark.parametrize("settings", [{}, {"background": "class"}], ids=str)
def test_two_classes_of_one_color_are_refused(tmp_path, settings):
    palette = [(0, 0, 0), (200, 0, 0)] if settings else [(9, 0, 0), (9, 0, 0)]
    mask = masks_of([0, 1], 1)[0]
    write(tmp_path, [Image.fromarray(np.array(palette, np.uint8)[mask])])
    names, color = ("background and a", "(0, 0, 0)") if settings else ("a and b", "(9, 0, 0)")
    message = error(tmp_path, ["a", "b"], palette=palette, **settings)
    assert message.endswith(f"palette has the color {color} twice ({names}); colors must be distinct")


def palette_image(ids: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(ids, "P")
    image.putpalette([part for color in colors for part in color])
    return image


def test_palette_images_are_indices_whatever_their_colors(tmp_path):
    """The palette is reversed, so reading the colors would exchange classes."""
    mask = masks_of([0, 1, 2], 1)[0]
    write(tmp_path, [palette_image(mask, PALETTE[::-1])])
    for settings in ({}, {"palette": PALETTE}):
        assert np.array_equal(folder(tmp_path, ["a", "b", "c"], **settings).labels_of(0).numpy(), mask)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_color_images_are_mapped_by_the_palette(tmp_path, mode):
    mask = masks_of([0, 1, 2], 1)[0]
    write(tmp_path, [Image.fromarray(np.array(PALETTE, np.uint8)[mask]).convert(mode)])
    dataset = folder(tmp_path, ["a", "b", "c"], palette=PALETTE)
    assert np.array_equal(dataset.labels_of(0).numpy(), mask) and dataset.health_report == []
    assert dataset.meta.palette == tuple(PALETTE)
    message = error(tmp_path, ["a", "b", "c"])
    assert "(200, 0, 0) (" in message and "set palette to the color of each class" in message


def test_colors_outside_the_palette_are_ignored_and_reported(tmp_path):
    colors = np.array([*PALETTE, (1, 2, 3)], np.uint8)
    mask = masks_of([0, 1, 2, 3], 1)[0]
    dataset = folder(write(tmp_path, [Image.fromarray(colors[mask])]), ["a", "b", "c"], palette=PALETTE)
    assert np.array_equal(dataset.labels_of(0).numpy(), np.where(mask == 3, IGNORED, mask.astype(int)))
    (line,) = dataset.health_report
    assert "colors outside the palette are ignored: (1, 2, 3) (" in line and "000.png" in line


def test_a_palette_in_another_order_of_colors_is_an_error(tmp_path):
    mask = masks_of([0, 1], 1)[0]
    write(tmp_path, [Image.fromarray(np.array([(1, 2, 3), (4, 5, 6)], np.uint8)[mask])])
    message = error(tmp_path, ["a", "b"], palette=[(3, 2, 1), (6, 5, 4)])
    assert "no color of the palette occurs" in message and message.endswith("red and blue are exchanged")
    assert not error(tmp_path, ["a", "b"], palette=[(9, 9, 9), (8, 8, 8)]).endswith("exchanged")


def test_an_ignored_background_of_color_images_is_not_reported(tmp_path):
    mask = masks_of([0, 1, 2], 1)[0]
    colors = np.array([(0, 0, 0), *PALETTE[:2]], np.uint8)
    dataset = folder(
        write(tmp_path, [Image.fromarray(colors[mask])]), ["a", "b"], palette=PALETTE[:2], background="ignored"
    )
    assert np.array_equal(dataset.labels_of(0).numpy(), mask.astype(int) - 1) and dataset.health_report == []


def test_a_models_order_of_classes_applies_to_ids_and_colors(tmp_path):
    mask = masks_of([0, 1, 2], 1)[0]
    write(tmp_path, [Image.fromarray(np.array(PALETTE, np.uint8)[mask])])
    dataset = folder(tmp_path, ["a", "b", "c"], palette=PALETTE, meta=DatasetMeta(("c", "a", "b")))
    assert np.array_equal(dataset.labels_of(0).numpy(), (mask + 1) % 3)
