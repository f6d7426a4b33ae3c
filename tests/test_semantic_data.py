"""Data of semantic segmentation: label images are read, transformed, evaluated and drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torchvision.transforms import v2
from torchvision.tv_tensors import Image

from chordate.data import SemanticFolder
from chordate.data.dataset import Dataset
from chordate.data.label_map import LabelMap, label_map
from chordate.errors import DataError
from chordate.evaluation import SemanticMetric
from chordate.structures import IGNORED, Batch, DatasetMeta, ImageInfo, SemanticMap, SemanticTargets
from chordate.visualization import draw, draw_targets

CLASSES = ["sky", "road", "car"]


def write_folder(root: Path, count: int = 3, ids: tuple[int, ...] = (0, 1, 2, 255), **kwargs) -> list[np.ndarray]:
    """Write images of different sizes, and label images with random `ids`; returns the pixels of the label images."""
    random = np.random.default_rng(0)
    written = []
    for number in range(count):
        size = 20 + number, 30 + 2 * number
        labels = random.choice(np.array(ids, np.uint8), size)
        for folder, image in (("images", random.integers(0, 256, (*size, 3), np.uint8)), ("labels", labels)):
            path = root / folder / f"town{number % 2}" / f"{number}{'_x.jpg' if folder == 'images' else '_ids.png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
        written.append(labels)
    return written


def folder(root: Path, **settings) -> SemanticFolder:
    return SemanticFolder(
        "images", "labels", classes=CLASSES, image_suffix="_x.jpg", label_suffix="_ids.png", data_root=root, **settings
    )


def test_labels_are_those_of_the_files(tmp_path):
    written = write_folder(tmp_path)
    dataset = folder(tmp_path)
    order = [int(Path(path).name[0]) for path, _ in dataset.pairs]
    assert sorted(order) == [0, 1, 2]
    for index, number in enumerate(order):
        expected = written[number].astype(np.int16)
        expected[expected == 255] = IGNORED
        assert np.array_equal(dataset.labels_of(index).numpy(), expected)
        assert np.array_equal(dataset.original(index).targets.labels[0].numpy(), expected)


def test_ids_map_to_labels_and_others_are_ignored_or_an_error(tmp_path):
    """Cityscapes maps its labelIds to trainIds in this way."""
    (ids,) = write_folder(tmp_path, 1, (7, 11, 26, 3))
    labels = folder(tmp_path, ids=[7, 11, 26], ignored_ids=[3]).labels_of(0).numpy()
    table = {7: 0, 11: 1, 26: 2, 3: IGNORED}
    assert np.array_equal(labels, np.vectorize(table.get)(ids))
    with pytest.raises(DataError, match=r"0_ids\.png: pixels have the value 3, which is not a class; .* ignored_ids"):
        folder(tmp_path, ids=[7, 11, 26]).labels_of(0)


@pytest.mark.parametrize("kind", ["palette", "colors"])
def test_palette_and_color_images_give_the_same_labels(tmp_path, kind):
    (ids,) = write_folder(tmp_path, 1)
    palette = [(10, 200, 30), (90, 0, 1), (255, 255, 254)]
    colors = np.zeros((256, 3), np.uint8)
    colors[:3] = palette
    path = tmp_path / "labels/town0/0_ids.png"
    if kind == "palette":
        image = PILImage.fromarray(ids, "P")
        image.putpalette(colors.flatten().tolist())
        image.save(path)
        dataset = folder(tmp_path)
    else:
        PILImage.fromarray(colors[ids]).save(path)
        dataset = folder(tmp_path, palette=palette)
        assert dataset.meta.palette == tuple(palette)
    assert np.array_equal(dataset.labels_of(0).numpy(), np.where(ids == 255, IGNORED, ids.astype(np.int16)))


def test_a_list_of_files_chooses_the_images(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "val.txt").write_text("town1/1\n\n")
    assert [path.name for path, _ in folder(tmp_path, files="val.txt").pairs] == ["1_x.jpg"]
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "val.txt").read_bytes().replace(b"\n", b"\r\n"))
    assert [path.name for path, _ in folder(tmp_path, files="val.txt").pairs] == ["1_x.jpg"]
    (tmp_path / "val.txt").write_text("town1/3\n")
    with pytest.raises(DataError, match=r"val\.txt: the listed image town1/3 is not in .*images; did you mean town1/1"):
        folder(tmp_path, files="val.txt")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"no such label file.*1 of 3 images have none"),
        (lambda path: path.write_bytes(b"no"), "not a readable label image"),
        (lambda path: cv2.imwrite(str(path), np.zeros((9, 9), np.uint8)), "9×9, but its image"),
        (lambda path: cv2.imwrite(str(path), np.zeros((9, 9, 3), np.uint8)), "set palette"),
        (lambda path: path.parents[2].joinpath("images").rename(path.parent / "x"), r"images: no such folder"),
    ],
)
def test_a_broken_folder_gives_one_line(tmp_path, spoil, message):
    write_folder(tmp_path)
    spoil(tmp_path / "labels/town0/0_ids.png")
    with pytest.raises(DataError, match=message) as caught:
        folder(tmp_path).read(0)
    assert "\n" not in str(caught.value)


TRANSFORMS = [
    v2.RandomCrop((40, 50), pad_if_needed=True, fill=7),
    v2.RandomAffine(30, (0.3, 0.3), (0.5, 2.0), 10, fill=7),
    v2.RandomRotation(45, expand=True, fill=7),
    v2.RandomPerspective(p=1.0, fill=7),
    v2.ElasticTransform(fill=7),
    v2.RandomZoomOut(p=1.0, fill=7),
    v2.Pad(9, fill=7),
    v2.ScaleJitter((40, 40)),
    v2.RandomResizedCrop((25, 25)),
    v2.RandomHorizontalFlip(p=1.0),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_labels_stay_exact_under_every_transform(transform):
    """Transforms fill and interpolate the image, but each label is one of the original labels or ignored."""
    torch.manual_seed(0)
    labels = torch.tensor([5, 40, 90]).repeat_interleave(10).expand(30, 30)
    for _ in range(5):
        sample = transform({"image": Image(torch.zeros(3, 30, 30, dtype=torch.uint8)), "labels": LabelMap(labels + 1)})
        assert isinstance(sample["labels"], LabelMap) and sample["labels"].shape == sample["image"].shape[-2:]
        assert set((sample["labels"].as_subclass(torch.Tensor) - 1).unique().tolist()) <= {IGNORED, 5, 40, 90}


@pytest.mark.parametrize(
    "transform",
    [
        *(v2.Resize((48, round(90 * factor))) for factor in (0.3, 0.5, 0.71, 1.4, 2.0, 3.7)),
        v2.Resize(50, max_size=70),
        v2.ScaleJitter((64, 64), (0.3, 2.5)),
        v2.RandomResize(20, 200),
        v2.RandomShortestSize([25, 61, 130]),
        v2.RandomResizedCrop((70, 80), scale=(0.5, 1.0)),
    ],
    ids=repr,
)
def test_image_and_labels_of_the_same_edge_stay_aligned(transform):
    """The intensity of the resized image crosses 0.5 where the labels change from one class to the other."""
    torch.manual_seed(0)
    edge = torch.zeros(48, 90)
    edge[:, 41:] = 1
    for _ in range(4):
        sample = transform({"image": Image(255 * edge.expand(3, -1, -1)), "labels": LabelMap(edge.short() + 1)})
        bright, labels = sample["image"][0] / 255, sample["labels"].as_subclass(torch.Tensor) - 1
        undecided = (bright - 0.5).abs() < 1e-3  # the edge is at the center of the pixel
        assert torch.equal((bright > 0.5) | undecided, (labels == 1) | undecided)
        assert set(labels.unique().tolist()) == {0, 1} and undecided.float().mean() < 0.05


def test_what_a_transform_uncovers_is_ignored():
    sample = v2.Pad((4, 3, 2, 1), fill=9)({"image": Image(torch.zeros(3, 5, 6)), "labels": LabelMap(torch.ones(5, 6))})
    padded = sample["labels"].as_subclass(torch.Tensor) - 1
    assert (padded[3:8, 4:10] == 0).all() and (padded == IGNORED).sum() == padded.numel() - 30


def test_padding_of_a_batch_is_ignored():
    samples = [
        {"image": Image(torch.zeros(3, *size)), "labels": label_map(torch.ones(size), torch.zeros(size, dtype=bool))}
        for size in ((4, 6), (5, 3))
    ]
    labels = SemanticTargets.collate(samples, (8, 8)).labels
    assert labels.dtype == torch.int16 and (labels[0, :4, :6] == 1).all() and (labels == 1).sum() == 24 + 15
    assert (labels == IGNORED).sum() == 128 - 39


class Truth(Dataset):
    """A dataset that returns the given label maps."""

    label_ids = range(4)

    def __init__(self, labels: list[torch.Tensor]):
        self.meta, self.labels = DatasetMeta(("a", "b", "c", "never")), labels

    def labels_of(self, index: int) -> torch.Tensor:
        return self.labels[index]


def evaluate(truth: list[torch.Tensor], predicted: list[torch.Tensor]) -> SemanticMetric:
    metric = SemanticMetric(dataset=Truth(truth))
    for index, labels in enumerate(predicted):
        info = ImageInfo(index, f"{index}.png", *labels.shape)
        metric.update([SemanticMap(labels.short())], Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 2), [info]))
    metric.compute()
    return metric


def test_numbers_equal_those_of_a_confusion_matrix():
    """The metrics equal the formulas of Long et al. 2015, section 5, on `confusion[i, j]` (their n_ij), the number of
    pixels of class i that are predicted as class j."""
    torch.manual_seed(0)
    truth = [torch.randint(-1, 3, (20 + k, 30)) for k in range(3)]
    predicted = [torch.where(torch.rand(t.shape) < 0.6, t.clamp(min=0), torch.randint(0, 3, t.shape)) for t in truth]
    metric = evaluate(truth, predicted)
    confusion = torch.zeros(3, 3, dtype=torch.float64)
    for t, p in zip(truth, predicted):
        for i in range(3):
            for j in range(3):
                confusion[i, j] += ((t == i) & (p == j)).sum()
    hits, real, guessed = confusion.diag(), confusion.sum(1), confusion.sum(0)
    iou = hits / (real + guessed - hits)
    assert metric.numbers == pytest.approx(
        {
            "mIoU": iou.mean().item(),
            "fwIoU": (real / real.sum() * iou).sum().item(),
            "mAcc": (hits / real).mean().item(),
            "aAcc": (hits.sum() / real.sum()).item(),
        }
    )
    assert metric.per_class()["never"]["IoU"] == -1 and metric.per_class()["b"]["IoU"] == pytest.approx(iou[1].item())


def test_a_perfect_prediction_scores_1():
    truth = [torch.randint(-1, 3, (9, 9))]
    assert set(evaluate(truth, [truth[0].clamp(min=0)]).numbers.values()) == {1.0}


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (torch.zeros(3, 4), r"the prediction has \[3, 4\] pixels, .* \[4, 4\]"),
        (torch.full((4, 4), 4), "labels must be 0 … 3, .*; they are 4 … 4"),
        (torch.arange(16).view(4, 4) % 4 - 1, "labels must be 0 … 3, .*; they are -1 … 2"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(predicted, message):
    with pytest.raises(DataError, match=message):
        evaluate([torch.zeros(4, 4, dtype=torch.int16)], [predicted])


def test_drawings_tint_each_class_and_leave_ignored_pixels():
    labels = torch.full((60, 90), IGNORED)
    labels[:30, :40] = 1
    meta = DatasetMeta(("sky", "road"), palette=((0, 0, 255), (255, 0, 0)))
    gray = np.full((60, 90, 3), 100, np.uint8)
    picture = draw_targets(SemanticTargets(labels[None].short()), 0, gray, meta, long_side=90)
    assert (picture[45:60, 50:90] == 100).all()
    red, green, blue = picture[10, 10].astype(int)
    assert red > 150 and green < 60 and blue < 60
    assert picture.shape[0] > 60 and (picture[61, 1] == (255, 0, 0)).all()  # the legend has road on a red background
    assert np.array_equal(draw(SemanticMap(labels.short()), gray, meta, long_side=90), picture)
    assert SemanticTargets(labels[None].short()).describe(0) == "1 class"
