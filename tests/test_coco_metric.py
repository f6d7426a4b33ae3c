"""CocoMetric: COCO's twelve numbers, from either engine and however the images were dealt out."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import hotcoco
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from chordate.data.shapes import generate_shapes
from chordate.errors import ConfigError, DataError, TrainingError
from chordate.evaluation import CocoMetric
from chordate.evaluation.coco import _shown
from chordate.registry import METRICS
from chordate.structures import Batch, Detections, ImageInfo

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
KEYS = [f"bbox_{name}" for name in NAMES]
Found = dict[int, Detections]  # by image id


@dataclass
class Truth:
    """The part of a data set that the metric looks at."""

    content: dict
    classes: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    def __post_init__(self):
        self.coco = hotcoco.COCO(self.content)
        categories = sorted(self.content["categories"], key=lambda c: c["id"])
        self.image_ids = np.unique(self.coco.get_img_ids())
        self.classes = self.classes or tuple(c["name"] for c in categories)
        self.category_ids = self.category_ids or tuple(c["id"] for c in categories)


def detections(boxes, scores, labels) -> Detections:
    return Detections(
        torch.as_tensor(np.asarray(boxes, np.float32).reshape(-1, 4)),
        torch.as_tensor(np.asarray(scores, np.float32)),
        torch.as_tensor(np.asarray(labels, np.int64)),
    )


def batch_of(image_ids) -> Batch:
    infos = [ImageInfo(int(i), f"{i}.jpg", 128, 128) for i in image_ids]
    return Batch(torch.zeros(len(infos), 3, 1, 1), torch.ones(len(infos), 2, dtype=torch.int64), infos)


def measure(truth: Truth, found: Found, order=None, batch_size=3, **settings) -> tuple[CocoMetric, dict[str, float]]:
    metric = CocoMetric(truth, **settings)
    order = list(found if order is None else order)
    for start in range(0, len(order), batch_size):
        ids = order[start : start + batch_size]
        metric.process(batch_of(ids), [found[i] for i in ids])
    return metric, metric.evaluate()


def referee(truth: Truth, found: Found, max_dets=(1, 10, 100)) -> list[float]:
    """pycocotools, used as its own demo does."""
    results = []
    for image_id, d in found.items():
        for (x1, y1, x2, y2), score, label in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist()):
            box = [x1, y1, x2 - x1, y2 - y1]
            category = truth.category_ids[label]
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = json.loads(json.dumps(truth.content))
        ground.createIndex()
        judge = COCOeval(ground, ground.loadRes(results), "bbox")
        judge.params.catIds = list(truth.category_ids)
        judge.params.maxDets = list(max_dets)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist()


def random_truth(rng: np.random.Generator, images: int, classes: int) -> Truth:
    """Boxes of all three sizes, crowds, and images without any; category ids have gaps."""
    annotations = []
    for image_id in range(1, images + 1):
        for _ in range(int(rng.integers(0, 7)) if rng.random() < 0.8 else 0):
            side = np.exp(rng.uniform(np.log(6), np.log(200), 2)).round(2)
            corner = rng.uniform(0, 250, 2).round(2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id * 7,
                    "category_id": int(rng.integers(classes)) * 3 + 2,
                    "bbox": [*corner.tolist(), *side.tolist()],
                    "area": float(side.prod() * rng.uniform(0.4, 1)),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
    return Truth(
        {
            "images": [{"id": i * 7, "width": 450, "height": 450} for i in range(1, images + 1)],
            "annotations": annotations,
            "categories": [{"id": c * 3 + 2, "name": f"class {c}"} for c in range(classes)],
        }
    )


def disturb(truth: Truth, rng: np.random.Generator) -> Found:
    """Ground truth as a middling model would find it: shifted, mislabelled, doubled, missed, invented; ties."""
    label_of = {category: label for label, category in enumerate(truth.category_ids)}
    by_image: dict[int, list] = {image["id"]: [] for image in truth.content["images"]}
    for annotation in truth.content["annotations"]:
        if annotation["category_id"] not in label_of or rng.random() < 0.15:
            continue
        x, y, w, h = annotation["bbox"]
        for _ in range(1 + (rng.random() < 0.3)):
            shift = rng.normal(0, rng.choice([0.02, 0.1, 0.25]), 4) * [w, h, w, h]
            label = label_of[annotation["category_id"]]
            label = int(rng.integers(len(label_of))) if rng.random() < 0.1 else label
            by_image[annotation["image_id"]].append((np.array([x, y, x + w, y + h]) + shift, label))
    found = {}
    for image_id, rows in by_image.items():
        if rng.random() < 0.1:
            rows = []
        elif rng.random() < 0.5:  # things that are not there
            corner = rng.uniform(0, 200, (4, 2))
            invented = np.hstack([corner, corner + rng.uniform(5, 120, (4, 2))])
            rows = rows + [(box, int(rng.integers(len(label_of)))) for box in invented]
        scores = rng.integers(1, 12, len(rows)) / 12  # few values, so that many are equal
        found[image_id] = detections([r[0] for r in rows], scores, [r[1] for r in rows])
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 12), classes=st.integers(1, 5))
def test_both_engines_and_pycocotools_itself_agree_on_random_data(seed, images, classes):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images, classes)
    found = disturb(truth, rng)
    if not any(len(d) for d in found.values()):
        return
    expected = referee(truth, found)
    for engine in ("hotcoco", "pycocotools"):
        _, numbers = measure(truth, found, engine=engine)
        assert list(numbers) == KEYS
        np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-9)


def disturbed_file(path: Path, seed: int) -> tuple[Truth, Found]:
    truth = Truth(json.loads(path.read_text()))
    return truth, disturb(truth, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", [0, 1])
def test_both_engines_agree_on_real_coco_labels(real_data, seed):
    truth, found = disturbed_file(real_data / "coco-mini/annotations/instances_val2017.json", seed)
    expected = referee(truth, found)
    assert 0.2 < expected[0] < 0.8 and min(expected) > 0.05  # neither perfect nor hopeless
    assert any(a["iscrowd"] for a in truth.content["annotations"])
    for engine in ("hotcoco", "pycocotools"):
        _, numbers = measure(truth, found, engine=engine)
        np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-9)


def test_both_engines_agree_on_the_generated_shapes(tmp_path):
    generate_shapes(tmp_path, train=0, val=60, size=128, seed=1)
    truth, found = disturbed_file(tmp_path / "annotations/val.json", 2)
    expected = referee(truth, found)
    assert 0.1 < expected[0] < 0.8
    for engine in ("hotcoco", "pycocotools"):
        _, numbers = measure(truth, found, engine=engine)
        np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-9)


def simple_truth(**extra) -> Truth:
    """One `a` of 20×20 in image 1, one `a` and one `b` of 50×50 in image 2, image 3 empty."""
    boxes = [(1, 4, [10, 10, 20, 20]), (2, 4, [10, 10, 50, 50]), (2, 9, [70, 70, 50, 50])]
    annotations = [
        {
            "id": n,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            **extra,
        }
        for n, (image, category, box) in enumerate(boxes, 1)
    ]
    images = [{"id": i, "width": 128, "height": 128} for i in (1, 2, 3)]
    categories = [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}]
    return Truth({"images": images, "annotations": annotations, "categories": categories})


def perfect(truth: Truth) -> Found:
    found = {}
    for image in truth.content["images"]:
        rows = [a for a in truth.content["annotations"] if a["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in rows)]
        labels = [truth.category_ids.index(a["category_id"]) for a in rows]
        found[image["id"]] = detections(boxes, np.linspace(0.9, 0.8, len(rows)), labels)
    return found


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_perfect_detections_score_one_and_sizes_without_ground_truth_minus_one(engine):
    truth = simple_truth()
    _, numbers = measure(truth, perfect(truth), engine=engine)
    assert [name for name in NAMES if numbers[f"bbox_{name}"] == -1] == ["APl", "ARl"]  # nothing above 96²
    assert all(value == pytest.approx(1) for value in numbers.values() if value != -1)


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_a_false_positive_above_the_only_hit_halves_the_precision(engine):
    """Two detections, the wrong one first: precision is 1/2 at every recall, so AP = 1/2 (class a alone)."""
    truth = simple_truth()
    truth.content["annotations"] = truth.content["annotations"][:1]
    truth = Truth(truth.content)
    boxes = [[60, 60, 90, 90], [10, 10, 30, 30]]
    found = {1: detections(boxes, [0.9, 0.8], [0, 0]), 2: detections([], [], []), 3: detections([], [], [])}
    _, numbers = measure(truth, found, engine=engine)
    assert numbers["bbox_AP"] == pytest.approx(0.5)
    assert (numbers["bbox_AR1"], numbers["bbox_AR10"]) == (0, 1)


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_nothing_found_is_zero_with_a_warning(engine):
    truth = simple_truth()
    found = {i: detections([], [], []) for i in (1, 2, 3)}
    with pytest.warns(UserWarning, match="found nothing in any image"):
        metric, numbers = measure(truth, found, engine=engine)
    assert [numbers[key] for key in KEYS] == [0, 0, 0, 0, 0, -1] * 2
    assert metric.predictions() == []


def test_images_that_were_never_evaluated_are_told_and_count_as_missed():
    truth = simple_truth()
    with pytest.warns(UserWarning, match="2 of 3 images were not evaluated"):
        _, numbers = measure(truth, perfect(truth), order=[1])
    assert numbers["bbox_AR100"] == pytest.approx((0.5 + 0) / 2)  # one of two `a`, none of one `b`


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("absent", [(), ("area", "iscrowd"), ("area", "bbox")])
def test_annotation_ids_from_zero_and_left_out_fields_are_judged_right(engine, absent):
    truth = simple_truth()
    found = perfect(truth)
    for number, annotation in enumerate(truth.content["annotations"]):
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotation["id"] = number
        for field in absent:
            del annotation[field]
    _, numbers = measure(Truth(truth.content), found, engine=engine)
    assert {name: numbers[f"bbox_{name}"] for name in ("AP", "APs", "APm", "APl")} == pytest.approx(
        {"AP": 1, "APs": 1, "APm": 1, "APl": -1}
    )


def test_numbers_do_not_depend_on_the_order_or_the_batches_or_on_repeated_images():
    rng = np.random.default_rng(5)
    truth = random_truth(rng, 12, 3)
    found = disturb(truth, rng)
    _, expected = measure(truth, found)
    order = rng.permutation(list(found)).tolist()
    assert measure(truth, found, order=order, batch_size=1)[1] == expected
    assert measure(truth, found, order=[*order, *order[:5]], batch_size=5)[1] == expected


def test_a_subset_of_the_classes_in_another_order_is_judged_alone():
    rng = np.random.default_rng(6)
    everything = random_truth(rng, 12, 4)
    truth = Truth(everything.content, classes=("class 3", "class 1"), category_ids=(11, 5))
    found = disturb(truth, rng)
    metric, numbers = measure(truth, found)
    np.testing.assert_allclose(list(numbers.values()), referee(truth, found), rtol=0, atol=1e-9)
    assert list(metric.per_class()["bbox"]) == ["class 3", "class 1"]
    for name, category in (("class 3", 11), ("class 1", 5)):
        alone = Truth(truth.content, classes=(name,), category_ids=(category,))
        label = truth.category_ids.index(category)
        chosen = {
            i: detections(d.boxes[m], d.scores[m], d.labels[m] * 0)
            for i, d in found.items()
            for m in [d.labels == label]
        }
        expected = referee(alone, chosen)
        numbers = metric.per_class()["bbox"][name]
        got = [numbers["AP"], numbers["AP50"], numbers["AR"]]
        np.testing.assert_allclose(got, [expected[0], expected[1], expected[8]], rtol=0, atol=1e-9)
        plain = [a for a in truth.content["annotations"] if a["category_id"] == category and not a["iscrowd"]]
        assert numbers["instances"] == len(plain)


def test_limits_on_the_detections_are_kept_and_name_the_recalls():
    rng = np.random.default_rng(7)
    truth = random_truth(rng, 10, 1)
    found = disturb(truth, rng)
    _, numbers = measure(truth, found, max_dets=(1, 2, 4))
    assert [key for key in numbers if "AR" in key][:3] == ["bbox_AR1", "bbox_AR2", "bbox_AR4"]
    # pycocotools looks for 100 in its first number whatever the limits are; the others follow them
    np.testing.assert_allclose(list(numbers.values())[1:], referee(truth, found, (1, 2, 4))[1:], rtol=0, atol=1e-9)


def test_evaluating_starts_afresh():
    truth = simple_truth()
    metric, first = measure(truth, perfect(truth))
    metric.process(batch_of([1, 2, 3]), [detections([[10, 10, 30, 30]], [0.9], [0]), *[detections([], [], [])] * 2])
    second = metric.evaluate()
    assert first["bbox_AP"] == pytest.approx(1) and 0 < second["bbox_AP"] < 0.5
    assert len(metric.predictions()) == 1


def test_saved_predictions_load_in_pycocotools_and_score_the_same(tmp_path, real_data):
    truth, found = disturbed_file(real_data / "coco-mini/annotations/instances_val2017.json", 3)
    metric, numbers = measure(truth, found)
    path = tmp_path / "detections.json"
    metric.save_predictions(path)
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(real_data / "coco-mini/annotations/instances_val2017.json")
        judge = COCOeval(ground, ground.loadRes(str(path)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    np.testing.assert_allclose(judge.stats, list(numbers.values()), atol=2e-3)
    row = json.loads(path.read_text())[0]
    assert list(row) == ["image_id", "category_id", "bbox", "score"]
    assert isinstance(row["image_id"], int) and isinstance(row["category_id"], int)
    assert all(len(repr(x).split(".")[1]) <= 5 for x in [*row["bbox"], row["score"]])


def test_table_shows_each_class_with_its_numbers_in_line():
    rng = np.random.default_rng(8)
    truth = random_truth(rng, 12, 3)
    truth.content["categories"].append({"id": 99, "name": "never seen"})
    truth = Truth(truth.content)
    metric, numbers = measure(truth, disturb(truth, rng))
    console = Console(file=io.StringIO(), width=80)
    console.print(metric.table())
    text = console.file.getvalue()
    rows = [line.rstrip() for line in text.splitlines() if line.startswith("  ") and line.strip()]
    lines = {row.split("  ")[1].strip(): row for row in rows}
    assert f"{metric.per_class()['bbox']['class 1']['AP']:.3f}" in lines["class 1"]
    assert f"{numbers['bbox_AP']:.3f}" in lines["all"]
    assert lines["never seen"].split()[2:] == ["–", "–", "–", "0"]
    assert len({len(line) for line in lines.values()}) == 1  # numbers end in one column
    assert all(f"{name:<5} {_shown(numbers[f'bbox_{name}']):>5}" in text for name in NAMES)  # none wrapped


def test_a_label_beyond_the_classes_is_an_error_that_names_the_image():
    metric = CocoMetric(simple_truth())
    with pytest.raises(DataError, match=r"2\.jpg.*label 2.*2 classes"):
        metric.process(batch_of([1, 2]), [detections([], [], []), detections([[0, 0, 9, 9]], [0.5], [2])])


def test_an_image_of_another_data_set_is_an_error():
    metric = CocoMetric(simple_truth())
    metric.process(batch_of([77]), [detections([], [], [])])
    with pytest.raises(DataError, match="image 77 is not in the data set"):
        metric.evaluate()


@pytest.mark.parametrize("box, score", [([0, 0, 9, 9], np.nan), ([0, np.inf, 9, 9], 0.5)])
def test_detections_that_are_not_finite_are_an_error(box, score):
    metric = CocoMetric(simple_truth())
    with pytest.raises(TrainingError, match=r"1\.jpg.*NaN"):
        metric.process(batch_of([1]), [detections([box], [score], [0])])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"engine": "hotcocoa"}, 'unknown engine "hotcocoa"; did you mean "hotcoco"'),
        ({"iou_types": ("box",)}, 'unknown iou_type "box"'),
        ({"max_dets": (100, 10, 1)}, "three ascending"),
        ({"max_dets": (100,)}, "three ascending"),
    ],
)
def test_wrong_settings_are_told_when_the_metric_is_built(wrong, message):
    with pytest.raises(ConfigError, match=message):
        METRICS.build({"type": "CocoMetric", **wrong}, dataset=simple_truth())


def _rank(rank: int, world_size: int, folder: str) -> None:
    """Two ranks that share the images out by turns, and both process the first one."""
    rng = np.random.default_rng(5)
    truth = random_truth(rng, 12, 3)
    found = disturb(truth, rng)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world_size)
    order = sorted(found)
    _, numbers = measure(truth, found, order=dict.fromkeys([*order[rank::world_size], order[0]]))
    Path(folder, f"{rank}.json").write_text(json.dumps(numbers))
    torch.distributed.destroy_process_group()


def test_two_ranks_get_the_numbers_of_one_process_and_count_no_image_twice(tmp_path):
    mp.spawn(_rank, (2, str(tmp_path)), nprocs=2)
    rng = np.random.default_rng(5)
    truth = random_truth(rng, 12, 3)
    _, expected = measure(truth, disturb(truth, rng))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected
