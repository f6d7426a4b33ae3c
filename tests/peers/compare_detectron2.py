"""Compares random models of Detectron2 with the models that `chordate convert` makes of their checkpoints.

Run in an environment with both libraries: `python tests/peers/compare_detectron2.py [FAMILY …]`. Prints a table in
Markdown. Everything is computed in float64: in float32, even one library's outputs differ between memory formats.
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
from chordate.data.coco_classes import COCO_CLASSES
from chordate.data.transforms import ResizeShortestEdge
from chordate.models.semantic_segmenter import SemanticSegmenter
from chordate.models.two_stage import TwoStageDetector
from chordate.structures import Batch, Detections, ImageInfo, PanopticMap

warnings.filterwarnings("ignore")
IMAGES = 2
SIZE = 320  # shorter edge in pixels
PROPOSALS = 200  # per image, instead of 1000, to save time
TORCHVISION = [
    *("INPUT.FORMAT", "RGB", "MODEL.RESNETS.STRIDE_IN_1X1", False),
    *("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375]),
]
FEWER = ["MODEL.RPN.POST_NMS_TOPK_TEST", 60]  # proposals of the C4 models, whose heads are slow in float64
CROP = (256, 256)  # height and width in pixels of the images for semantic segmentation
POOLING = (8, 8)  # feature-map cells of the windows that ASPP averages: crops of 128×128 pixels, at stride 16
CROPPED = ["INPUT.CROP.SIZE", [128, 128], "MODEL.RESNETS.DEPTH", 50]
# Detectron2's config and options, keyed by the name in the table.
FAMILIES: dict[str, tuple[str, list[Any]]] = {
    "Faster R-CNN FPN": ("COCO-Detection/faster_rcnn_R_50_FPN_1x", []),
    "Faster R-CNN C4": ("COCO-Detection/faster_rcnn_R_50_C4_1x", FEWER),
    "Faster R-CNN DC5": ("COCO-Detection/faster_rcnn_R_50_DC5_1x", []),
    "Mask R-CNN FPN": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", []),
    "Mask R-CNN C4": ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x", FEWER),
    "Mask R-CNN DC5": ("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x", []),
    "Mask R-CNN FPN, GroupNorm": ("Misc/mask_rcnn_R_50_FPN_3x_gn", []),
    "Cascade Mask R-CNN FPN": ("Misc/cascade_mask_rcnn_R_50_FPN_1x", []),
    "Keypoint R-CNN FPN": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x", []),
    "RetinaNet": ("COCO-Detection/retinanet_R_50_FPN_1x", []),
    "Mask R-CNN FPN, SyncBN": ("Misc/mask_rcnn_R_50_FPN_3x_syncbn", []),
    "Panoptic FPN": ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x", []),
    "DeepLab v3": ("deeplab_v3_R_103_os16_mg124_poly_90k_bs16", CROPPED),
    "DeepLab v3+": ("deeplab_v3_plus_R_103_os16_mg124_poly_90k_bs16", CROPPED),
    "Faster R-CNN FPN, torchvision's ResNet": ("COCO-Detection/faster_rcnn_R_50_FPN_1x", TORCHVISION),
}


class Difference(NamedTuple):
    """Differences between the predictions of two libraries on several images.

    Attributes:
        count: number of Detectron2's detections, segments, or pixels of semantic maps.
        matched: number of these that our predictions match: detections within 1e-2 pixels and 1e-4 in score, segments
            with an IoU above 0.99, pixels of the same class; -1 if the numbers of detections or segments differ.
        box, score: largest differences between matched detections, in pixels and in score.
        other: description of the differences of masks and keypoints.
    """

    count: int
    matched: int
    box: float
    score: float
    other: str = ""


def compare(name: str, images: list[Path]) -> Difference:
    """Make a random model of a family, convert its checkpoint with `chordate convert`, and compare predictions."""
    from detectron2_models import config, float64, predict, random_model

    pixels, sizes = [], []
    for path in images:
        image = read_image(str(path), ImageReadMode.RGB)
        pixels.append(ResizeShortestEdge(SIZE)({"image": chordate_image(image)})["image"])
        if name.startswith("DeepLab"):
            pixels[-1] = pixels[-1][:, : CROP[0], : CROP[1]]
        if name.startswith(("DeepLab", "Panoptic")):
            image = pixels[-1]  # at the original size, Detectron2 would resize the logits twice
        sizes.append(tuple(image.shape[-2:]))
    zoo, options = FAMILIES[name]
    cfg = config(zoo, ["MODEL.RPN.POST_NMS_TOPK_TEST", PROPOSALS, *options])
    theirs = random_model(cfg, pixels)
    with tempfile.TemporaryDirectory() as folder:
        ours = converted(theirs, Path(folder))
    if isinstance(ours, TwoStageDetector):
        ours.rpn.post_nms_topk = (cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST)
    elif isinstance(ours, SemanticSegmenter):
        assert ours.head.aspp.pooling_size == (32, 64)  # for Detectron2's training crops of 512×1024, at stride 16
        ours.head.aspp.pooling_size = POOLING
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
    """Our model in float64, from the files of `chordate convert`; also checks the conversion back to Detectron2."""
    source, out, back = folder / "theirs.pth", folder / "ours.pt", folder / "back.pth"
    state = theirs.state_dict()
    torch.save({"model": state}, source)
    printed = StringIO()
    with redirect_stdout(printed):
        assert run_command(["convert", str(source), str(out)]) == 0
        (folder / "config.py").write_text(printed.getvalue().partition("\n\n")[2])
        command = ["convert", str(out), str(back), "--config", str(folder / "config.py"), "--to", "detectron2"]
        assert run_command(command) == 0
    restored = {name: x for name, x in torch.load(back)["model"].items() if name not in ("pixel_mean", "pixel_std")}
    assert restored.keys() == state.keys() and all(torch.equal(restored[key], state[key]) for key in state)
    return chordate.build_model(folder / "config.py", checkpoint=out).double()


def as_batch(image: Tensor, size: tuple[int, int], divisor: int) -> Batch:
    height, width = image.shape[-2:]
    padded = [-(-side // divisor) * divisor - side for side in (height, width)]
    images = torch.nn.functional.pad(image, (0, padded[1], 0, padded[0]))[None]
    return Batch(images, torch.tensor([[height, width]]), [ImageInfo(0, "image", *size)])


def compare_image(ours: Any, theirs: Any) -> Difference:
    if "panoptic_seg" in theirs:
        return compare_segments(ours, *theirs["panoptic_seg"])
    if "sem_seg" in theirs:
        same = int((ours.labels == theirs["sem_seg"].argmax(0)).sum())
        return Difference(ours.labels.numel(), same, 0.0, 0.0, f"{ours.labels.unique().numel()} classes")
    return compare_detections(ours, theirs["instances"])


def compare_segments(ours: PanopticMap, ids: Tensor, segments: list[dict[str, Any]]) -> Difference:
    """Count Detectron2's segments that match one of ours: same class, and IoU above 0.99."""
    matched = 0
    for segment in segments:
        label = segment["category_id"] + (0 if segment["isthing"] else len(COCO_CLASSES) - 1)
        theirs = ids == segment["id"]
        masks = [ours.ids == number + 1 for number in torch.nonzero(ours.labels == label).flatten().tolist()]
        matched += any(float((theirs & mask).sum() / (theirs | mask).sum()) > 0.99 for mask in masks)
    same = len(segments) == len(ours)
    return Difference(len(segments), matched if same else -1, 0.0, 0.0, f"{len(segments)} segments")


def compare_detections(ours: Detections, theirs: Any) -> Difference:
    """Match each detection of Detectron2 to our detection of the same class with the nearest box."""
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
        # Scores are not compared: ours are logits, Detectron2's are probabilities.
        distance = (ours.keypoints[index] - theirs.pred_keypoints)[same, :, :2].abs().amax(-1)
        other.append(f"{int((distance > 1e-2).sum())} of {distance.numel()} keypoints differ")
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
    print("|---|---|---|---|---|---|", flush=True)
    for name in names:
        found = compare(name, images[:IMAGES])
        print(
            f"| {name} | {found.count} | {found.matched} | {found.box:.1e} | {found.score:.1e} | {found.other} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
