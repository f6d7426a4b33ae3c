"""Compares random models of Detectron2 with the models that `chordate convert` makes of their checkpoints.

Run in an environment with both libraries: `python tests/peers/compare_detectron2.py [IMAGE_FOLDER] [FAMILY …]`.
Prints a table in Markdown. Everything is computed in float64: in float32, even one library's outputs differ between
memory formats.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from differences import Difference, Level, compare_detections, compare_levels, merge, our_levels
from torch import Tensor
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, read_image
from torchvision.transforms.v2.functional import resize

import chordate
from chordate.cli.main import main as run_command
from chordate.data.coco_classes import COCO_CLASSES
from chordate.data.transforms import ResizeShortestEdge
from chordate.models.semantic_segmenter import SemanticSegmenter
from chordate.models.two_stage import TwoStageDetector
from chordate.structures import Batch, ImageInfo, PanopticMap

warnings.filterwarnings("ignore")
IMAGES = 2
SIZE = 320  # shorter edge in pixels
PROPOSALS = 200  # per image, instead of 1000, to save time
TORCHVISION = [
    *("INPUT.FORMAT", "RGB", "MODEL.RESNETS.STRIDE_IN_1X1", False),
    *("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375]),
]
FEWER = ["MODEL.RPN.POST_NMS_TOPK_TEST", 60]  # proposals of the C4 models, whose heads are slow in float64
# Height and width of DeepLab's images in pixels: the training crop, since the pooling window of its ASPP has this size.
CROP = (512, 1024)
DEEPLAB = ["MODEL.RESNETS.DEPTH", 50]
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
    "DeepLab v3": ("deeplab_v3_R_103_os16_mg124_poly_90k_bs16", DEEPLAB),
    "DeepLab v3+": ("deeplab_v3_plus_R_103_os16_mg124_poly_90k_bs16", DEEPLAB),
    "Faster R-CNN FPN, torchvision's ResNet": ("COCO-Detection/faster_rcnn_R_50_FPN_1x", TORCHVISION),
}


def compare(name: str, images: list[Path]) -> Difference:
    """Make a random model of a family, convert its checkpoint with `chordate convert`, and compare predictions."""
    from detectron2_models import config, float64, predict, random_model

    pixels, sizes = [], []
    for path in images[:1] if name.startswith("DeepLab") else images:
        image = read_image(str(path), ImageReadMode.RGB)
        if name.startswith("DeepLab"):
            pixels.append(resize(image, CROP))
        else:
            pixels.append(ResizeShortestEdge(SIZE)({"image": tv_tensors.Image(image)})["image"])
        if name.startswith(("DeepLab", "Panoptic")):
            image = pixels[-1]  # the network's input size; for the original size, Detectron2 would resize logits twice
        sizes.append(tuple(image.shape[-2:]))
    zoo, options = FAMILIES[name]
    cfg = config(zoo, ["MODEL.RPN.POST_NMS_TOPK_TEST", PROPOSALS, *options])
    theirs = random_model(cfg, pixels)
    with tempfile.TemporaryDirectory() as folder:
        ours = converted(theirs, Path(folder)).double()
    if isinstance(ours, TwoStageDetector):
        ours.rpn.post_nms_topk = (cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST)
    semantic = isinstance(ours, SemanticSegmenter)
    with float64():
        expected = predict(theirs.double(), cfg, pixels, sizes)
        levels = [None if semantic else their_levels(theirs, cfg, image) for image in pixels]
    parts = []
    for image, size, prediction, own in zip(pixels, sizes, expected, levels):
        batch = as_batch(image, size, ours.size_divisor)
        part = compare_image(ours.predict(batch)[0], prediction)
        parts.append(part if own is None else part._replace(levels=compare_levels(our_levels(ours, batch), own)))
    return merge(parts)


@torch.no_grad()
def their_levels(model: Any, cfg: Any, image: Tensor) -> list[Level]:
    """The levels of a model of Detectron2 with an RPN or a RetinaNet head."""
    from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K

    pixels = image.flip(0) if cfg.INPUT.FORMAT == "BGR" else image
    maps = model.backbone(model.preprocess_image([{"image": pixels.double()}]).tensor)
    if hasattr(model, "proposal_generator"):
        part, classes = model.proposal_generator, 1
        names, head = part.in_features, part.rpn_head
    else:
        part, classes = model, model.num_classes
        names, head = part.head_in_features, part.head
    features = [maps[name] for name in names]
    levels = []
    for x, anchors, logits, deltas in zip(features, part.anchor_generator(features), *head(features)):
        own = permute_to_N_HWA_K(deltas, 4)[0]
        boxes = part.box2box_transform.apply_deltas(own, anchors.tensor.to(own.dtype))
        levels.append(Level(x, anchors.tensor, permute_to_N_HWA_K(logits, classes)[0], boxes))
    return levels


def converted(theirs: Any, folder: Path) -> Any:
    """Our model, from the files of `chordate convert`; also checks the conversion back to Detectron2."""
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
    return chordate.build_model(folder / "config.py", checkpoint=out)


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
        return Difference(ours.labels.numel(), same)
    found = theirs["instances"]
    optional = [getattr(found, name) if found.has(name) else None for name in ("pred_masks", "pred_keypoints")]
    return compare_detections(ours, found.pred_boxes.tensor, found.scores, found.pred_classes, *optional)


def compare_segments(ours: PanopticMap, ids: Tensor, segments: list[dict[str, Any]]) -> Difference:
    """Count Detectron2's segments that match one of ours: same class, and IoU above 0.99."""
    matched = 0
    for segment in segments:
        label = segment["category_id"] + (0 if segment["isthing"] else len(COCO_CLASSES) - 1)
        theirs = ids == segment["id"]
        masks = [ours.ids == number + 1 for number in torch.nonzero(ours.labels == label).flatten().tolist()]
        matched += any(float((theirs & mask).sum() / (theirs | mask).sum()) > 0.99 for mask in masks)
    same = len(segments) == len(ours)
    return Difference(len(segments), matched if same else -1)


def main() -> None:
    root = Path(__file__).parents[2].parent / "shared/data/coco-mini/val2017"
    images = sorted(Path(sys.argv[1] if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir() else root).glob("*.jpg"))
    names = [name for name in sys.argv[1:] if not Path(name).is_dir()] or list(FAMILIES)
    print("| Detectron2's model | compared | the same | boxes / px | scores | levels | masks, keypoints |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        print(f"| {name} | {compare(name, images[:IMAGES]).row()} |", flush=True)


if __name__ == "__main__":
    main()
