"""Common mistakes with label images are detected when the dataset is opened, with a one-line message."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chordate.data import SemanticFolder
from chordate.data.loader import build_dataset
from chordate.errors import ConfigError, DataError
from chordate.registry import DATASETS
from chordate.structures import IGNORED, DatasetMeta

SIZE = (12, 16)


def write(root: Path, masks: list[np.ndarray | Image.Image], image_size: tuple[int, int] = SIZE) -> Path:
    """Write black images, and the given label images."""
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number, mask in enumerate(masks):
        Image.new("RGB", image_size[::-1]).save(root / f"images/{number:03}.jpg")
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(root / f"labels/{number:03}.png")
    return root


def masks_of(values: list[int], count: int = 3, dtype: type = np.uint8) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.choice(np.array(values, dtype), SIZE) for _ in range(count)]


def folder(root: Path, classes: list[str], **settings) -> SemanticFolder:
    return SemanticFolder("images", "labels", classes=classes, data_root=root, **settings)


def error(root: Path, classes: list[str], **settings) -> str:
    with pytest.raises(DataError) as caught:
        folder(root, classes, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_masks_of_0_and_255_are_0_and_1_although_255_is_ignored_by_default(tmp_path, caplog):
    masks = masks_of([0, 255])
    section = {"dataset": {"type": "SemanticFolder", "images": "images", "labels": "labels", "classes": ["no", "yes"]}}
    dataset = build_dataset(section, data_root=write(tmp_path, masks), training=True)
    for index, mask in enumerate(masks):
        assert np.array_equal(dataset.labels_of(index).numpy(), mask // 255)
    (line,) = [record.message for record in caplog.records]
    assert 'masks of 0 and 255: 255 is "yes", not ignored' in line


def test_two_images_with_one_label_image_are_an_error_that_names_both(tmp_path):
    write(tmp_path, masks_of([0, 1]))
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "images/001.png")
    assert "images/001.jpg and 001.png have the same labels; remove one" in error(tmp_path, ["no", "yes"])
    assert len(folder(tmp_path, ["no", "yes"], image_suffix=".jpg")) == 3


def test_two_valued_masks_are_recognized_behind_many_empty_ones(tmp_path):
    masks = [np.zeros(SIZE, np.uint8)] * 70 + masks_of([0, 255], 1)
    dataset = folder(write(tmp_path, masks), ["no", "yes"])
    assert np.array_equal(dataset.labels_of(70).numpy(), masks[70] // 255)


@pytest.mark.parametrize(
    ("settings", "values", "expected"),
    [
        ({"ids": [0, 1]}, [0, 255], {0: 0, 255: IGNORED}),  # with these ids, 255 is ignored
        ({}, [0, 1, 255], {0: 0, 1: 1, 255: IGNORED}),
        ({"ids": [255, 0]}, [0, 255], {255: 0, 0: 1}),
    ],
)
def test_255_is_ignored_where_that_is_meant(tmp_path, settings, values, expected):
    masks = masks_of(values)
    dataset = folder(write(tmp_path, masks), ["no", "yes"], **settings)
    assert np.array_equal(dataset.labels_of(0).numpy(), np.vectorize(expected.get)(masks[0]))


def test_a_file_that_mixes_both_ways_to_write_a_mask_is_an_error_when_read(tmp_path):
    masks = masks_of([0, 255], 40)
    masks[39] = masks_of([0, 1], 1)[0]  # 32 of the 40 files are checked when the dataset is opened, but not this one
    dataset = folder(write(tmp_path, masks), ["no", "yes"])
    with pytest.raises(DataError, match=r"039\.png: pixels have the value 1, which is not a class"):
        dataset.read(39)


def test_bitmaps_are_0_and_1(tmp_path):
    mask = masks_of([0, 1], 1)[0]
    dataset = folder(write(tmp_path, [Image.fromarray(mask.astype(bool))]), ["no", "yes"])
    assert np.array_equal(dataset.labels_of(0).numpy(), mask)


@pytest.mark.parametrize("background", ["class", "ignored"])
@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
def test_the_background_is_learned_or_ignored_by_one_word(tmp_path, background, named):
    mask = masks_of([0, 1, 2], 1)[0]
    classes = ["background", "cat", "dog"] if named else ["cat", "dog"]
    dataset = folder(write(tmp_path, [mask]), classes, background=background)
    labels = dataset.labels_of(0).numpy()
    if background == "class":
        assert dataset.classes == ("background", "cat", "dog") and np.array_equal(labels, mask)
    else:
        assert dataset.classes == ("cat", "dog") and np.array_equal(labels, mask.astype(int) - 1)


def test_the_background_of_two_valued_masks_is_0(tmp_path):
    masks = masks_of([0, 255])
    learned = folder(write(tmp_path, masks), ["tumor"], background="class")
    assert learned.classes == ("background", "tumor")
    assert np.array_equal(learned.labels_of(0).numpy(), masks[0] // 255)
    ignored = folder(tmp_path, ["tumor"], background="ignored")
    assert np.array_equal(ignored.labels_of(0).numpy(), np.where(masks[0] == 255, 0, IGNORED))
    assert 'set background="class"' in error(tmp_path, ["tumor"])


def test_the_background_keeps_the_ids_of_the_other_classes(tmp_path):
    mask = masks_of([0, 7, 9], 1)[0]
    dataset = folder(write(tmp_path, [mask]), ["cat", "dog"], ids=[7, 9], background="class")
    assert np.array_equal(dataset.labels_of(0).numpy(), np.vectorize({0: 0, 7: 1, 9: 2}.get)(mask))
    assert "ids has 0, which is the background's value" in error(
        tmp_path, ["cat", "dog"], ids=[0, 7], background="class"
    )
    assert "ids has the value 7 twice" in error(tmp_path, ["cat", "dog"], ids=[7, 7])


def test_values_beyond_the_classes_are_listed_with_their_files(tmp_path):
    masks = masks_of([0, 1], 4)
    masks[2][0, 0], masks[3][:6] = 9, 5
    message = error(write(tmp_path, masks), ["a", "b"])
    assert message.startswith(f"{tmp_path}/labels/003.png: pixels have the value 5, which is not a class")
    assert "4 label files checked: 5 (12 % of the pixels, 003.png), 9 (0.13 %, 002.png)" in message
    assert message.endswith("the classes' ids are [0, 1]; add the others to ids or to ignored_ids")


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([1, 2, 3], 'ids=[1, 2, 3], or background="ignored" if 0 means no class'),
        ([0, 1, 2, 3], 'background="class" to learn 0, background="ignored" to leave it out'),
        ([0, 127, 254], "ids=[0, 127, 254] if these are the classes"),
        ([10, 20, 30, 255], "ids=[10, 20, 30] if these are the classes"),
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
def test_every_advised_setting_opens_the_dataset(tmp_path, classes, settings, values):
    write(tmp_path, masks_of(values))
    try:
        (message,) = folder(tmp_path, classes, **settings).health_report
    except DataError as caught:
        message = str(caught)
    settings = [settings | change for change in advised(message)]
    assert settings
    for change in settings:
        folder(tmp_path, classes, **change).labels_of(0)


@pytest.mark.parametrize("classes", [["background", "a", "b"], ["a", "b"]])
def test_no_setting_is_advised_that_does_not_open_the_dataset(tmp_path, classes):
    """Two more values than classes and background, so the choice is the user's."""
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


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_label_images_are_refused(tmp_path, mode):
    write(tmp_path, masks_of([0], 1))
    Image.fromarray(masks_of([0, 1], 1)[0]).convert(mode).save(tmp_path / "labels/000.jpg")
    message = error(tmp_path, ["a", "b"], label_suffix=".jpg", palette=PALETTE[:2])
    assert message.endswith("labels/000.jpg: JPEG compression changes the classes of pixels; save label images as PNG")


