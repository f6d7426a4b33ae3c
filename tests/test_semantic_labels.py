"""How gray values in label images map to classes: binary masks, background, ids beyond 8 bits, sizes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from label_images import SIZE, error, folder, masks_of, write
from PIL import Image

from chordate.data.loader import build_dataset
from chordate.errors import ConfigError
from chordate.structures import IGNORED


def test_masks_of_0_and_255_are_0_and_1_although_255_is_ignored_by_default(tmp_path, caplog):
    masks = masks_of([0, 255])
    section = {"dataset": {"type": "SemanticFolder", "images": "images", "labels": "labels", "classes": ["no", "yes"]}}
    dataset = build_dataset(section, data_root=write(tmp_path, masks), training=True)
    for index, mask in enumerate(masks):
        assert np.array_equal(dataset.labels_of(index).numpy(), mask // 255)
    (line,) = [record.message for record in caplog.records]
    assert line.endswith('masks of 0 and 255: 255 is "yes", not ignored; to ignore 255, set ids=[0, 1]')


def test_two_images_with_one_label_image_are_an_error_that_names_both(tmp_path):
    write(tmp_path, masks_of([0, 1]))
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "images/001.png")
    assert "images/001.jpg and 001.png have the same label file; remove one" in error(tmp_path, ["no", "yes"])
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


def test_masks_of_0_and_255_among_masks_of_0_and_1_are_an_error(tmp_path):
    masks = [*masks_of([0, 255], 39), masks_of([0, 1], 1)[0]]
    assert (
        "labels: masks of 0 and 255 are mixed with masks of 0 and 1: 255 (48 % of the pixels, 000.png and 38 other "
        "files), 1 (1 %, 039.png); 40 label files checked; save them with the same values, or set ids=[0, 1]"
    ) in error(write(tmp_path, masks), ["no", "yes"])
    assert (folder(tmp_path, ["no", "yes"], ids=[0, 1]).labels_of(0)[masks[0] == 255] == IGNORED).all()


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


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_label_images_are_refused(tmp_path, mode):
    write(tmp_path, masks_of([0], 1))
    Image.fromarray(masks_of([0, 1], 1)[0]).convert(mode).save(tmp_path / "labels/000.jpg")
    message = error(tmp_path, ["a", "b"], label_suffix=".jpg", palette=[(0, 0, 0), (1, 1, 1)])
    assert message.endswith("labels/000.jpg: JPEG compression changes the classes of pixels; save label images as PNG")


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, ".png"), (np.int32, ".tif")])
def test_ids_beyond_8_bits(tmp_path, dtype, suffix):
    mask = masks_of([300, 1000, 65535], 1, dtype)[0]
    write(tmp_path, masks_of([0], 1))
    Image.fromarray(mask).save(tmp_path / f"labels/000{suffix}")
    dataset = folder(tmp_path, ["a", "b"], ids=[300, 1000], ignored_ids=[65535], label_suffix=suffix)
    expected = np.vectorize({300: 0, 1000: 1, 65535: IGNORED}.get)(mask)
    assert np.array_equal(dataset.labels_of(0).numpy(), expected)


def test_label_images_of_another_size_than_their_images_are_one_line(tmp_path):
    message = error(write(tmp_path, masks_of([0, 1]), image_size=(24, 32)), ["a", "b"])
    assert message == (
        f"{tmp_path}/labels/000.png: 16×12, but its image 000.jpg is 32×24 (wrong size in 3 of 3 label files checked)"
    )


def test_labels_of_the_stored_pixels_of_a_turned_photo_fit(tmp_path):
    """The label file fits the stored pixels, so the image is read without its EXIF rotation (orientation 6)."""
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


def test_floating_point_labels_are_refused(tmp_path):
    write(tmp_path, masks_of([0, 1], 1))
    Image.fromarray(np.zeros(SIZE, np.float32)).save(tmp_path / "labels/000.tif")
    message = error(tmp_path, ["a", "b"], label_suffix=".tif")
    assert "000.tif: pixels of mode F are not class ids" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ids": [3]}, "ids has 1 entries for 2 classes; give one per class"),
        ({"ids": [1, 1]}, "ids has the value 1 twice; ids must be distinct"),
        ({"ignored_ids": [1]}, "ignored_ids has 1, which is the value of the class b; remove it, or set ids to the"),
        ({"ignored_ids": [0], "background": "class"}, "ignored_ids has 0, which is the value of the class background"),
        ({"ids": [0, 5], "background": "class"}, "ids has 0, which is the background's value with background="),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_one_line_with_their_place(tmp_path, settings, message):
    write(tmp_path, masks_of([0, 1]))
    dataset = {"type": "SemanticFolder", "images": "images", "labels": "labels", "classes": ["a", "b"], **settings}
    with pytest.raises(ConfigError, match=rf"train_data\.dataset(\.background)?: {re.escape(message)}") as caught:
        build_dataset({"dataset": dataset, "pipeline": []}, data_root=tmp_path, training=True)
    assert "\n" not in str(caught.value)


def test_an_ignored_background_may_also_be_in_ignored_ids(tmp_path):
    write(tmp_path, masks_of([0, 1, 2]))
    dataset = folder(tmp_path, ["a", "b"], background="ignored", ignored_ids=[0, 255])
    assert dataset.encoding.ids == (1, 2) and set(dataset.encoding.ignored_ids) == {0, 255}


def test_label_files_without_an_image_are_reported(tmp_path):
    write(tmp_path, masks_of([0, 1]))
    assert not folder(tmp_path, ["a", "b"]).health_report
    for number in (0, 2):
        (tmp_path / f"images/00{number}.jpg").rename(tmp_path / f"images/00{number}.txt")
    (tmp_path / "names.txt").write_text("001")
    (line,) = folder(tmp_path, ["a", "b"]).health_report
    assert line.endswith("labels: 2 of 3 label files have no image, and are not used: 000.png")
    assert not folder(tmp_path, ["a", "b"], files="names.txt").health_report


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("reduce_zero_label", "background"), ("seg_map_suffix", "label_suffix"), ("ignore_index", "ignored_ids")],
)
def test_settings_of_mmsegmentation_are_answered_with_ours(tmp_path, theirs, ours):
    dataset = {"type": "SemanticFolder", "images": "images", "labels": "labels", "classes": ["a", "b"], theirs: 1}
    with pytest.raises(ConfigError, match=f'unknown setting .* "{theirs}"; did you mean "{ours}"'):
        build_dataset({"dataset": dataset, "pipeline": []}, data_root=tmp_path, training=True)
