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
from differences import Difference, Level, compare_detections, compare_levels, deviation, largest, merge, our_levels
from torch import Tensor
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, read_image
from torchvision.transforms.v2.functional import resize

import chordate
from chordate.cli.main import main as run_command
from chordate.data.cityscapes import CITYSCAPES_CLASSES
from chordate.data.coco_classes import COCO_CLASSES
from chordate.data.transforms import ResizeShortestEdge
from chordate.models.panoptic_deeplab import PanopticDeepLab
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
DEEPLAB = ["MODEL.RESNETS.DEPTH", 50]
# Centers are at least 40 pixels apart, so there are fewer than 200: of 200, Detectron2 drops the last one.
KERNEL = 81
PANOPTIC = ["MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES", False, "MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL", KERNEL]
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
    "Panoptic-DeepLab": (
        "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024",
        [*PANOPTIC, "INPUT.CROP.SIZE", (256, 512)],  # a quarter of the crop, to save time
    ),
    "Panoptic-DeepLab, DSConv": (
        "panoptic_deeplab_R_52_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv",
        PANOPTIC,
    ),
    "Faster R-CNN FPN, torchvision's ResNet": ("COCO-Detection/faster_rcnn_R_50_FPN_1x", TORCHVISION),
}


def compare(name: str, images: list[Path]) -> Difference:
    """Make a random model of a family, convert its checkpoint with `chordate convert`, and compare predictions."""
    from detectron2_models import config, float64, in_float64, predict, random_model

    zoo, options = FAMILIES[name]
    cfg = config(zoo, ["MODEL.RPN.POST_NMS_TOPK_TEST", PROPOSALS, *options])
    is_deeplab = "DeepLab" in name
    pixels, sizes = [], []
    for path in images[:1] if is_deeplab else images:
        image = read_image(str(path), ImageReadMode.RGB)
        if is_deeplab:
            pixels.append(resize(image, cfg.INPUT.CROP.SIZE))  # the window of ASPP's pooling is the training crop
        else:
            pixels.append(ResizeShortestEdge(SIZE)({"image": tv_tensors.Image(image)})["image"])
        if name.startswith(("DeepLab", "Panoptic")):
            image = pixels[-1]  # the network's input size; for the original size, Detectron2 would resize logits twice
        sizes.append(tuple(image.shape[-2:]))
    theirs = random_model(cfg, pixels)
    with tempfile.TemporaryDirectory() as folder:
        ours = converted(theirs, Path(folder)).double()
    if isinstance(ours, TwoStageDetector):
        ours.rpn.post_nms_topk = (cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST)
    if isinstance(ours, PanopticDeepLab):
        ours.nms_kernel = KERNEL
    has_levels = not isinstance(ours, SemanticSegmenter | PanopticDeepLab)
    with float64():
        expected = predict(in_float64(theirs, cfg), cfg, pixels, sizes)
        levels = [their_levels(theirs, cfg, image) if has_levels else None for image in pixels]
    parts = []
    for image, size, prediction, own in zip(pixels, sizes, expected, levels):
        batch = as_batch(image, size, ours.size_divisor)
        part = compare_image(ours, ours.predict(batch)[0], prediction)
        if own is not None:
            part = part._replace(levels=compare_levels(our_levels(ours, batch), own))
        elif isinstance(ours, PanopticDeepLab):
            part = part._replace(levels=compare_outputs(ours, batch, theirs, image))
        parts.append(part)
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


@torch.no_grad()
def compare_outputs(ours: PanopticDeepLab, batch: Batch, theirs: Any, image: Tensor) -> float:
    """The largest difference between the logits, the heatmaps and the offsets of two Panoptic-DeepLabs, in standard
    deviations; the image has the size of the crops."""
    maps = theirs.backbone(((image.double() - theirs.pixel_mean) / theirs.pixel_std)[None])
    expected = [theirs.sem_seg_head.layers(maps), *theirs.ins_embed_head.layers(maps)]
    our_maps = ours.features(batch)
    logits = ours.semantic(our_maps)[:, [ours.classes.index(name) for name in their_classes(ours)]]
    return largest([deviation(*pair) for pair in zip((logits, *ours.center(our_maps)), expected, strict=True)])


def their_classes(ours: PanopticDeepLab) -> tuple[str, ...]:
    """Our names of the classes of a Panoptic-DeepLab in Detectron2's order: of Cityscapes by train id, or of COCO."""
    return CITYSCAPES_CLASSES if len(ours.classes) == len(CITYSCAPES_CLASSES) else ours.classes


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


def compare_image(model: Any, ours: Any, theirs: Any) -> Difference:
    if "panoptic_seg" in theirs:
        return compare_segments(ours, theirs["panoptic_seg"][0], segment_labels(model, *theirs["panoptic_seg"]))
    if "sem_seg" in theirs:
        same = int((ours.labels == theirs["sem_seg"].argmax(0)).sum())
        return Difference(ours.labels.numel(), same)
    found = theirs["instances"]
    optional = [getattr(found, name) if found.has(name) else None for name in ("pred_masks", "pred_keypoints")]
    return compare_detections(ours, found.pred_boxes.tensor, found.scores, found.pred_classes, *optional)


def segment_labels(model: Any, ids: Tensor, segments: list[dict[str, Any]] | None) -> dict[int, int]:
    """Our label of each of Detectron2's segments, by the id in the map `ids`.

    Panoptic FPN lists its segments; in Panoptic-DeepLab, an id is 1000 times the class plus a number, or -1.
    """
    if segments is None:
        numbers = [number for number in ids.unique().tolist() if number >= 0]
        return {number: model.classes.index(their_classes(model)[number // 1000]) for number in numbers}
    return {one["id"]: one["category_id"] + (0 if one["isthing"] else len(COCO_CLASSES) - 1) for one in segments}


def compare_segments(ours: PanopticMap, ids: Tensor, segments: dict[int, int]) -> Difference:
    """Count Detectron2's segments that match one of ours: same class, and IoU above 0.99.

    Args:
        segments: our label of each segment, by the id in the map `ids`.
    """
    matched = 0
    for number, label in segments.items():
        theirs = ids == number
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
