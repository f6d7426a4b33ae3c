"""Mosaic and MixUp change polygons, boxes and keypoints as they change bitmaps; unsuitable samples are refused."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from loading import open_loader
from mixing_scenes import drawn, rows, scene, with_partners
from panoptic_files import write_panoptic
from tiny_coco import annotation, write_coco
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, Image

from chordate.data import CocoDataset
from chordate.data.instance_keypoints import InstanceKeypoints
from chordate.data.loader import build_dataset
from chordate.data.transforms import CopyPaste, DetectionMixUp, Mosaic, SanitizeInstances, build_pipeline
from chordate.data.transforms.mixing import FILL
from chordate.errors import ConfigError
from chordate.models.preprocess import Normalize

Sample = dict[str, Any]
MIXING = [CopyPaste(), Mosaic(64), DetectionMixUp()]
by_name = pytest.mark.parametrize("transform", MIXING, ids=lambda t: type(t).__name__)


@pytest.mark.parametrize("seed", range(6))
def test_a_mosaic_moves_polygons_as_it_moves_their_bitmaps(seed: int) -> None:
    """The three channels of a tile's image are the pixel coverages of its first three instances."""
    shapes = [(90, 120), (60, 40), (128, 128), (30, 100)]
    tiles = [scene(10 * seed + n, *shape, 4, first_label=10 * n, specks=0) for n, shape in enumerate(shapes)]
    for tile, (height, width) in zip(tiles, shapes):
        fine = drawn(tile, height, width, finer=4)[:3].float()
        tile["image"] = Image((255 * torch.nn.functional.avg_pool2d(fine, 4)).round().to(torch.uint8))
    torch.manual_seed(seed)
    result = Mosaic(80)(with_partners(*tiles))
    assert result["image"].shape == (3, 160, 160)
    fine = drawn(result, 160, 160, finer=4).float()
    got = torch.nn.functional.avg_pool2d(fine, 4)
    for channel in range(3):
        rows_here = [row for label, row in rows(result).items() if label % 10 == channel]
        ours, theirs = got[rows_here].sum(0) > 0.5, result["image"][channel] > 127  # the fill color is below 127
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97
    low, high = result["boxes"][:, :2], result["boxes"][:, 2:]
    assert (low >= 0).all() and (high <= 160).all() and (high > low).all()
    bounds = result["polygons"].bounds()[~result["crowd"]]
    boxes = result["boxes"][~result["crowd"]].as_subclass(Tensor)
    assert (bounds[:, :2] >= boxes[:, :2] - 1e-3).all() and (bounds[:, 2:] <= boxes[:, 2:] + 1e-3).all()


def test_a_mosaics_tiles_meet_at_a_point_and_are_as_large_as_the_paper_says() -> None:
    """Each of four square images of one color fills its quadrant, up to the size to which it is scaled (40 × 40)."""
    corners = set()
    tiles = []
    for number in range(4):
        tile = scene(number, 50, 50, 1, first_label=number)
        tile["image"] = Image(torch.full((3, 50, 50), 10 * number + 5, dtype=torch.uint8))
        tile["boxes"] = BoundingBoxes([[0, 0, 50, 50]], format="XYXY", canvas_size=(50, 50))
        tiles.append(tile)
    for seed in range(30):
        torch.manual_seed(seed)
        result = Mosaic(40)(with_partners(*tiles))
        ends = [result["boxes"][rows(result)[n]].tolist() for n in range(4)]
        x, y = ends[0][2:]
        corners.add((x, y))
        assert 20 <= x <= 60 and 20 <= y <= 60
        assert ends[0] == [max(x - 40, 0), max(y - 40, 0), x, y]
        assert ends[1] == [x, max(y - 40, 0), min(x + 40, 80), y]
        assert ends[2] == [max(x - 40, 0), y, x, min(y + 40, 80)]
        assert ends[3] == [x, y, min(x + 40, 80), min(y + 40, 80)]
        want = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, 80, 80)
        for number, (x1, y1, x2, y2) in enumerate(ends):
            want[:, int(y1) : int(y2), int(x1) : int(x2)] = 10 * number + 5
        assert torch.equal(result["image"], want)
    assert len(corners) > 25


