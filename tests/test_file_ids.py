"""Ids that are text, negative or huge change no metric, and outputs have the annotation file's ids and file names."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from annotation_folders import LINE, voc, voc_xml, yolo
from coco_mutants import changed, clean_content, open_set, write_content, write_images
from coco_referee import Truth, batch_of, detections, disturb, measure, random_truth
from panoptic_files import write_panoptic

from chordate.data import CocoPanoptic, VocDataset, YoloDataset
from chordate.data.detected_boxes import ids_by_file_id, read_detected_boxes
from chordate.data.file_ids import id_in_file
from chordate.errors import DataError, TrainingError
from chordate.evaluation import CocoMetric
from chordate.structures import Detections
from chordate.training.loss_log import LossLog

KINDS = {
    "small": lambda id: id,
    "text": str,
    "words": lambda id: f"image {id}",
    "negative": lambda id: id - 3,
    "above 2^53": lambda id: 2**53 + id,
    "above 2^60": lambda id: 2**60 + id,
    "above 2^63": lambda id: 2**63 + id,
    "above 2^64": lambda id: 10**30 + id,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("ids"))


def with_ids(rename) -> dict:
    content = clean_content()
    for record in content["images"] + content["categories"]:
        record["id"] = rename(record["id"])
    for annotation in content["annotations"]:
        annotation |= {name: rename(annotation[name]) for name in ("image_id", "category_id")}
    return content


def predict(sample: dict, shift: float) -> Detections:
    """Detections of the objects of a sample; the box of object i is shifted by i · `shift` pixels in x and y."""
    boxes = sample["boxes"].as_subclass(torch.Tensor) + shift * torch.arange(len(sample["boxes"]))[:, None]
    return detections(boxes, np.linspace(0.9, 0.5, len(boxes)), sample["labels"])


@pytest.mark.parametrize("rename", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_any_ids_give_the_same_ap_and_come_back_in_the_predictions(root, tmp_path, rename, engine):
    content = with_ids(rename)
    dataset = open_set(write_content(root, content))
    metric = CocoMetric(dataset, engine=engine)
    for index in range(len(dataset)):
        sample = dataset[(0, index)]
        metric.update([predict(sample, 2.0)], dataset.collate([sample]))
    numbers = metric.compute()
    metric.save_predictions(tmp_path / "predictions.json")
    rows = json.loads((tmp_path / "predictions.json").read_text())
    names = {category["name"]: category["id"] for category in content["categories"]}
    files = {image["file_name"]: image["id"] for image in content["images"]}
    assert len(rows) == 12
    for row, annotation in zip(rows, content["annotations"], strict=True):
        assert row["image_id"] == files[row["file_name"]] == annotation["image_id"]
        assert type(row["image_id"]) is type(annotation["image_id"])
        assert row["category_id"] in names.values() and row["category_id"] == annotation["category_id"]
    small = open_set(write_content(root, clean_content()))
    reference = CocoMetric(small)
    reference.update([predict(small[(0, i)], 2.0) for i in range(4)], small.collate([small[(0, i)] for i in range(4)]))
    assert numbers == reference.compute() and 0.3 < numbers["bbox_AP"] < 1


@pytest.mark.parametrize("rename", KINDS.values(), ids=KINDS)
def test_detected_boxes_are_matched_by_the_ids_of_the_file(root, tmp_path, rename):
    content = with_ids(rename)
    dataset = open_set(write_content(root, content))
    results = [
        {"image_id": rename(image), "category_id": rename(2), "bbox": [image, 2, 30, 40], "score": 0.5}
        for image in (4, 1)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(results))
    images, categories = (
        dataset.coco.load_imgs(dataset.image_ids.tolist()),
        dataset.coco.load_cats(dataset.category_ids),
    )
    found = read_detected_boxes(tmp_path / "boxes.json", ids_by_file_id(images), ids_by_file_id(categories))
    files = {image["id"]: image["file_name"] for image in images}
    assert [files[id] for id in found.image_ids.tolist()] == ["1.png", "4.png"]
    assert [box[0] for box in found.boxes.tolist()] == [1, 4]
    assert [dataset.labels[id] for id in found.category_ids.tolist()] == [1, 1]
    (tmp_path / "boxes.json").write_text(json.dumps([results[0] | {"image_id": "other"}]))
    with pytest.raises(DataError, match="first belongs to image other"):
        read_detected_boxes(tmp_path / "boxes.json", ids_by_file_id(images), ids_by_file_id(categories))


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_a_dataset_of_another_package_may_have_huge_ids(engine):
    truth = random_truth(np.random.default_rng(3), images=9, classes=3)
    predictions = disturb(truth, np.random.default_rng(4))
    _, wanted = measure(truth, predictions)
    content = json.loads(json.dumps(truth.content))
    for record in content["images"]:
        record["id"] += 2**60
    for annotation in content["annotations"]:
        annotation["image_id"] += 2**60
    _, numbers = measure(Truth(content), {id + 2**60: one for id, one in predictions.items()}, engine=engine)
    assert numbers == wanted and 0 < wanted["bbox_AP"] < 1


def crowded(objects: int) -> Truth:
    """One image with `objects` squares of one class, and a second one with a single object."""
    boxes = [[1 + 4 * (i % 30), 1 + 4 * (i // 30), 3, 3] for i in range(objects)]
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 9, "iscrowd": 0}
        for n, box in enumerate(boxes, 1)
    ]
    annotations.append({**annotations[0], "id": objects + 1, "image_id": 2})
    images = [{"id": n, "width": 128, "height": 128} for n in (1, 2)]
    return Truth({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "seed"}]})


def perfect(truth: Truth) -> dict[int, Detections]:
    found = {}
    for image in (1, 2):
        boxes = np.array([a["bbox"] for a in truth.content["annotations"] if a["image_id"] == image], float)
        boxes[:, 2:] += boxes[:, :2]
        found[image] = detections(boxes, np.linspace(1, 0.5, len(boxes)), np.zeros(len(boxes)))
    return found


@pytest.mark.parametrize(("objects", "limit"), [(150, 100), (101, 100), (100, 100), (150, 200)])
def test_more_objects_than_max_dets_are_one_warning_with_the_numbers(objects, limit, caplog):
    truth = crowded(objects)
    metric, numbers = measure(truth, perfect(truth), max_dets=(1, 10, limit))
    metric.update(list(perfect(truth).values())[:1], batch_of([1], truth))
    with pytest.warns(UserWarning, match="1 of 2 images were not evaluated"):
        metric.compute()  # a second evaluation, which must not log the max_dets warning again
    texts = [record.getMessage() for record in caplog.records if "max_dets" in record.getMessage()]
    assert (numbers["bbox_AP"] < 0.995) == (len(texts) == 1) == (objects > limit)
    if texts:
        assert f"{objects} objects and {objects} detections" in texts[0] and f"only {limit} " in texts[0]


class Limited:
    """The part of a model that the metric reads."""

    def __init__(self, limit: int | None):
        self.detections_per_image = limit


@pytest.mark.parametrize(("limit", "warned"), [(100, True), (149, True), (150, False), (None, False)])
def test_a_model_that_returns_fewer_detections_than_there_are_objects_is_a_warning(limit, warned, caplog):
    CocoMetric(crowded(150)).check_model(Limited(limit))
    texts = [record.getMessage() for record in caplog.records]
    assert bool(texts) == warned
    if warned:
        assert "150 objects" in texts[0] and f"at most {limit} detections" in texts[0]


def test_crowds_do_not_count_as_objects(caplog):
    truth = crowded(150)
    content = truth.content
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    CocoMetric(Truth(content)).check_model(Limited(100))
    assert not caplog.records


def test_batches_of_the_referee_need_no_file_names():
    truth = random_truth(np.random.default_rng(0), 3, 2)
    metric = CocoMetric(truth)
    metric.update([detections([[1, 1, 9, 9]], [0.5], [0])], batch_of([7], truth))
    with pytest.warns(UserWarning, match="2 of 3 images were not evaluated"):
        metric.compute()
    assert list(metric.predictions()[0]) == ["image_id", "category_id", "bbox", "score"]


def test_the_clean_file_keeps_its_ids(root):
    write_content(root, changed("images", license=3))
    assert open_set(root).image_ids.tolist() == [1, 2, 3, 4]
    write_content(root, changed("images", license="three"))
    assert open_set(root).image_ids.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("rename", KINDS.values(), ids=KINDS)
def test_the_error_for_a_nan_has_the_ids_of_the_file(root, tmp_path, rename):
    content = with_ids(rename)
    dataset = open_set(write_content(root, content))
    log = LossLog(dataset.id_in_file)
    images = [dataset[(0, index)]["info"] for index in (2, 0)]
    log.record(1, {"loss": torch.tensor(float("nan"))}, [info.image_id for info in images])
    expected = [
        record["id"] for info in images for record in content["images"] if info.path.endswith(record["file_name"])
    ]
    with pytest.raises(TrainingError, match=re.escape(f"images {expected}: training")):
        log.read()


def test_images_without_ids_are_named_by_their_files(tmp_path):
    folders = [voc(tmp_path / "voc", {"b/1.xml": voc_xml()}, ["b/1.png"])]
    folders.append(yolo(tmp_path / "yolo", {"b/1.txt": LINE}, ["b/1.png"]))
    for dataset in (VocDataset(folders[0]), YoloDataset("images", names="data.yaml", data_root=folders[1])):
        assert dataset.id_in_file(dataset[(0, 0)]["info"].image_id) == "b/1.png"


def test_renumbered_annotations_keep_their_own_ids(root):
    content = clean_content()
    own = [f"note {number}" for number in range(len(content["annotations"]))]
    for annotation, name in zip(content["annotations"], own):
        annotation["id"] = name
    write_content(root, content)
    index = open_set(root).coco
    assert [id_in_file(record) for record in index.load_anns(sorted(index.get_ann_ids()))] == own
    del content["annotations"][-1]["id"]
    write_content(root, content)
    index = open_set(root).coco
    assert [id_in_file(record) for record in index.load_anns(sorted(index.get_ann_ids()))][:-1] == own[:-1]


@pytest.mark.parametrize("ids", [("5", "a"), ("a", "5"), ("10", "9")], ids=str)
def test_text_ids_of_panoptic_images_may_be_numbers(tmp_path, ids):
    content = write_panoptic(tmp_path)
    for number, id in enumerate(ids):
        content["images"][number]["id"] = content["annotations"][number]["image_id"] = id
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    dataset = CocoPanoptic("panoptic.json", "images", data_root=tmp_path)
    infos = [dataset[0, index]["info"] for index in range(2)]
    names = {dataset.id_in_file(info.image_id): Path(info.path).name for info in infos}
    assert names == {ids[0]: "0.jpg", ids[1]: "1.jpg"}
