"""Mistakes with label images are detected when the dataset is opened, and messages advise settings that open it."""

from __future__ import annotations

import ast
import logging
import re

import numpy as np
import pytest
from label_images import SIZE, error, folder, masks_of, write
from PIL import Image

from chordate.data import label_counts, label_survey
from chordate.errors import ConfigError, DataError
from chordate.registry import DATASETS


def test_values_beyond_the_classes_are_listed_with_their_files(tmp_path):
    masks = masks_of([0, 1], 4)
    masks[2][0, 0], masks[3][:6] = 9, 5
    message = error(write(tmp_path, masks), ["a", "b"])
    assert message.startswith(f"{tmp_path}/labels/003.png: pixels have the value 5, which is not a class")
    assert "4 label files checked, unknown values: 5 (12 % of the pixels, 003.png), 9 (0.13 %, 002.png)" in message
    assert message.endswith(
        "the classes' ids are [0, 1]; correct the files, or add the others to ids or to ignored_ids"
    )


def test_a_value_in_a_single_file_of_many_is_found_when_the_dataset_is_opened(tmp_path):
    masks = masks_of([0, 1], 50)
    masks[37][3, 5] = 7
    message = error(write(tmp_path, masks), ["a", "b"])
    assert message.startswith(f"{tmp_path}/labels/037.png: pixels have the value 7, which is not a class; 50 label ")
    assert "values: 7 (0.01 % of the pixels, 037.png); the classes' ids are [0, 1]; correct the files, or" in message


def test_of_a_dataset_with_too_many_pixels_an_even_part_is_checked(tmp_path, monkeypatch):
    """The error of a file that was not checked has the frequencies of that file's values."""
    monkeypatch.setattr(label_survey, "MAX_PIXELS", 40 * SIZE[0] * SIZE[1])
    monkeypatch.setattr(label_survey, "FIRST_FILES", 2)
    masks = masks_of([0, 1], 80)
    masks[3][:6], masks[3][6, :4], masks[4][0] = 9, 5, 9
    with pytest.raises(DataError, match=r"40 of 80 label files checked, unknown values: 9 \(0.21 % .*, 004.png\);"):
        folder(write(tmp_path, masks), ["a", "b"])
    Image.fromarray(masks[0]).save(tmp_path / "labels/004.png")
    with pytest.raises(DataError, match=r"003.png: .* 9, .* values: 9 \(50 % of the pixels\), 5 \(2 %\); add it"):
        folder(tmp_path, ["a", "b"]).read(3)


RED, NOISE = Image.new("RGB", SIZE[::-1], (255, 0, 0)), np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    ("mask", "palette", "message"),
    [
        (RED, None, "label images are in color: .*; 2 of 6 label files checked; set palette"),
        (Image.new("L", (8, 8)), None, r"000\.png: 8×8, but .* \(wrong size in 2 of 2 of 6 label files checked\)"),
        (Image.fromarray(NOISE), [(0, 0, 0), (1, 1, 1)], "no color of the palette occurs, but .*; 2 of 6 label files"),
    ],
    ids=["no palette", "wrong size", "photos"],
)  # fmt: skip
def test_mistakes_in_all_label_files_are_found_in_the_first_ones(tmp_path, monkeypatch, mask, palette, message):
    monkeypatch.setattr(label_survey, "FIRST_FILES", 2)
    assert re.search(message, error(write(tmp_path, [mask] * 6), ["a", "b"], palette=palette))


def test_colors_of_the_palette_may_occur_only_in_the_last_label_file(tmp_path, monkeypatch):
    monkeypatch.setattr(label_survey, "FIRST_FILES", 2)
    black = Image.new("RGB", SIZE[::-1])
    (line,) = folder(write(tmp_path, [black] * 5 + [RED]), ["a"], palette=[(255, 0, 0)]).health_report
    assert "colors outside the palette are ignored" in line and "6 label files checked" in line


def test_a_limited_number_of_colors_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(label_counts, "MAX_COLORS", 2)
    counts = label_counts.LabelCounts()
    for number in range(4):
        pixels = np.full((2, 2, 3), number, np.uint8)
        pixels[0, 0] = 0
        counts.add(label_counts.LabelCounts.of_file(tmp_path / f"{number}.png", pixels))
    black, gray = 0, 0x010101
    assert counts.colors == {black: 7, gray: 3} and counts.pixels == 16
    assert counts.occurrences == {("colors", black): 4, ("colors", gray): 1}
    assert {key: path.name for key, path in counts.examples.items()} == {
        ("colors", black): "0.png", ("colors", gray): "1.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([1, 2, 3], 'set ids=[1, 2, 3], or background="ignored" if 0 means no class'),
        ([0, 1, 2, 3], 'set background="class" to learn 0, or background="ignored" to ignore it'),
        ([0, 127, 254], "set ids=[0, 127, 254] if these are the classes"),
        ([10, 20, 30, 255], "set ids=[10, 20, 30] if these are the classes"),
    ],
)
def test_ids_that_do_not_count_from_0_are_answered_with_what_to_set(tmp_path, values, remedy):
    assert remedy in error(write(tmp_path, masks_of(values)), ["a", "b", "c"])


