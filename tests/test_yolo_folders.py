"""YOLO folders as tools export them: nested folders, data.yaml, class names, relative data roots, damaged parts."""

import shutil
from pathlib import Path

import pytest
from annotation_folders import CAT, LINE, PNG, is_cat, samples, voc, voc_xml, write, yolo

from chordate.data import VocDataset, YoloDataset
from chordate.errors import ConfigError, DataError


def test_nested_yolo_folders_are_paired_by_path(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"a/1.txt": LINE, "b/1.txt": LINE.replace("0", "1", 1)}, ["a/1.png", "b/1.png", "c/1.png"])
    dataset = YoloDataset("images", names="data.yaml", data_root=root)
    found = samples(dataset)
    assert {image: [name for name, _ in objects] for image, objects in found.items()} == {
        "a/1.png": ["cat"], "b/1.png": ["dog"], "c/1.png": [],
    }  # fmt: skip
    assert is_cat(found["a/1.png"])


@pytest.mark.parametrize(
    "content", [f"\ufeff{LINE}\r\n", f"{LINE}\r\r\n\n", f"  {LINE}\t\n", f"{LINE}".encode("utf-8-sig")]
)
def test_label_files_may_have_a_byte_order_mark_and_any_line_endings(tmp_path: Path, content) -> None:
    root = yolo(tmp_path, {"1.txt": content}, ["1.png"])
    assert is_cat(samples(YoloDataset("images", "labels", "data.yaml", data_root=root))["1.png"])


@pytest.mark.parametrize(
    ("file", "content", "names"),
    [
        ("names.txt", "\ufeffcat\r\nhot dog\r\n\r\n", ("cat", "hot dog")), ("obj.names", "cat\ndog", ("cat", "dog")),
        ("d.yaml", "names:\n  1: dog\n  0: cat\n", ("cat", "dog")), ("d.yaml", "names: [no, yes, 1.10, ~]",
        ("no", "yes", "1.10", "~")), ("d.yaml", "\ufeffnames: ['null', \"a: b\"]\nnc: 2", ("null", "a: b")),
    ],
)  # fmt: skip
def test_class_names_are_text(tmp_path: Path, file: str, content: str, names: tuple) -> None:
    root = yolo(tmp_path, {"1.txt": LINE}, ["1.png"], None)
    write(root / file, content)
    assert YoloDataset("images", names=file, data_root=root).classes == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat\ndog\n", 'needs an entry "names"; a file with one class per line must have the suffix'),
        ("names: cat", 'wrong or missing: the entry "names"'), ("names: {0: a, 2: b}", "without gaps"),
        ("names: [[a], b]", "a name that is a list"),
        ("nc: 3\nnames: [a, b]", "nc is 3, but there are 2 names"),
        ("names: [a, b", "not YAML"), ("names: []", "no class names"), ("names: [a, a]", "name of an earlier category"),
        ("names: !!python/object/apply:os.system ['false']", "no class names|wrong or missing|unknown|range|class"),
    ],
)  # fmt: skip
def test_wrong_class_names_are_a_one_line_error(tmp_path: Path, content: str, message: str) -> None:
    root = yolo(tmp_path, {"1.txt": f"{LINE}\n1{LINE[1:]}"}, ["1.png"], content)
    with pytest.raises(DataError, match=message) as error:
        YoloDataset("images", names="data.yaml", data_root=root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 40 30 20 12", r"40 is not a fraction of the image's size.*width \(80\) and the height \(60\)"),
        ("0 nan 0.5 0.1 0.1", "nan is not a fraction"), ("0 inf 0.5 0.1 0.1", "inf is not a fraction"),
        ("0 0.5 0.5 0.1 0_1", "the line must have only decimal numbers"), ("0 0,5 0,5 0,1 0,1", "could not convert"),
    ],
)  # fmt: skip
def test_a_yolo_box_in_other_units_is_a_one_line_error(tmp_path: Path, line: str, message: str) -> None:
    root = yolo(tmp_path, {"1.txt": line}, ["1.png"])
    with pytest.raises(DataError, match=rf"labels/1\.txt:1: {message}"):
        YoloDataset("images", names="data.yaml", data_root=root)


def test_label_files_of_another_encoding_are_a_one_line_error(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"1.txt": LINE.encode("utf-16")}, ["1.png"])
    with pytest.raises(DataError, match=r"1\.txt: not UTF-8 text"):
        YoloDataset("images", names="data.yaml", data_root=root)


def test_label_files_without_image_are_reported(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"1.txt": LINE, "2.txt": LINE, "classes.txt": "cat"}, ["1.png"])
    dataset = YoloDataset("images", names="data.yaml", data_root=root)
    assert dataset.health_report == [f"{root}/labels: 1 label file without image left out (2.txt)"]


def test_images_without_any_label_file_are_reported(tmp_path: Path) -> None:
    root = yolo(tmp_path, {}, ["1.png", "2.png"])
    (root / "labels").mkdir()
    dataset = YoloDataset("images", names="data.yaml", data_root=root)
    line = f"{root}/labels: no image has a label file; that of the first would be {root}/labels/1.txt"
    assert dataset.health_report == [line]
    write(root / "labels/2.txt", "")
    assert YoloDataset("images", names="data.yaml", data_root=root).health_report == []


def test_a_folder_without_images_is_a_one_line_error(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"1.txt": LINE}, [])
    (root / "images").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="labels: no images; there is nothing to load$"):
        YoloDataset("images", names="data.yaml", data_root=root)


def test_a_missing_image_of_a_list_is_named_before_its_labels(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"1.txt": LINE}, ["1.png"], "train: train.txt\nnames: [cat]")
    write(root / "train.txt", "/content/pets/images/2.png\n")
    with pytest.raises(DataError, match=r"^/content/pets/images/2\.png: no such image file"):
        YoloDataset(data="data.yaml", split="train", data_root=root)