def test_a_mosaic_moves_keypoints_with_their_boxes() -> None:
    """The keypoints are two opposite corners of each box."""
    tiles = []
    for number in range(4):
        tile = scene(number, 60, 60, 1, first_label=number)
        box = tile["boxes"][0].tolist()
        corners = torch.tensor([[box[0], box[1], 2.0], [box[2], box[3], 2.0]])
        tile["keypoints"] = InstanceKeypoints(corners[None], mirrored=[0, 1], canvas_size=(60, 60))
        tiles.append(tile)
    torch.manual_seed(0)
    result = Mosaic(60)(with_partners(*tiles))
    for box, points in zip(result["boxes"].tolist(), result["keypoints"]):
        for (x, y, seen), corner in zip(points.tolist(), (box[:2], box[2:])):
            assert not seen or [x, y] == pytest.approx(corner, abs=1e-3)


def test_mixup_is_the_weighted_sum_of_two_images_with_the_instances_of_both() -> None:
    one, two = scene(5, 90, 120, 4), scene(6, 110, 80, 3, first_label=50)
    wide = [torch.tensor(FILL, dtype=torch.float32)[:, None, None].repeat(1, 110, 120) for _ in range(2)]
    wide[0][:, :90, :120], wide[1][:, :110, :80] = one["image"], two["image"]
    want = torch.cat([drawn(one, 110, 120), drawn(two, 110, 120)])
    weights = []
    for seed in range(40):
        torch.manual_seed(seed)
        result = DetectionMixUp(alpha=1.5)(with_partners(one, two))
        picture = result["image"].float()
        difference = wide[0] - wide[1]
        weight = ((picture - wide[1]) * difference).sum() / difference.square().sum()
        assert (picture - weight * wide[0] - (1 - weight) * wide[1]).abs().max() < 1
        weights.append(float(weight))
        assert result["labels"].tolist() == [*range(4), 50, 51, 52]
        assert result["crowd"].tolist() == [False, False, False, True, False, False, True]
        for name in ("boxes", "keypoints"):
            assert torch.equal(result[name].as_subclass(Tensor), torch.cat([one[name], two[name]]))
        assert torch.equal(drawn(result, 110, 120), want)
    # The weights are drawn from Beta(1.5, 1.5), which has mean 1/2 and variance 1/16.
    assert np.mean(weights) == pytest.approx(0.5, abs=0.1)
    assert np.std(weights) == pytest.approx(0.25, abs=0.06)


@by_name
def test_images_without_instances_can_be_mixed(transform: Any) -> None:
    for counts in ([0, 0, 0, 0], [3, 0, 0, 0], [0, 3, 3, 3]):
        torch.manual_seed(1)
        result = transform(with_partners(*(scene(n, 40, 50, count) for n, count in enumerate(counts))))
        SanitizeInstances()(result)
        assert len(result["boxes"]) <= sum(counts)


@by_name
def test_p_is_the_fraction_of_samples_that_are_mixed(transform: Any) -> None:
    seldom = type(transform)(p=0.3)
    mixed, first, second = 0, scene(1, 30, 30, 2), scene(2, 30, 30, 3)
    for seed in range(100):
        torch.manual_seed(seed)
        others = iter([second] * 3)
        drawn_others = []

        def draw(others=others, drawn_others=drawn_others) -> Sample:
            drawn_others.append(next(others))
            return drawn_others[-1]

        seldom({**first, "partner": draw})
        mixed += bool(drawn_others)
    assert 18 <= mixed <= 42


def test_padding_around_a_smaller_image_is_zero_after_normalization() -> None:
    plain = torch.tensor(FILL, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 32, 32)
    assert Normalize()(plain, torch.tensor([[32, 32]])).abs().max() < 0.01


@by_name
def test_detection_mixing_of_classification_samples_is_refused(transform: Any) -> None:
    with pytest.raises(ConfigError, match=f"{type(transform).__name__} combines .* samples have no boxes"):
        build_pipeline([transform])({"image": Image(torch.zeros(3, 9, 9)), "label": 1})


@by_name
def test_mixing_of_semantic_or_panoptic_samples_is_refused_when_the_dataset_is_built(
    transform: Any, tmp_path: Path
) -> None:
    """The error does not depend on chance: it is raised even with p=0, when no sample is mixed."""
    write_panoptic(tmp_path)
    seldom = {"type": type(transform).__name__, "p": 0.0}
    semantic = {"type": "SemanticFolder", "images": "images", "labels": "labels", "classes": ["a", "b"]}
    (tmp_path / "labels").mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"labels/{number}.png"), np.zeros((32, 40), np.uint8))
    panoptic = {"type": "CocoPanoptic", "annotations": "panoptic.json", "images": "images"}
    for dataset in (semantic, panoptic):
        data = {"dataset": dataset, "pipeline": [seldom]}
        with pytest.raises(ConfigError, match=f"{seldom['type']} combines .* samples have no boxes; remove this"):
            build_dataset(data, data_root=tmp_path, training=True)


