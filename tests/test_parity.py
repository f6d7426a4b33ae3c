"""The comparison of an exported file with the model: which predictions agree, and which do not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from loading import checkpoint_of
from test_export import TOYS, build, photos

import chordate
from chordate.cli.main import main
from chordate.deployment.formats import FORMATS, ExportFormat
from chordate.deployment.parity import compare, fit_images
from chordate.errors import ConfigError
from chordate.structures import Classification, Detections, PanopticMap, SemanticMap


class Recorded(chordate.Model):
    """A model that returns given predictions; the outputs of its exported file are predictions, too."""

    def __init__(self, predictions):
        super().__init__()
        self.predictions = predictions

    def predict(self, batch):
        return self.predictions

    def from_tensors(self, tensors, batch):
        return tensors["predictions"]


def parity(ours, theirs):
    return compare(Recorded(ours), lambda images: {"predictions": theirs}, [photos(count=len(ours))])


def detections(seed=0) -> Detections:
    random = torch.Generator().manual_seed(seed)
    corner = 200 * torch.rand(6, 2, generator=random)
    boxes = torch.cat((corner, corner + 10 + 50 * torch.rand(6, 2, generator=random)), 1)
    scores = torch.rand(6, generator=random).sort(descending=True).values
    masks = torch.rand(6, 60, 80, generator=random) < 0.3
    return Detections(boxes, scores, torch.arange(6) % 3, masks, torch.rand(6, 4, 3, generator=random) * 200)


def panoptic() -> PanopticMap:
    ids = torch.arange(1, 5, dtype=torch.int32).repeat_interleave(1000).view(40, 100)
    return PanopticMap(ids, torch.arange(4), torch.ones(4, dtype=torch.bool), torch.ones(4), torch.full((4,), 1000))


def changed(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


WHOLE = detections()
NAN = float("nan")
CLASSES = Classification(torch.tensor([0.7, 0.2, 0.1]))
LABELS = SemanticMap(torch.arange(4000).view(50, 80).short() % 7)
PANOPTIC = panoptic()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (WHOLE, WHOLE),
        (WHOLE, replace(WHOLE, boxes=WHOLE.boxes + 1e-3, scores=WHOLE.scores - 1e-4)),
        (WHOLE, WHOLE[torch.tensor([0, 2, 1, 3, 4, 5])]),  # another order: rounding may swap almost equal scores
        (WHOLE, replace(WHOLE, masks=changed(WHOLE.masks, (0, 0, 0), ~WHOLE.masks[0, 0, 0]))),
        (CLASSES, CLASSES),
        (LABELS, SemanticMap(changed(LABELS.labels, (0, 0), 9))),
        (PANOPTIC, replace(PANOPTIC, ids=changed(PANOPTIC.ids, (0, 0), 2), areas=PANOPTIC.areas - 1)),
    ],
)  # fmt: skip
def test_rounding_is_no_difference(ours, theirs):
    assert parity([ours, ours], [ours, theirs]).agrees


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (WHOLE, replace(WHOLE, scores=changed(WHOLE.scores, 3, NAN))),
        (replace(WHOLE, scores=changed(WHOLE.scores, 3, NAN)), WHOLE),
        (WHOLE, replace(WHOLE, boxes=WHOLE.boxes * NAN)),
        (WHOLE, replace(WHOLE, boxes=changed(WHOLE.boxes, (2, 1), WHOLE.boxes[2, 1] + 0.02))),
        (WHOLE, replace(WHOLE, scores=WHOLE.scores - 0.01)),
        (WHOLE, replace(WHOLE, labels=changed(WHOLE.labels, 0, 1))),
        (WHOLE, replace(WHOLE, masks=WHOLE.masks.roll(1, 2))),
        (WHOLE, replace(WHOLE, masks=WHOLE.masks[:, :, :-1])),
        (WHOLE, replace(WHOLE, masks=None)),
        (WHOLE, replace(WHOLE, keypoints=WHOLE.keypoints.flip(1))),
        (WHOLE, WHOLE[:-1]),
        (WHOLE, WHOLE[:0]),
        (CLASSES, Classification(CLASSES.scores * NAN)),
        (CLASSES, Classification(CLASSES.scores[:2])),
        (LABELS, SemanticMap(LABELS.labels.roll(1, 1))),
        (PANOPTIC, replace(PANOPTIC, labels=PANOPTIC.labels.flip(0))),
        (PANOPTIC, replace(PANOPTIC, ids=PANOPTIC.ids.roll(3, 0))),
    ],
)  # fmt: skip
def test_every_other_difference_is_told(ours, theirs):
    assert not parity([ours, ours], [ours, theirs]).agrees
    assert not parity([ours, ours], [theirs, ours]).agrees, "the difference of the first image was lost"


def test_a_prediction_of_nan_agrees_with_nothing():
    lost = Classification(CLASSES.scores * NAN)
    assert (
        str(parity([lost, CLASSES], [lost, CLASSES])) == "scores nan" == str(parity([CLASSES, lost], [CLASSES, lost]))
    )
    assert not parity([lost, CLASSES], [lost, CLASSES]).agrees


def test_missing_objects_of_one_image_do_not_cancel_additional_ones_of_another():
    compared = parity([WHOLE, WHOLE[:-1]], [WHOLE[:-1], WHOLE])
    assert not compared.agrees and str(compared) == "11 of 11 objects (different numbers in 2 of 2 images)"


def test_images_without_objects_are_told():
    assert (
        str(parity([WHOLE[:0]], [WHOLE[:0]])) == "the model detects no objects in the images; name others with --images"
    )


def test_images_are_fitted_into_a_batch():
    batch = fit_images([torch.full((3, 50, 200), 7, dtype=torch.uint8)], (64, 100), padded=True)
    assert batch.sizes.tolist() == [[25, 100]] and batch.images.shape == (1, 3, 64, 100)
    assert (batch.images[:, :, :25] == 7).all() and not batch.images[:, :, 25:].any()


def files(folder) -> tuple[str, str]:
    """A config and a checkpoint of the toy classifier."""
    config, weights = folder / "config.py", folder / "model.pt"
    config.write_text(f"model = {TOYS['classifier']!r}\nval_data = dict(pipeline=[dict(type='Resize', size=[64, 96])])")
    model = build("classifier")
    torch.save(checkpoint_of(model), weights)
    return str(config), str(weights)


class Eager(ExportFormat):
    """A format whose files open as the exported copy of the model."""

    suffix = ".eager"

    def save(self, model, path):
        path.write_text("graph")

    def open(self, path, model):
        assert path.read_text() == "graph"
        return model


class Full(Eager):
    """A format that fails while it writes."""

    def save(self, model, path):
        super().save(model, path)
        raise ConfigError("the disk is full")


def export(folder, monkeypatch, kind) -> int:
    monkeypatch.setitem(FORMATS, "torch-export", kind)
    return main(["export", *files(folder), "--format", "torch-export", "--out", str(folder / "out" / "model.eager")])


def test_the_file_is_compared_with_the_model_itself(tmp_path, capsys, monkeypatch):
    """The comparison also finds errors that only the exported copy of the model has."""

    def broken(model):
        copy = build("classifier")
        copy.head.fc.bias.data += torch.arange(3.0)
        return copy

    assert export(tmp_path, monkeypatch, Eager()) == 0
    assert "on 1 image: scores" in capsys.readouterr().out
    (tmp_path / "out/model.eager").unlink()
    monkeypatch.setattr("chordate.deployment.exportable.fold_norms", broken)
    assert export(tmp_path, monkeypatch, Eager()) == 1
    error = capsys.readouterr().err
    assert "does not predict like the model: scores 0." in error and error.count("\n") == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.eager"]


def test_a_failed_export_leaves_no_file(tmp_path, capsys, monkeypatch):
    assert export(tmp_path, monkeypatch, Full()) == 2
    assert capsys.readouterr().err == "chordate export: the disk is full\n"
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("checkpoint", "out", "message"),
    [
        ("model.pt2", [], "model.pt2 is the checkpoint to read; name another file to write"),
        ("model.pt", ["--out", "folder/../model.pt"], "is the checkpoint to read; name another file to write"),
        ("model.pt", ["--out", "model.pt2"], "model.pt2 exists; name another file to write, or delete it"),
        ("model.pt", ["--out", "folder"], "folder is a folder; name the file to write"),
        ("folder/", [], "folder is a folder"),
        (".", ["--format", "onnx"], "is a folder"),
    ],
)
def test_no_file_is_overwritten(checkpoint, out, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    config, weights = files(Path())
    Path("model.pt2").write_bytes(Path(weights).read_bytes())
    before = sorted(Path().iterdir())
    assert main(["export", config, checkpoint, "--format", "torch-export", *out]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and sorted(Path().iterdir()) == before
    assert Path("model.pt2").read_bytes() == Path(weights).read_bytes()


def test_an_empty_name_of_a_checkpoint_is_a_mistake(capsys):
    with pytest.raises(SystemExit):
        main(["export", "r18_imagenet", ""])
    assert "checkpoint: must not be empty" in capsys.readouterr().err


def segments(order: list[int]) -> PanopticMap:
    """Four segments of stripes; the segment with the number n covers the stripe `order[n - 1]`."""
    ids = torch.zeros(10, 12, dtype=torch.int32)
    for number, stripe in enumerate(order, 1):
        ids[2 * stripe : 2 * stripe + 2] = number
    labels, scores = torch.tensor([5, 7, 7, 2])[order], torch.tensor([0.5, 0.5, 0.9, 1.0])[order]
    return PanopticMap(ids, labels, labels > 4, scores, torch.full((4,), 24))


def test_segments_in_another_order_are_equal_predictions():
    assert parity([segments([0, 1, 2, 3])], [segments([3, 1, 0, 2])]).agrees


def test_segments_with_another_class_or_other_pixels_differ():
    for changed in (
        replace(segments([3, 1, 0, 2]), labels=torch.tensor([2, 7, 5, 5])),
        replace(segments([3, 1, 0, 2]), ids=segments([3, 1, 0, 2]).ids.roll(1, 0)),
        replace(segments([3, 1, 0, 2]), ids=segments([3, 1, 0, 2]).ids.clamp(max=2)),
    ):
        assert not parity([segments([0, 1, 2, 3])], [changed]).agrees
