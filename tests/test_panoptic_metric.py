"""PanopticMetric equals the paper's formula on random segments, and panopticapi on sample images of COCO."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from chordate.data import CocoPanoptic
from chordate.data.dataset import Dataset
from chordate.errors import ConfigError, DataError
from chordate.evaluation import PanopticMetric
from chordate.model_contracts import Model
from chordate.structures import Batch, DatasetMeta, Detections, ImageInfo, PanopticMap
from chordate.training.evaluation_loop import evaluate, trial_evaluation

META = DatasetMeta(("cat", "dog", "sky", "sea"), stuff=("sky", "sea"))


def panoptic_map(ids: torch.Tensor, labels: list[int], meta: DatasetMeta = META) -> PanopticMap:
    is_thing = torch.tensor([meta.classes[label] not in meta.stuff for label in labels], dtype=torch.bool)
    areas = torch.tensor([int((ids == number).sum()) for number in range(1, len(labels) + 1)])
    return PanopticMap(ids.int(), torch.tensor(labels, dtype=torch.long), is_thing, torch.ones(len(labels)), areas)


class Truth(Dataset):
    """A dataset of the given segments: segment numbers, labels and crowd flags of each image."""

    def __init__(self, images, meta: DatasetMeta = META):
        self.meta, self.images = meta, images
        self.category_ids = [10 * label + 7 for label in range(len(meta.classes))]

    def index_of(self, image_id: int) -> int:
        return image_id

    def segments_of(self, image_id: int):
        return self.images[image_id]


def batch_of(image_id: int, size=(6, 8)) -> Batch:
    return Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 2), [ImageInfo(image_id, f"{image_id}.jpg", *size)])


def slow_pq(images, predictions, classes: int) -> dict[int, tuple[float, float, float]]:
    """PQ, SQ and RQ of each class, computed on sets of pixels (Kirillov et al. 2019, section 4).

    Pixels without a ground-truth segment do not count in unions. An unmatched predicted segment is not a false positive
    if more than half of its pixels have no ground-truth segment or lie in crowds of its class.
    """
    matched, wrong, missed = ({label: [] for label in range(classes)} for _ in range(3))
    for (numbers, labels, crowd), prediction in zip(images, predictions):
        pixels = lambda grid, number: {tuple(p) for p in (grid == number).nonzero().tolist()}  # noqa: E731
        void = pixels(numbers, 0)
        truth = [(pixels(numbers, k + 1), int(labels[k]), bool(crowd[k])) for k in range(len(labels))]
        guesses = [(pixels(prediction.ids, k + 1), int(prediction.labels[k])) for k in range(len(prediction.labels))]
        used = set()
        for own, label, is_crowd in truth:
            if is_crowd:
                continue
            for number, (guess, guessed) in enumerate(guesses):
                iou = len(own & guess) / len((own | guess) - (guess & void))
                if guessed == label and iou > 0.5:
                    matched[label].append(iou)
                    used.add(number)
                    break
            else:
                missed[label].append(own)
        for number, (guess, label) in enumerate(guesses):
            crowds = [own for own, other, is_crowd in truth if is_crowd and other == label]
            excused = guess & void.union(*crowds)
            if number not in used and len(excused) <= len(guess) / 2:
                wrong[label].append(guess)
    scores = {}
    for label in range(classes):
        tp, fp, fn = len(matched[label]), len(wrong[label]), len(missed[label])
        if tp + fp + fn:
            sq, rq = sum(matched[label]) / tp if tp else 0.0, tp / (tp + fp / 2 + fn / 2)
            scores[label] = (sq * rq, sq, rq)
    return scores


@st.composite
def segmented_images(draw):
    """Ground truth and predictions of two tiny images. In the predictions, about a fifth of the pixels and labels are
    random; the rest equals the ground truth. At most one segment per image is a crowd."""
    images, predictions = [], []
    for _ in range(2):
        count = draw(st.integers(1, 5))
        random = np.random.default_rng(draw(st.integers(0, 2**20)))
        numbers = (
            torch.from_numpy(random.integers(0, count + 1, (2, 3))).repeat_interleave(3, 0).repeat_interleave(2, 1)
        )
        present = sorted(set(numbers.unique().tolist()) - {0})
        numbers = sum((numbers == number) * place for place, number in enumerate(present, 1)) + 0 * numbers
        labels = torch.from_numpy(random.integers(0, 4, len(present)))
        crowd = torch.zeros(len(present), dtype=torch.bool)
        if len(present):
            crowd[0] = bool(random.integers(2))
        guess = torch.where(
            torch.from_numpy(random.random((6, 6)) < 0.2), torch.from_numpy(random.integers(0, 4, (6, 6))), numbers
        )
        guessed = [int(label) if random.random() < 0.8 else int(random.integers(4)) for label in labels] + [0] * 4
        used = sorted(set(guess.unique().tolist()) - {0})
        ids = sum((guess == number) * place for place, number in enumerate(used, 1)) + 0 * guess
        images.append((numbers, labels, crowd))
        predictions.append(panoptic_map(ids, [guessed[number - 1] for number in used]))
    return images, predictions


@given(segmented_images())
def test_panoptic_quality_equals_the_formula_of_the_paper(case):
    images, predictions = case
    metric = PanopticMetric(dataset=Truth(images))
    for number, prediction in enumerate(predictions):
        metric.update([prediction], batch_of(number))
    expected = slow_pq(images, predictions, len(META.classes))
    if not any(len(labels) for _, labels, _ in images):
        with pytest.raises(DataError, match="no image with a ground-truth segment"):
            metric.compute()
        return
    numbers = metric.compute()
    for ending, group in (("", range(4)), ("_things", (0, 1)), ("_stuff", (2, 3))):
        rows = [expected[label] for label in group if label in expected]
        means = np.mean(rows, axis=0) if rows else [-1.0] * 3
        assert [numbers[f"{name}{ending}"] for name in ("PQ", "SQ", "RQ")] == pytest.approx(list(means))
    for label, row in enumerate(metric.per_class().values()):
        assert [row["PQ"], row["SQ"], row["RQ"]] == pytest.approx(list(expected.get(label, (-1.0, -1.0, -1.0))))


def disturbed(truth: CocoPanoptic, image_id: int) -> PanopticMap:
    """A prediction with errors: the ground truth is shifted by 6 px in x and 9 px in y, every ninth segment is missing,
    every seventh has the next class, and a person covers the pixels that have a segment neither before nor after."""
    numbers, labels, _ = truth.segments_of(image_id)
    shifted = numbers.roll((9, 6), (0, 1)).int()
    shifted[torch.isin(shifted, torch.arange(9, len(labels) + 1, 9))] = 0
    guess = torch.where(torch.arange(len(labels)) % 7 == 6, (labels + 1) % len(truth.meta.classes), labels)
    shifted[(shifted == 0) & (numbers == 0)] = len(labels) + 1
    present = shifted.unique()
    ids = torch.searchsorted(present, shifted) if present[0] == 0 else torch.searchsorted(present, shifted) + 1
    chosen = [([*guess.tolist(), 0])[number - 1] for number in present.tolist() if number]
    return panoptic_map(ids, chosen, truth.meta)


@pytest.fixture
def sample_images(real_data) -> CocoPanoptic:
    return CocoPanoptic("panoptic.json", "images", "panoptic", data_root=real_data / "panoptic-mini")


# PQ, SQ and RQ that panopticapi (commit 7bb4655) computes from the files that `save_predictions` writes.
PANOPTICAPI = {
    "": (0.27014335021975594, 0.3977268937282276, 0.3962719298245614),
    "_things": (0.12755813429029936, 0.2983841530230718, 0.21600877192982457),
    "_stuff": (0.4840211741139408, 0.5467410047859612, 0.6666666666666666),
}


def test_numbers_on_the_sample_images_are_those_of_panopticapi(sample_images, tmp_path):
    metric = PanopticMetric(dataset=sample_images)
    for image_id in sample_images.image_ids.tolist():
        prediction = disturbed(sample_images, image_id)
        metric.update([prediction], batch_of(image_id, tuple(prediction.ids.shape)))
    numbers = metric.compute()
    for ending, expected in PANOPTICAPI.items():
        assert [numbers[f"{name}{ending}"] for name in ("PQ", "SQ", "RQ")] == pytest.approx(expected, abs=1e-12)


def test_saved_predictions_have_cocos_panoptic_format(sample_images, tmp_path):
    """The saved segments have the ids, classes and areas of the predictions."""
    metric = PanopticMetric(dataset=sample_images)
    predictions = {number: disturbed(sample_images, number) for number in sample_images.image_ids.tolist()}
    for image_id, prediction in predictions.items():
        metric.update([prediction], batch_of(image_id, tuple(prediction.ids.shape)))
    metric.compute()
    metric.save_predictions(tmp_path / "found.json")
    content = json.loads((tmp_path / "found.json").read_text())
    assert [row["image_id"] for row in content["annotations"]] == sorted(predictions)
    for row in content["annotations"]:
        prediction = predictions[row["image_id"]]
        colors = np.array(PILImage.open(tmp_path / "found" / row["file_name"])).astype(int)
        assert np.array_equal(colors @ [1, 256, 65536], prediction.ids.numpy())
        expected = [sample_images.category_ids[label] for label in prediction.labels.tolist()]
        assert [segment["category_id"] for segment in row["segments_info"]] == expected
        assert [segment["area"] for segment in row["segments_info"]] == prediction.areas.tolist()
    with pytest.raises(ConfigError, match=r"name a \.json file"):
        metric.save_predictions(tmp_path / "found")


def test_saved_predictions_of_images_with_equal_names_stay_apart(tmp_path):
    paths = ["x/a/1.jpg", "x/b/1.jpg", "x/1.jpg", "x/1.png", "x/1_1.jpg"]
    numbers, dataset = torch.ones(6, 8, dtype=torch.int16), Truth([])
    dataset.images = [(numbers, torch.tensor([0]), torch.tensor([False]))] * len(paths)
    metric = PanopticMetric(dataset)
    for number, path in enumerate(paths):
        ids = torch.zeros(6, 8)
        ids[: number + 1] = 1
        batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 2), [ImageInfo(number, path, 6, 8)])
        metric.update([panoptic_map(ids, [0])], batch)
    metric.compute()
    metric.save_predictions(tmp_path / "found.json")
    rows = json.loads((tmp_path / "found.json").read_text())["annotations"]
    assert [row["file_name"] for row in rows] == ["a/1.png", "b/1.png", "1.png", "1_2.png", "1_1.png"]
    for row in rows:
        pixels = np.array(PILImage.open(tmp_path / "found" / row["file_name"]))[..., 0]
        assert (pixels == 1).sum() == 8 * (row["image_id"] + 1)


def test_predictions_of_another_task_or_size_are_refused():
    numbers = torch.ones(6, 8, dtype=torch.int16)
    metric = PanopticMetric(dataset=Truth([(numbers, torch.tensor([0]), torch.tensor([False]))]))
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    with pytest.raises(DataError, match="evaluates PanopticMaps; the model predicts Detections"):
        metric.update([empty], batch_of(0))
    with pytest.raises(DataError, match=r"0\.jpg: the prediction has \[5, 8\] pixels, the ground truth \[6, 8\]"):
        metric.update([panoptic_map(torch.ones(5, 8), [0])], batch_of(0))


def test_the_table_lists_each_class_and_the_means():
    numbers = torch.ones(6, 8, dtype=torch.int16)
    numbers[:3] = 2
    metric = PanopticMetric(dataset=Truth([(numbers, torch.tensor([0, 2]), torch.tensor([False, False]))]))
    metric.update([panoptic_map(numbers, [0, 2])], batch_of(0))
    assert set(metric.compute().values()) == {1.0}
    rows = list(metric.table().columns[0].cells)
    assert [str(row) for row in rows] == [*META.classes, "mean of stuff", "mean of things", "mean of all"]
    assert list(metric.table().columns[1].cells)[:2] == ["100.00", "–"]


def test_a_first_image_without_a_segment_is_an_error_in_an_evaluation_but_not_in_the_trial_before_training():
    empty = torch.zeros(6, 8, dtype=torch.int32)

    class Blind(Model):
        def predict(self, batch: Batch) -> list[PanopticMap]:
            return [panoptic_map(empty, [])]

    metric = PanopticMetric(
        dataset=Truth([(empty, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool))])
    )
    trial_evaluation(Blind(), SimpleNamespace(first_batch=lambda: batch_of(0)), metric, torch.device("cpu"))
    with pytest.raises(DataError, match="no image with a ground-truth segment was evaluated"):
        evaluate(Blind(), [batch_of(0)], metric, torch.device("cpu"))