@by_name
def test_mixing_without_access_to_other_samples_is_an_error_with_the_remedy(transform: Any) -> None:
    with pytest.raises(ConfigError, match=r"reads a random sample: `pipeline\(sample, draw="):
        build_pipeline([transform])(scene(0, 20, 20, 2))


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_the_error_for_a_classifiers_mixup_in_a_pipeline_names_the_detectors(name: str) -> None:
    with pytest.raises(ConfigError, match="`mix` of an ImageClassifier. .*DetectionMixUp"):
        build_pipeline([{"type": name, "num_classes": 3}])


@pytest.mark.parametrize(
    "transform",
    [{"type": "CopyPaste", "p": 2}, {"type": "Mosaic", "size": 0}, {"type": "DetectionMixUp", "alpha": 0}],
)
def test_invalid_settings_are_refused(transform: dict) -> None:
    with pytest.raises(ConfigError, match=f"^transform {transform['type']}: "):
        build_pipeline([transform])


SIZES = tuple((60, 80) if number % 3 else (80, 60) for number in range(8))
PIPELINE = [
    {"type": "LargeScaleJitter", "size": 64, "scale": (0.5, 1.5)},
    {"type": "CopyPaste"},
    {"type": "RandomApply", "transforms": [{"type": "Mosaic", "size": 48}], "p": 0.5},
    {"type": "RandomHorizontalFlip"},
    {"type": "DetectionMixUp", "p": 0.5},
    {"type": "RandomPhotometricDistort"},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    square = [[10, 10, 40, 10, 40, 45, 10, 45]]
    rle = {"size": [80, 60], "counts": [1000, 20, 60, 20, 60, 20, 3620]}
    boxes = [annotation(n, n, [10, 10, 30, 35], segmentation=square) for n in range(1, len(SIZES))]
    boxes.append(annotation(50, 1, [12, 40, 3, 20], category=7, segmentation=rle))
    boxes.append(annotation(51, 4, [5, 5, 50, 60], iscrowd=1, segmentation={**rle, "size": [80, 60]}))
    return write_coco(tmp_path, boxes, sizes=SIZES)


def test_mixed_samples_depend_only_on_seed_epoch_and_index(root: Path) -> None:
    """Samples do not depend on the number of workers or on the batch at which an epoch starts."""

    def load(workers: int = 0, epoch: int = 1, start: int = 0, seed: int = 3) -> list[Any]:
        dataset = {"type": "CocoDataset", "annotations": "annotations.json", "images": "images", "masks": True}
        config = {"dataset": dataset, "pipeline": PIPELINE, "batch_size": 2, "workers": workers}
        loader = open_loader(config, data_root=root, training=True, seed=seed)
        loader.start_epoch(epoch, start)
        return list(loader)

    def same(one: list[Any], other: list[Any]) -> bool:
        return len(one) == len(other) and all(
            a.infos == b.infos
            and torch.equal(a.images, b.images)
            and all(torch.equal(getattr(a.targets, n), getattr(b.targets, n)) for n in ("boxes", "labels", "masks"))
            for a, b in zip(one, other)
        )

    whole = load()
    assert same(whole, load(workers=2))
    assert same(whole[2:], load(start=2))
    assert not same(whole, load(epoch=2))
    assert not same(whole, load(seed=4))


def test_a_partner_has_passed_the_earlier_transforms_and_is_not_mixed_itself(root: Path) -> None:
    reads: list[int] = []

    class Counting(CocoDataset):
        def read(self, index: int) -> Sample:
            reads.append(index)
            return super().read(index)

    seen: list[Any] = []

    def record(sample: Sample) -> Sample:
        seen.append(sample["image"].shape)
        return sample

    pipeline = [{"type": "Resize", "size": [32, 32]}, record, Mosaic(48), DetectionMixUp(), CopyPaste()]
    dataset = Counting("annotations.json", "images", data_root=root, pipeline=pipeline, masks=True)
    sample = dataset[0, 2]
    assert len(reads) == 1 + 3 + 1 + 1
    assert seen == [(3, 32, 32)] * 6
    assert "partner" not in sample