ULTRALYTICS = (
    "path: ../datasets/pets  # dataset root dir\ntrain: images/train\nval: images/val\ntest:\n\nnames:\n  0: cat\n"
)
ROBOFLOW = (
    "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['cat']\nroboflow:\n  v: 1\n"
)


@pytest.mark.parametrize(
    ("content", "images", "yaml"),
    [
        (ULTRALYTICS, "images/val/x/1.png", "data.yaml"),
        (ULTRALYTICS, "../datasets/pets/images/val/1.png", "data.yaml"),
        (ROBOFLOW, "valid/images/1.png", "data.yaml"), (ROBOFLOW, "valid/images/1.png", "conf/data.yaml"),
        ("val: val.txt\nnames: [cat]", "photos/images/1.png", "data.yaml"),
        ("val: [a/images, b/images]\nnames: [cat]", "b/images/1.png", "data.yaml"),
        ("val: photos\nnames: [cat]", "photos/1.png", "data.yaml"),
        ("path: C:\\pets\nval: .\\photos\\images\nnames: [cat]", "photos/images/1.png", "data.yaml"),
        ("validation: photos/images\nnames: [cat]", "photos/images/1.png", "data.yaml"),
        ("val: moved.txt\nnames: [cat]", "photos/images/1.png", "data.yaml"),
        ("val: lists/moved.txt\nnames: [cat]", "photos/images/1.png", "data.yaml"),
        ("val: windows.txt\nnames: [cat]", "photos/images/1.png", "data.yaml"),
    ],
)  # fmt: skip
def test_a_data_yaml_of_ultralytics_and_roboflow_is_read_as_it_is(tmp_path: Path, content, images, yaml) -> None:
    root = tmp_path / "root"
    write(root / yaml, content)
    image = write(root / images, PNG)
    (root / "a/images").mkdir(parents=True)
    labels = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
    write(labels, LINE)
    write(root / "val.txt", "\ufeff./photos/images/1.png\r\n")
    for name in ("moved.txt", "lists/moved.txt"):
        write(root / name, "/content/pets/photos/images/1.png\n")
    write(root / "windows.txt", "D:\\pets\\photos\\images\\1.png\r\n")
    dataset = YoloDataset(data=yaml, split="val", data_root=root)
    (sample,) = samples(dataset).values()
    assert is_cat(sample) and dataset.classes == ("cat",)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"data": "data.yaml", "split": "tets"}, DataError, 'unknown split "tets"'),
        ({"data": "data.yaml", "split": "test"}, DataError, "no such image folder"),
        ({"data": "pose.yaml", "split": "train"}, DataError, "pose labels"),
        ({"data": "data.yaml"}, ConfigError, "needs split="),
        ({"names": ["cat"]}, ConfigError, "give images= and names="),
        ({"data": "dat.yaml", "split": "train"}, DataError, "did you mean data.yaml"),
    ],
)
def test_wrong_settings_of_a_data_yaml_are_a_one_line_error(tmp_path: Path, settings, error, message) -> None:
    root = yolo(tmp_path, {"1.txt": LINE}, ["1.png"], "train: images\ntest: photos\nnames: [cat]")
    write(root / "pose.yaml", "train: images\nkpt_shape: [17, 3]\nnames: [cat]")
    with pytest.raises(error, match=message):
        YoloDataset(**settings, data_root=root)


# Relative data roots


@pytest.mark.parametrize("root", ["data", "data/", "./data", "../here/data"])
def test_a_relative_data_root_is_joined_once(tmp_path: Path, monkeypatch, root: str) -> None:
    here = tmp_path / "here"
    voc(here / "data/VOC2007", {"1.xml": voc_xml()}, ["1.png"])
    write(here / "data/VOC2007/ImageSets/Main/train.txt", "1")
    yolo(here / "data", {"1.txt": LINE}, ["1.png"], "train: images\nnames: [cat]")
    monkeypatch.chdir(here)
    assert samples(VocDataset("VOC2007", "train", data_root=root)) == {"1.png": [CAT]}
    for settings in ({"images": "images", "labels": "labels", "names": "data.yaml"},
                     {"data": "data.yaml", "split": "train"}):  # fmt: skip
        assert is_cat(samples(YoloDataset(**settings, data_root=root))["1.png"])
    shutil.rmtree(here / "data/labels")
    with pytest.raises(DataError, match="no such label folder"):
        YoloDataset("images", "labels", ["cat"], data_root=root)


def test_a_report_names_the_label_files_and_lines(tmp_path: Path) -> None:
    """Annotation ids, which exist only in memory, would not help the user."""
    half, outside, thin = "0 1.0 0.5 0.4 0.4", "0 1.5 0.5 0.2 0.2", "0 0.1 0.1 0.5 0.5 0.1 0.1"
    polygon = "0 0.1 0.1 0.5 0.1 0.5 0.5"
    labels = {"1.txt": f"{LINE}\n\n{half}\n{polygon}\n", "b/2.txt": f"{outside}\n{LINE}\n{half}\n{thin}\n"}
    dataset = YoloDataset(
        "images", names="data.yaml", data_root=yolo(tmp_path, labels, ["1.png", "b/2.png"]), masks=True
    )
    report = " ".join(dataset.health_report)
    assert "1 box with a side below 0.01 px in the image dropped (b/2.txt:1)" in report
    assert "2 boxes clipped to the image (1.txt:3, b/2.txt:3)" in report
    assert (
        "5 of 6 objects have no usable mask, so they are trained on without one (1.txt:1, 1.txt:3, b/2.txt:2," in report
    )
