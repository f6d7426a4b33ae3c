"""Compares random models of Detectron2 with the models that `chordate convert` makes of their checkpoints.

Run in an environment with both libraries: `python tests/peers/compare_detectron2.py [FAMILY …]`. Prints a table in
Markdown. Everything is computed in float64: in float32, even one library differs from itself in another memory format.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, read_image

import chordate
from chordate.cli.main import main as run_command
from chordate.data.transforms import ResizeShortestEdge
from chordate.structures import Batch, Detections, ImageInfo

warnings.filterwarnings("ignore")
IMAGES = 2
SIZE = 320  # shorter edge in pixels
# Name in the table: Detectron2's config, and options.
FAMILIES: dict[str, tuple[str, list[Any]]] = {
    "Faster R-CNN FPN": ("COCO-Detection/faster_rcnn_R_50_FPN_1x", []),
}


class Difference(NamedTuple):
    """Differences between the predictions of two libraries on several images.

    Attributes:
        count: number of their detections (or of their pixels, of a semantic map).
        matched: number of those that ours has within 1e-2 pixels and 1e-4 in score.
        box, score: largest differences, of pixels and of scores, of matched detections.
        other: description of the differences of masks and keypoints.
    """

    count: int
    matched: int
    box: float
    score: float
    other: str = ""


def compare(name: str, images: list[Path]) -> Difference:
    """Make a random model of a family, convert its checkpoint by the command, and compare predictions."""
    from detectron2_models import config, float64, predict, random_model

    pixels, sizes = [], []
    for path in images:
        image = read_image(str(path), ImageReadMode.RGB)
        sizes.append(tuple(image.shape[-2:]))
        pixels.append(ResizeShortestEdge(SIZE)({"image": chordate_image(image)})["image"])
    zoo, options = FAMILIES[name]
    cfg = config(zoo, options)
    theirs = random_model(cfg, pixels)
    with tempfile.TemporaryDirectory() as folder:
        ours = converted(theirs, Path(folder))
    with float64():
        expected = predict(theirs.double(), cfg, pixels, sizes)
    found = []
    for image, size in zip(pixels, sizes):
        found += ours.predict(as_batch(image, size, ours.size_divisor))
    return merge([compare_image(mine, their) for mine, their in zip(found, expected)])


def chordate_image(image: Tensor) -> Any:
    from torchvision.tv_tensors import Image

    return Image(image)


def converted(theirs: Any, folder: Path) -> Any:
    """Our model in float64, from the files that `chordate convert` wrote; checks the way back to Detectron2."""
    source, out, back = folder / "theirs.pth", folder / "ours.pt", folder / "back.pth"
    state = theirs.state_dict()
    torch.save({"model": state}, source)
    printed = StringIO()
    with redirect_stdout(printed):
        assert run_command(["convert", str(source), str(out)]) == 0
        (folder / "config.py").write_text(printed.getvalue().partition("\n\n")[2])
        command = ["convert", str(out), str(back), "--config", str(folder / "config.py"), "--to", "detectron2"]
        assert run_command(command) == 0
    restored = torch.load(back)["model"]
    assert restored.keys() == state.keys() and all(torch.equal(restored[key], state[key]) for key in state)
    return chordate.build_model(folder / "config.py", checkpoint=out).double()


def as_batch(image: Tensor, size: tuple[int, int], divisor: int) -> Batch:
    height, width = image.shape[-2:]
    padded = [-(-side // divisor) * divisor - side for side in (height, width)]
    images = torch.nn.functional.pad(image, (0, padded[1], 0, padded[0]))[None]
    return Batch(images, torch.tensor([[height, width]]), [ImageInfo(0, "image", *size)])


def compare_image(ours: Any, theirs: Any) -> Difference:
    return compare_detections(ours, theirs["instances"])


def compare_detections(ours: Detections, theirs: Any) -> Difference:
    """Match each of their detections to ours with the same class and the nearest box."""
    boxes, scores, labels = theirs.pred_boxes.tensor, theirs.scores, theirs.pred_classes
    distance = (boxes[:, None] - ours.boxes[None]).abs().amax(-1)
    distance = torch.where(labels[:, None] == ours.labels[None], distance, torch.inf)
    box, index = distance.min(dim=1)
    score = (ours.scores[index] - scores).abs()
    same = (box < 1e-2) & (score < 1e-4)
    other = []
    if theirs.has("pred_masks"):
        differing = (ours.masks[index].bool() != theirs.pred_masks)[same]
        other.append(f"{int(differing.sum())} of {int(theirs.pred_masks[same].sum())} mask pixels differ")
    if theirs.has("pred_keypoints"):
        distance = (ours.keypoints[index] - theirs.pred_keypoints)[same].abs().amax()
        other.append(f"keypoints {float(distance):.1e}")
    matched = int(same.sum()) if len(ours) == len(theirs) else -1
    return Difference(len(theirs), matched, float(box[same].max()), float(score[same].max()), ", ".join(other))


def merge(parts: list[Difference]) -> Difference:
    counts, matched, boxes, scores, others = zip(*parts)
    return Difference(sum(counts), sum(matched), max(boxes), max(scores), "; ".join(filter(None, others)))


def main() -> None:
    root = Path(__file__).parents[2].parent / "shared/data/coco-mini/val2017"
    images = sorted(Path(sys.argv[1] if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir() else root).glob("*.jpg"))
    names = [name for name in sys.argv[1:] if not Path(name).is_dir()] or list(FAMILIES)
    print("| Detectron2's model | detections | the same | boxes / px | scores | masks, keypoints |")
    print("|---|---|---|---|---|---|")
    for name in names:
        found = compare(name, images[:IMAGES])
        print(f"| {name} | {found.count} | {found.matched} | {found.box:.1e} | {found.score:.1e} | {found.other} |")


if __name__ == "__main__":
    main()
