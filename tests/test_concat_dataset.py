"""ConcatDataset: several datasets as one training set."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from annotation_folders import HEIGHT, PNG, WIDTH, voc, voc_xml, write

import chordate
from chordate.config import load_config
from chordate.data.loader import build_dataset, build_loader
from chordate.errors import ConfigError, DataError

YEARS = [{"type": "VocDataset", "folder": f"VOC{year}", "split": "trainval"} for year in (2007, 2012)]


def coco(path: Path, categories: list[str], labels: list[int], *, masks: bool = False) -> None:
    """Write a COCO file with an object per image, whose x coordinate is 10 × its category id."""
    outline = {"segmentation": [[10, 5, 30, 5, 30, 25]]} if masks else {}
    images = [{"id": 7 + n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(len(labels))]
    annotations = [
        {"id": n + 1, "image_id": 7 + n, "category_id": id, "bbox": [10 * id, 5, 20, 20], "area": 400, "iscrowd": 0}
        | outline
        for n, id in enumerate(labels)
    ]
    names = [{"id": n + 1, "name": name} for n, name in enumerate(categories)]
    write(path, json.dumps({"images": images, "annotations": annotations, "categories": names}))
    for image in images:
        write(path.parent / "images" / image["file_name"], PNG)


@pytest.fixture
def root(tmp_path):
    """VOC2007 with two cats and a dog, VOC2012 with a dog and a cat; COCO with the same classes in another order."""
    for year, names in ((2007, ("cat", "cat", "dog")), (2012, ("dog", "cat"))):
        files = {f"{year}_{n}.xml": voc_xml(name=name) for n, name in enumerate(names)}
        voc(tmp_path / f"VOC{year}", files, [f"{year}_{n}.png" for n in range(len(names))])
        lines = "\n".join(f"{year}_{n}" for n in range(len(names)))
        write(tmp_path / f"VOC{year}/ImageSets/Main/trainval.txt", lines)
    coco(tmp_path / "coco/mine.json", ["dog", "cat"], [1, 2])
    return tmp_path


def mine(root, **settings):
    return {"type": "CocoDataset", "annotations": "coco/mine.json", "images": "coco/images", **settings}


def section(*datasets, pipeline=(), **settings):
    return {"dataset": {"type": "ConcatDataset", "datasets": datasets, **settings}, "pipeline": pipeline}


def build(root, *datasets, **settings):
    return build_dataset(section(*datasets, **settings), data_root=root, training=True)


def names_of(dataset):
    """For each sample, its file and the class of its object."""
    samples = [dataset[0, index] for index in range(len(dataset))]
    return [(Path(s["info"].path).stem, dataset.classes[int(s["labels"])]) for s in samples]


def test_samples_of_all_datasets_follow_one_another(root):
    dataset = build(root, *YEARS, mine(root))
    assert dataset.classes == ("cat", "dog")
    assert names_of(dataset) == [
        ("2007_0", "cat"), ("2007_1", "cat"), ("2007_2", "dog"), ("2012_0", "dog"), ("2012_1", "cat"),
        ("0", "dog"), ("1", "cat"),
    ]  # fmt: skip
    assert dataset.sizes.tolist() == [[HEIGHT, WIDTH]] * 7
    assert [images.tolist() for images in dataset.class_images()] == [[0, 1, 4, 6], [2, 3, 5]]
    assert [dataset.image_path(index).name for index in (2, 3, 6)] == ["2007_2.png", "2012_0.png", "1.png"]


def test_ids_of_images_are_unique_and_lead_to_the_ids_in_the_files(root):
    dataset = build(root, *YEARS, mine(root))
    ids = [dataset[0, index]["info"].image_id for index in range(7)]
    assert ids == [dataset.original(index).infos[0].image_id for index in range(7)]
    assert len(set(ids)) == 7
    assert [dataset.id_in_file(id) for id in ids] == [
        "2007_0.png", "2007_1.png", "2007_2.png", "2012_0.png", "2012_1.png", 7, 8,
    ]  # fmt: skip


def test_transforms_that_mix_images_draw_from_all_datasets(root, monkeypatch):
    dataset = build(root, *YEARS, pipeline=["DetectionMixUp"])
    read, one = [], type(dataset.parts[0]).read
    monkeypatch.setattr(type(dataset.parts[0]), "read", lambda self, index: read.append(self) or one(self, index))
    for epoch in range(8):
        dataset[epoch, 0]
    assert all(part in read for part in dataset.parts)


def test_datasets_do_not_share_the_random_numbers_of_their_augmentation(root):
    dataset = build(root, *YEARS, pipeline=[{"type": "RandomResize", "min_size": 20, "max_size": 60}])
    shapes = [[dataset[epoch, index]["image"].shape for epoch in range(6)] for index in (0, 3)]
    assert shapes[0] != shapes[1]


def test_workers_get_a_copy_that_reads_the_same(root):
    dataset = build(root, *YEARS, mine(root))
    assert names_of(pickle.loads(pickle.dumps(dataset))) == names_of(dataset)


def test_classes_of_the_model_are_used_by_all_datasets(root):
    meta = chordate.DatasetMeta(("dog", "cat"))
    dataset = build_dataset(section(*YEARS, mine(root)), data_root=root, training=True, meta=meta)
    assert dataset.classes == ("dog", "cat")
    assert [name for _, name in names_of(dataset)] == ["cat", "cat", "dog", "dog", "cat", "dog", "cat"]


def test_missing_images_of_all_datasets_are_skipped_and_reported(root):
    (root / "VOC2012/JPEGImages/2012_1.png").unlink()
    with pytest.raises(DataError, match="2012_1"):
        build(root, *YEARS)
    dataset = build(root, *YEARS, skip_broken=True)
    assert len(dataset) == 4 and any("2012_1" in line for line in dataset.left_out)


def test_an_image_that_proves_broken_is_replaced_and_reported_by_its_own_dataset(root):
    dataset = build(root, *YEARS, skip_broken=True)
    write(root / "VOC2012/JPEGImages/2012_0.png", PNG[: len(PNG) // 2])
    assert Path(dataset[0, 3]["info"].path).stem == "2012_1"
    (line,) = dataset.read_report()
    assert line.startswith("1 of 2 samples are broken") and "2012_0.png" in line


def test_images_of_more_channels_are_read_by_all_datasets(root):
    dataset = build_dataset(section(*YEARS), data_root=root, training=True, channels=1)
    assert [len(dataset[0, index]["image"]) for index in (0, 3)] == [1, 1]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "datasets must be a list .*at least 1 item"),
        ([lambda root: {"type": "VocDatset"}], "datasets.1: unknown dataset .VocDatset.; did you mean .VocDataset"),
        ([lambda root: {"type": "VocDataset", "folder": "VOC2012", "spilt": "a"}], "datasets.1.*spilt.*split"),
        ([lambda root: mine(root, classes=["cat"])], r"datasets\[0\] has the class dog, which .*datasets\[1\]"),
        ([lambda root: mine(root, masks=True)], r"have has_mask, polygons, .*datasets\[0\] do not"),
        ([lambda root: {"type": "ImageFolder", "images": "coco"}], r"datasets\[1\]"),
        ([lambda root: section(mine(root))["dataset"]], r"datasets\[1\] is a ConcatDataset, too; list its datasets"),
    ],
)
def test_datasets_that_do_not_fit_are_refused_in_one_line(root, others, message):
    coco(root / "coco/mine.json", ["dog", "cat"], [1, 2], masks=True)
    datasets = [*YEARS[:1], *(other(root) for other in others)] if others else []
    path = write(root / "config.py", f"train_data = dict(dataset=dict(type='ConcatDataset', datasets={datasets!r}))")
    with pytest.raises((ConfigError, DataError), match=message) as error:
        build_dataset(load_config(path).train_data, data_root=root, training=True)
    assert "\n" not in str(error.value)


def test_a_dataset_may_consist_of_background_images(root):
    """But one of the datasets must have objects."""
    annotations = root / "coco/mine.json"
    content = json.loads(annotations.read_text())
    annotations.write_text(json.dumps(content | {"annotations": []}))
    background = mine(root, filter_empty=False)
    assert len(build(root, *YEARS, background)) == 7
    with pytest.raises(DataError, match="no instance of dog, cat, so there is nothing to train on"):
        build(root, background)


def test_evaluation_needs_a_single_dataset(root):
    with pytest.raises(DataError, match="set the dataset of val_data to one of its datasets"):
        build_dataset(section(*YEARS), data_root=root, training=False)


def test_a_batch_has_images_of_all_datasets(root):
    data = section(*YEARS, mine(root)) | {"batch_size": 7, "workers": 0}
    dataset = build_dataset(data, data_root=root, training=True)
    (batch,) = build_loader(dataset, data, training=True)
    assert batch.targets.valid.sum() == 7 and torch.equal(batch.sizes, torch.tensor([[HEIGHT, WIDTH]] * 7))