def advised(message: str) -> list[dict]:
    """The settings that a message advises, one dict per alternative."""
    alternatives = re.findall(r'background="\w+"(?:, ids=\[[^]]*\])?|(?<!, )ids=\[[^]]*\]', message)
    return [
        {name: ast.literal_eval(value) for name, value in re.findall(r'(\w+)=("\w+"|\[[^]]*\])', text)}
        for text in alternatives
    ]


@pytest.mark.parametrize(
    ("classes", "settings", "values"),
    [
        (["no", "yes"], {}, [0, 255]),
        (["crack"], {"background": "class"}, [0, 255]),
        (["crack"], {"background": "ignored"}, [0, 255]),
        (["background", "crack"], {"background": "class"}, [0, 255]),
        (["background", "crack"], {"background": "ignored"}, [0, 255]),
        (["crack"], {}, [0, 255]),
        (["crack"], {"ignored_ids": []}, [0, 255]),
        (["a", "b"], {}, [1, 2]),
        (["a", "b"], {}, [0, 1, 2, 255]),
        (["a", "b"], {}, [0, 10, 20]),
        (["a", "b"], {}, [0, 10, 255]),
        (["a", "b"], {"background": "class"}, [0, 10, 20]),
        (["a", "b"], {"background": "ignored"}, [0, 10, 20]),
        (["background", "a"], {"background": "class"}, [10, 20]),
    ],
    ids=str,
)
def test_every_advised_setting_opens_the_dataset(tmp_path, caplog, classes, settings, values):
    write(tmp_path, masks_of(values))
    try:
        with caplog.at_level(logging.INFO):
            report = folder(tmp_path, classes, **settings).health_report
        (message,) = [*report, *caplog.messages]
        assert bool(report) == ("background" not in settings)  # a background that the config sets is only logged
    except DataError as caught:
        message = str(caught)
    settings = [settings | change for change in advised(message)]
    assert settings
    for change in settings:
        folder(tmp_path, classes, **change).labels_of(0)


@pytest.mark.parametrize("classes", [["background", "a", "b"], ["a", "b"]])
def test_no_setting_is_advised_that_does_not_open_the_dataset(tmp_path, classes):
    """There are more values than classes, and only the user knows which of them to ignore."""
    message = error(write(tmp_path, masks_of([0, 5, 6, 7])), classes, background="ignored")
    assert advised(message) == [] and "add the others to ids or to ignored_ids" in message


def test_masks_of_0_and_255_get_no_advice_to_ignore_255_if_it_is_not_ignored(tmp_path):
    (line,) = folder(write(tmp_path, masks_of([0, 255])), ["no", "yes"], ignored_ids=[]).health_report
    assert line.endswith('255 is "yes", not ignored')


def test_values_that_no_setting_accepts_are_not_advised(tmp_path):
    write(tmp_path, masks_of([0], 2))
    Image.fromarray(masks_of([0, 1, -1], 1, np.int32)[0]).save(tmp_path / "labels/000.tif")
    Image.fromarray(masks_of([0, 1], 1, np.int32)[0]).save(tmp_path / "labels/001.tif")
    message = error(tmp_path, ["a", "b"], label_suffix=".tif")
    assert "pixels have the value -1" in message and not advised(message) and "add" not in message
    assert message.endswith("label images have values 0 … 65535; save it as another value (255 is ignored by default)")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"palette": [[300, 0, 0], [0, 0, 0]]}, r"palette\.0\.0 must be ≥ 0 and ≤ 255, got 300"),
        ({"palette": [[0, 0, 0], [0, -1, 0]]}, r"palette\.1\.1 must be ≥ 0 and ≤ 255, got -1"),
        ({"ids": [0, 2**40]}, r"ids\.1 must be ≥ 0 and ≤ 65535, got 1099511627776"),
        ({"ignored_ids": [10**8]}, r"ignored_ids\.0 must be ≥ 0 and ≤ 65535, got 100000000"),
    ],
    ids=str,
)
def test_colors_and_ids_outside_the_range_of_label_images_are_refused(tmp_path, setting, message):
    write(tmp_path, masks_of([0, 1]))
    section = {"type": "SemanticFolder", "images": "images", "labels": "labels", "classes": ["a", "b"], **setting}
    with pytest.raises(ConfigError, match=message):
        DATASETS.build(section, data_root=tmp_path)


def test_files_without_any_labeled_pixel_are_reported(tmp_path):
    dataset = folder(write(tmp_path, masks_of([255])), ["a", "b"])
    assert "no pixel has a class: 255 (100 % of the pixels" in dataset.health_report[0]


def test_two_valued_masks_of_only_an_ignored_background_are_reported(tmp_path):
    dataset = folder(write(tmp_path, masks_of([0, 255])), ["background"], background="ignored")
    assert "no pixel has a class" in dataset.health_report[0]