@pytest.mark.parametrize("settings", [{}, {"background": "class"}], ids=str)
def test_two_classes_of_one_color_are_refused(tmp_path, settings):
    palette = [(0, 0, 0), (200, 0, 0)] if settings else [(9, 0, 0), (9, 0, 0)]
    mask = masks_of([0, 1], 1)[0]
    write(tmp_path, [Image.fromarray(np.array(palette, np.uint8)[mask])])
    names, color = ("background and a", "(0, 0, 0)") if settings else ("a and b", "(9, 0, 0)")
    message = error(tmp_path, ["a", "b"], palette=palette, **settings)
    assert message.endswith(f"palette has the color {color} twice ({names}); colors must be distinct")


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, ".png"), (np.int32, ".tif")])
def test_ids_beyond_8_bits(tmp_path, dtype, suffix):
    mask = masks_of([300, 1000, 65535], 1, dtype)[0]
    write(tmp_path, masks_of([0], 1))
    Image.fromarray(mask).save(tmp_path / f"labels/000{suffix}")
    dataset = folder(tmp_path, ["a", "b"], ids=[300, 1000], ignored_ids=[65535], label_suffix=suffix)
    expected = np.vectorize({300: 0, 1000: 1, 65535: IGNORED}.get)(mask)
    assert np.array_equal(dataset.labels_of(0).numpy(), expected)


