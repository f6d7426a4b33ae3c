"""Broken data raises a one-line error; it never causes a gray image, a wrong box or a hang."""

import json
import re
import shutil
from pathlib import Path

import cv2
import hotcoco
import numpy as np
import PIL.Image
import pytest
import torch
from tiny_coco import CATEGORIES, annotation, write_coco

from chordate.data import CocoDataset
from chordate.data.coco_annotations import open_index
from chordate.data.image_io import read_image
from chordate.errors import DataError

BOX = annotation(1, 1, [10, 10, 20, 20])


def open_set(root: Path, **settings) -> CocoDataset:
    return CocoDataset("annotations.json", "images", data_root=root, **settings)


def error_line(root: Path, **settings) -> str:
    """The one-line message of the error that opening the dataset or reading its first image must raise."""
    with pytest.raises(DataError) as error:
        open_set(root, **settings)[(0, 0)]
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth RGB image `[H, W, 3]`, which JPEG compression hardly changes."""
    y, x = np.mgrid[0:60, 0:80].astype(np.float32)
    return np.stack([x * 3, y * 4, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], 2).astype(np.uint8)


# Annotation files


def test_a_missing_annotation_file_names_its_neighbors(tmp_path: Path) -> None:
    write_coco(tmp_path, [BOX])
    with pytest.raises(DataError, match=r"annotation\.json: no such annotation file; did you mean annotations\.json\?"):
        CocoDataset("annotation.json", "images", data_root=tmp_path)
    with pytest.raises(DataError, match=r"the folder .*anotations does not exist"):
        CocoDataset("anotations/train.json", "images", data_root=tmp_path)


def test_a_missing_image_folder_is_an_error_on_opening(tmp_path: Path) -> None:
    write_coco(tmp_path, [BOX])
    with pytest.raises(DataError, match="no such image folder"):
        CocoDataset("annotations.json", "train", data_root=tmp_path)


def test_a_zip_of_the_data_must_be_unpacked(tmp_path: Path) -> None:
    write_coco(tmp_path / "set", [BOX])
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set")
    for annotations, images, what in (
        (f"{archive}/annotations.json", "images", f"{archive}/annotations.json: annotation files"),
        ("annotations.json", f"{archive}/images", f"{archive}/images: image folders"),
    ):
        with pytest.raises(DataError) as error:
            CocoDataset(annotations, images, data_root=tmp_path / "set")
        assert str(error.value).startswith(f"{what} are not read from a zip, only class folders are; unpack {archive}")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.98])
def test_truncated_json_is_an_error_that_names_the_file(tmp_path: Path, share: float) -> None:
    file = write_coco(tmp_path, [BOX]) / "annotations.json"
    text = file.read_text()
    file.write_text(text[: int(len(text) * share)])
    assert re.match(rf"{file}: not COCO annotations, or truncated: .*line", error_line(tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {"annotations": 3}, "nonsense"])
def test_json_that_is_not_coco_is_refused(tmp_path: Path, content) -> None:
    (write_coco(tmp_path, []) / "annotations.json").write_text(json.dumps(content))
    assert "annotations.json: not COCO annotations" in error_line(tmp_path)


@pytest.mark.parametrize(
    ("annotations", "replaced", "complaint"),
    [
        ([annotation(6, 99, [1, 1, 9, 9])], {}, r"image IDs not present.*\(id 6\)"),
        ([annotation(8, 1, [1, 1, 9, 9], category=44)], {}, r"category IDs not present.*\(id 8\)"),
        ([BOX], {"categories": [*CATEGORIES, CATEGORIES[0]]}, r"[Dd]uplicate category.*\(id 7\)"),
        ([{k: v for k, v in BOX.items() if k != "bbox"}], {}, r"no bbox.*\(id 1\)"),
    ],
)
def test_contradictory_annotations_stop_the_run_with_their_ids_unless_allowed(
    tmp_path: Path, annotations: list, replaced: dict, complaint: str
) -> None:
    write_coco(tmp_path, annotations, **replaced)
    message = error_line(tmp_path)
    assert re.search(complaint, message)
    assert 'health="warn"' in message
    sample = open_set(tmp_path, health="warn")[(0, 0)]
    assert len(sample["boxes"]) == len(sample["labels"])


def test_duplicate_annotation_ids_assign_no_box_to_another_image(tmp_path: Path) -> None:
    twice = [annotation(5, 1, [1, 1, 9, 9]), annotation(5, 2, [20, 20, 9, 9])]
    dataset = open_set(write_coco(tmp_path, twice))
    assert dataset[(0, 0)]["boxes"].tolist() == [[1, 1, 10, 10]]
    assert dataset[(0, 1)]["boxes"].tolist() == [[20, 20, 29, 29]]
    assert re.search(r"[Dd]uplicate annotation.*\(id 5\)", dataset.health_report[0])


def test_hotcoco_prints_no_warning_of_its_own_about_duplicate_ids(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file = write_coco(tmp_path, [BOX, BOX]) / "annotations.json"
    hotcoco.COCO(str(file))
    assert "duplicate annotation id" in capfd.readouterr().err
    assert "duplicate annotation ids" in open_set(tmp_path).health_report[0]
    assert capfd.readouterr() == ("", "")


def without_id() -> dict:
    return {name: value for name, value in BOX.items() if name != "id"}


@pytest.mark.parametrize("annotations", [[without_id(), without_id()], [{**BOX, "area": float("nan")}]], ids=len)
def test_hotcoco_prints_no_warning_of_its_own_about_missing_ids_and_nan(annotations, tmp_path, capfd) -> None:
    file = write_coco(tmp_path, annotations) / "annotations.json"
    hotcoco.COCO(str(file))
    assert "hotcoco" in capfd.readouterr().err
    assert len(open_set(tmp_path)[(0, 0)]["boxes"]) == len(annotations)
    assert capfd.readouterr() == ("", "")


def test_an_id_of_another_list_is_no_duplicate(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "cat"}]
    write_coco(tmp_path, [annotation(1, 1, [1, 1, 9, 9], category=1)], categories=categories, licenses=[{"id": 1}])
    assert open_index(tmp_path / "annotations.json") is not None


def test_duplicate_image_ids_stop_the_run(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [BOX]) / "annotations.json"
    content = json.loads(file.read_text())
    content["images"].append(content["images"][0])
    file.write_text(json.dumps(content))
    assert re.search(r"[Dd]uplicate image.*\(id 1\)", error_line(tmp_path))
    assert open_set(tmp_path, health="warn").image_ids.tolist() == [1, 2]


def test_two_categories_of_one_name_are_refused(tmp_path: Path) -> None:
    boxes = [BOX, annotation(2, 1, [5, 5, 9, 9], category=1)]
    write_coco(tmp_path, boxes, categories=[{"id": 1, "name": "cat"}, {"id": 3, "name": "cat"}])
    assert "categories with the name of an earlier category; rename them: 'cat' (id 3)" in error_line(tmp_path)


def test_many_ids_are_counted_not_listed(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(n, 99, [1, 1, 9, 9]) for n in range(100)])
    assert "9 … (100 in all)" in error_line(tmp_path)


@pytest.mark.parametrize("empty", [{"images": []}, {"categories": []}])
def test_an_empty_set_is_refused(tmp_path: Path, empty: dict) -> None:
    write_coco(tmp_path, [], **empty)
    assert "there is nothing to" in error_line(tmp_path).replace("nothing to learn", "there is nothing to learn")


def test_a_dataset_without_instances_is_refused_if_empty_images_are_left_out(tmp_path: Path) -> None:
    write_coco(tmp_path, [])
    assert "no image has an instance of the used classes" in error_line(tmp_path, filter_empty=True)


def test_masks_from_box_annotations_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, [BOX])
    message = "no object has a usable mask (1 object, the first: annotation 1); add masks, or set masks=False"
    assert error_line(tmp_path, masks=True) == f"{tmp_path}/annotations.json: {message}"


def test_an_image_without_a_file_name_is_named_by_its_id(tmp_path: Path) -> None:
    write_coco(tmp_path, [BOX], images=[{"id": 1, "height": 60, "width": 80}])
    assert error_line(tmp_path).startswith(
        f"{tmp_path}/annotations.json: file_name is not the name of a file: None (id 1). Fix the file, or set"
    )


def test_boxes_that_are_fractions_of_the_image_are_an_error(tmp_path: Path) -> None:
    """Without the error, a detector would train on boxes of about one pixel."""
    write_coco(tmp_path, [annotation(n, 1, [0.25, 0.5, 0.5, 0.25]) for n in (1, 2)])
    line = (
        f"{tmp_path}/annotations.json: boxes seem to be fractions of the image size (0.25, 0.5, 0.5, 0.25); COCO's are"
    )
    line += " in pixels: x, y, width, height"
    remedy = 'Multiply them by the size; if they are pixels, set health="warn" in the dataset'
    assert error_line(tmp_path) == f"{line}. {remedy}"
    assert open_set(tmp_path, health="warn").health_report == [line]
    write_coco(tmp_path, [annotation(1, 1, [0, 0, 1, 1]), BOX | {"id": 2}])  # a single such box may be a small object
    assert len(open_set(tmp_path)) > 0


def test_the_problems_found_on_opening_stay_with_the_dataset(tmp_path: Path) -> None:
    write_coco(tmp_path, [BOX])
    assert open_set(tmp_path).health_report == []
    write_coco(tmp_path, [annotation(4, 1, [70, 10, 20, 20])])
    assert open_set(tmp_path).health_report == [f"{tmp_path}/annotations.json: 1 box clipped to the image (id 4)"]


@pytest.mark.parametrize("box", [[5, 5, 0.005, 20], [79.995, 5, 9, 9], [5, 5, 0, 20], [90, 5, 9, 9]])
def test_each_box_that_is_dropped_is_reported_once(tmp_path: Path, box: list[float]) -> None:
    dataset = open_set(write_coco(tmp_path, [BOX, annotation(9, 1, box)]))
    assert len(dataset[(0, 0)]["boxes"]) == 1
    assert dataset.health_report == [
        f"{tmp_path}/annotations.json: 1 box with a side below 0.01 px in the image dropped (id 9)"
    ]


# Images


def test_a_missing_image_names_its_neighbors(tmp_path: Path) -> None:
    write_coco(tmp_path, [BOX])
    (tmp_path / "images" / "1.png").rename(tmp_path / "images" / "01.png")
    assert "images/1.png: no such image file; did you mean 01.png" in error_line(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp"])
def test_a_truncated_image_file_is_an_error_not_a_gray_image(
    tmp_path: Path, photo: np.ndarray, share: float, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    cv2.imwrite(str(path), photo)
    whole = path.read_bytes()
    assert read_image(path).shape == (3, 60, 80)
    path.write_bytes(whole[: min(int(len(whole) * share), len(whole) - 1)])
    with pytest.raises(DataError, match=rf"a\.{ending}: .*truncated"):
        read_image(path)


def test_a_jpeg_with_bytes_after_its_end_is_read(tmp_path: Path, photo: np.ndarray) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), photo)
    want = read_image(path)
    path.write_bytes(path.read_bytes() + bytes(500))
    assert torch.equal(read_image(path), want)


def test_a_text_file_as_an_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404 not found</html>")
    with pytest.raises(DataError, match="not a readable image"):
        read_image(tmp_path / "a.jpg")


def test_every_kind_of_file_becomes_three_channels_of_eight_bits(tmp_path: Path, photo: np.ndarray) -> None:
    rgb = PIL.Image.fromarray(photo)
    gray = np.asarray(rgb.convert("L"))
    opaque = rgb.convert("RGBA")
    opaque.putalpha(77)
    exact = {
        "rgb.png": (rgb, photo),
        "gray.png": (rgb.convert("L"), gray[..., None].repeat(3, 2)),
        "gray16.png": (PIL.Image.fromarray(gray.astype(np.uint16) * 256 + 99), gray[..., None].repeat(3, 2)),
        "alpha.png": (opaque, photo),
        "gray_alpha.png": (rgb.convert("LA"), gray[..., None].repeat(3, 2)),
        "palette.png": (rgb.quantize(64), np.asarray(rgb.quantize(64).convert("RGB"))),
        "two.png": (rgb.convert("1"), np.asarray(rgb.convert("1").convert("RGB"))),
        "rgb.bmp": (rgb, photo),
        "rgb.tif": (rgb, photo),
    }
    for name, (picture, want) in exact.items():
        picture.save(tmp_path / name)
        got = read_image(tmp_path / name)
        assert (got.dtype, got.shape) == (torch.uint8, (3, 60, 80)), name
        np.testing.assert_array_equal(got.permute(1, 2, 0).numpy(), want, err_msg=name)
    lossy = {"rgb.jpg": rgb, "gray.jpg": rgb.convert("L"), "cmyk.jpg": rgb.convert("CMYK")}
    for name, picture in lossy.items():
        picture.save(tmp_path / name, quality=95)
        got = read_image(tmp_path / name).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(got - np.asarray(picture.convert("RGB"))).mean() < 4, name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_applies_it(tmp_path: Path, photo: np.ndarray, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    PIL.Image.fromarray(photo).save(path, exif=exif, quality=95)
    from PIL.ImageOps import exif_transpose

    displayed = np.asarray(exif_transpose(PIL.Image.open(path)))
    stored = np.asarray(PIL.Image.open(path))
    np.testing.assert_array_equal(read_image(path).permute(1, 2, 0).numpy(), displayed)
    np.testing.assert_array_equal(read_image(path, displayed.shape[:2]).permute(1, 2, 0).numpy(), displayed)
    if orientation >= 5:  # rotated by 90°, so the annotated size may be that of the stored pixels
        np.testing.assert_array_equal(read_image(path, stored.shape[:2]).permute(1, 2, 0).numpy(), stored)


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, [BOX])
    cv2.imwrite(str(tmp_path / "images" / "1.png"), np.zeros((30, 40, 3), np.uint8))
    assert re.search(r"images/1\.png: the image is 40×30, but the annotations say 80×60", error_line(tmp_path))


def test_swapped_width_and_height_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, [BOX])
    cv2.imwrite(str(tmp_path / "images" / "1.png"), np.zeros((80, 60, 3), np.uint8))
    assert "the image is 60×80, but the annotations say 80×60" in error_line(tmp_path)
