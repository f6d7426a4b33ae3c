"""A user's transform that spoils single samples is a one-line error that names the transform and the image."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from class_folders import write_folders
from loading import open_loader
from tiny_coco import annotation, write_coco
from torchvision.transforms import v2

from chordate.data import Dataset
from chordate.data.collate import collate_samples
from chordate.data.transforms import build_pipeline
from chordate.errors import DataError
from chordate.structures import ImageInfo

COUNT, SPOILED = 6, 5  # number of images; id of the image that is spoiled
COCO = {"type": "CocoDataset", "annotations": "annotations.json", "images": "images"}


class MyTransform:
    """Applies a function to the sample of one image."""

    def __init__(self, change: Callable[[dict[str, Any]], Any]):
        self.change = change

    def __call__(self, sample: dict[str, Any]) -> Any:
        return self.change(sample) if sample["info"].image_id == SPOILED else sample


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    boxes = [annotation(number, number, [10, 10, 20, 20]) for number in range(1, COUNT + 1)]
    return write_coco(tmp_path_factory.mktemp("own"), boxes, sizes=((60, 80),) * COUNT)


def replaced(**fields: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda sample: sample | {name: change(sample[name]) for name, change in fields.items()}


def without(*names: str) -> Callable[[dict[str, Any]], Any]:
    return lambda sample: {name: value for name, value in sample.items() if name not in names}


def half_nan(boxes: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(4) % 2 == 0, torch.nan, boxes.as_subclass(torch.Tensor))


def as_nan(boxes: torch.Tensor) -> torch.Tensor:
    boxes[0, 1] = torch.nan
    return boxes


LABELS = r"CocoDataset: InstanceTargets.labels has the label {}, but the dataset's 2 classes have the labels 0 … 1"
SPOILS = {
    "returns nothing": (lambda sample: None, "MyTransform failed: TypeError: it must return a dict, got NoneType"),
    "returns the image": (lambda sample: sample["image"], "it must return a dict, got Image"),
    "raises": (lambda sample: sample["bboxes"], "MyTransform failed: KeyError: 'bboxes'"),
    "NaN in boxes": (replaced(boxes=as_nan), "MyTransform failed: ValueError: its boxes are NaN or infinite"),
    "NaN in a plain tensor": (replaced(boxes=half_nan), "ValueError: its boxes are NaN or infinite"),
    "infinite boxes": (replaced(boxes=lambda boxes: boxes / 0.0), "ValueError: its boxes are NaN or infinite"),
    "an array as image": (replaced(image=lambda image: image.numpy()), "its image must be a tensor, got ndarray"),
    "labels as a list": (replaced(labels=lambda labels: labels.tolist()), "its labels must be a tensor, got list"),
    "labels as floats": (replaced(labels=lambda labels: labels + 0.5), "its labels must be int64, got float32"),
    "a label of no class": (replaced(labels=lambda labels: labels + 7), LABELS.format(7)),
    "a negative label": (replaced(labels=lambda labels: labels - 7), LABELS.format(-7)),
    "no boxes": (without("boxes"), "CocoDataset: its samples have no 'boxes'; the fields of InstanceTargets are"),
    "other channels": (replaced(image=lambda image: image[:1]), "images of 1 and 3 channels in one batch"),
    "too many labels": (replaced(labels=lambda labels: labels.repeat(2)), "the numbers of instances differ"),
}  # fmt: skip


def message_of(root: Path, change: Callable, workers: int = 0, **settings: Any) -> str:
    data = {"dataset": COCO | settings, "batch_size": 2, "workers": workers, "group_by_aspect": False}
    data["pipeline"] = [{"type": "RandomHorizontalFlip"}, MyTransform(change)]
    loader = open_loader(data, data_root=root, training=True)
    with pytest.raises(DataError) as error:
        list(loader)
    loader.stop_workers()
    return str(error.value)


@pytest.mark.parametrize(("change", "message"), SPOILS.values(), ids=SPOILS)
def test_a_sample_that_a_transform_spoils_is_an_error_that_names_both(
    root: Path, change: Callable, message: str
) -> None:
    line = message_of(root, change)
    assert message in line and "\n" not in line
    assert f"images/{SPOILED}.png" in line and ("MyTransform" in line or "pipeline" in line)


def test_loader_processes_report_the_same_line(root: Path) -> None:
    change = SPOILS["a label of no class"][0]
    line = message_of(root, change, workers=2)
    assert line == message_of(root, change)
    assert line.endswith(f" (image {root}/images/{SPOILED}.png; check the transform MyTransform)")


def test_masks_without_boxes_are_the_same_error(root: Path) -> None:
    line = message_of(root, without("crowd", "has_mask"), masks=False)
    assert f"{SPOILED}.png" in line and "'crowd'" in line


def test_a_wrong_class_of_a_classifier_is_found_before_the_loss(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"train": 3}, wider=0)
    change = MyTransform(replaced(label=lambda label: 3))
    data = {"dataset": {"type": "ImageFolder", "images": "train"}, "batch_size": 4, "workers": 0, "pipeline": [change]}
    loader = open_loader(data, data_root=root, training=True)
    with pytest.raises(
        DataError, match=r"ClassTargets.labels has the label 3, .* classes .*2 \(image .*; check the tr"
    ):
        list(loader)


def test_a_key_error_in_the_dataset_itself_is_not_blamed_on_the_transforms() -> None:
    class Faulty(Dataset):
        def read(self, index: int) -> dict[str, Any]:
            return {"image": torch.zeros(3, 2, 2), "info": ImageInfo(index, "1.png", 2, 2)}

        def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
            return sample | {"label": {}["a wrong key"]}

    with pytest.raises(KeyError, match="a wrong key"):
        Faulty(pipeline=[lambda sample: sample])[(0, 0)]


def test_own_transforms_are_named_also_functions_and_inside_containers() -> None:
    def darken(sample: dict[str, Any], by: int = 1) -> dict[str, Any]:
        raise ValueError(by)

    inner = v2.RandomApply([v2.RandomHorizontalFlip(), MyTransform(darken)])
    pipeline = build_pipeline([v2.Compose([inner]), darken, partial(darken, by=3), partial(v2.functional.hflip)])
    assert pipeline.own_transforms() == ["MyTransform", "darken", "darken"]
    with pytest.raises(DataError, match="^darken failed: ValueError: 3$"):
        build_pipeline([partial(darken, by=3)])({})


def test_samples_that_are_no_mappings_are_an_error_of_one_line() -> None:
    with pytest.raises(DataError, match=r"^Dataset: its samples cannot be collated \(.*Error: "):
        collate_samples(Dataset(), [(torch.zeros(3, 2, 2), 1)])