def palette_image(ids: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(ids, "P")
    image.putpalette([part for color in colors for part in color])
    return image


PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def test_palette_images_are_indices_whatever_their_colors(tmp_path):
    """Read as colors, the pixels would have the classes in another order."""
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


def test_colors_outside_the_palette_are_ignored_with_a_line(tmp_path):
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


def test_an_ignored_background_of_color_images_needs_no_line(tmp_path):
    mask = masks_of([0, 1, 2], 1)[0]
    colors = np.array([(0, 0, 0), *PALETTE[:2]], np.uint8)
    dataset = folder(
        write(tmp_path, [Image.fromarray(colors[mask])]), ["a", "b"], palette=PALETTE[:2], background="ignored"
    )
    assert np.array_equal(dataset.labels_of(0).numpy(), mask.astype(int) - 1) and dataset.health_report == []


def test_label_images_of_another_size_than_their_images_are_one_line(tmp_path):
    message = error(write(tmp_path, masks_of([0, 1]), image_size=(24, 32)), ["a", "b"])
    assert message == (
        f"{tmp_path}/labels/000.png: 16×12, but its image 000.jpg is 32×24 (3 of 3 label files checked differ)"
    )


def test_labels_of_the_stored_pixels_of_a_turned_photo_fit(tmp_path):
    """EXIF orientation 6 rotates the displayed image, but the labels are those of the stored pixels."""
    mask = masks_of([0, 1], 1)[0]
    write(tmp_path, [mask])
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "images/000.jpg", exif=exif, quality=95)
    sample = folder(tmp_path, ["a", "b"]).read(0)
    assert sample["image"].shape[-2:] == sample["labels"].shape == SIZE
    assert sample["image"][:, :, 8:].float().mean() > 200 > 50 > sample["image"][:, :, :8].float().mean()


def test_files_without_any_labeled_pixel_get_a_line(tmp_path):
    dataset = folder(write(tmp_path, masks_of([255])), ["a", "b"])
    assert "no pixel has a class: 255 (100 % of the pixels" in dataset.health_report[0]


def test_floating_point_labels_are_refused(tmp_path):
    write(tmp_path, masks_of([0, 1], 1))
    Image.fromarray(np.zeros(SIZE, np.float32)).save(tmp_path / "labels/000.tif")
    message = error(tmp_path, ["a", "b"], label_suffix=".tif")
    assert "000.tif: pixels of mode F are not class ids" in message


def test_a_models_order_of_classes_applies_to_ids_and_colors(tmp_path):
    mask = masks_of([0, 1, 2], 1)[0]
    write(tmp_path, [Image.fromarray(np.array(PALETTE, np.uint8)[mask])])
    dataset = folder(tmp_path, ["a", "b", "c"], palette=PALETTE, meta=DatasetMeta(("c", "a", "b")))
    assert np.array_equal(dataset.labels_of(0).numpy(), (mask + 1) % 3)


def test_two_valued_masks_of_only_an_ignored_background_get_a_line(tmp_path):
    dataset = folder(write(tmp_path, masks_of([0, 255])), ["background"], background="ignored")
    assert "no pixel has a class" in dataset.health_report[0]
