"""Converts the pipelines of MMDetection and MMSegmentation configs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chordate.migration.config_conversion import Keys

# Steps without a counterpart because the dataset or the loader does their work, or because they change nothing.
ABSENT = {
    "LoadImageFromFile", "LoadAnnotations", "LoadPanopticAnnotations", "PackDetInputs", "PackSegInputs", "Pad",
}  # fmt: skip


def pipeline_part(steps: list[Keys]) -> list[dict[str, Any]]:
    """The transforms for the steps of a pipeline."""
    transforms: list[dict[str, Any]] = []
    remaining = list(steps)
    while remaining:
        step = remaining.pop(0)
        kind = step.get("type")
        if kind in ABSENT:
            step.ignore(*step.values)
        elif kind == "RandomResize" and remaining and _is_jitter(step, remaining[0]):
            transforms.append(_large_scale_jitter(step, remaining.pop(0)))
        elif kind in CONVERTERS:
            transforms += CONVERTERS[kind](step)
        else:
            step.ignore(*step.values)
            step.lose("type", "this transform is left out", "training")
    return transforms


def has_masks(steps: list[Keys]) -> bool:
    """Whether a pipeline loads the masks of instances."""
    return any(step.get("type") == "LoadAnnotations" and step.get("with_mask", False) for step in steps)


def _resize(step: Keys) -> list[dict[str, Any]]:
    scale = step.get("scale")
    step.expect("interpolation", "bilinear", reason="bilinear interpolation, with antialiasing")
    step.ignore("backend", "clip_object_border")
    if step.get("keep_ratio", False):
        return [{"type": "ResizeShortestEdge", "size": min(scale), "max_size": max(scale)}]
    return [{"type": "Resize", "size": [scale[1], scale[0]]}]


def _choice(step: Keys) -> list[dict[str, Any]]:
    """RandomChoiceResize: one of several sizes."""
    scales = [tuple(scale) for scale in step.get("scales")]
    step.expect("keep_ratio", True, reason="the aspect ratio is kept", effect="training")
    longest = {max(scale) for scale in scales}
    if len(longest) > 1:
        step.lose("scales", f"the longer side is at most {max(longest)} px for all sizes", "training")
    step.ignore("resize_type")
    return [{"type": "ResizeShortestEdge", "size": [min(scale) for scale in scales], "max_size": max(longest)}]


def _random_resize(step: Keys) -> list[dict[str, Any]]:
    """RandomResize: between two sizes, or one size times a random factor."""
    scale = step.get("scale")
    step.expect("keep_ratio", True, reason="the aspect ratio is kept", effect="training")
    step.ignore("resize_type")
    if not isinstance(scale[0], int):
        step.ignore("ratio_range")
        longest = {max(size) for size in scale}
        if len(longest) > 1:
            step.lose("scale", f"the longer side is at most {max(longest)} px for all sizes", "training")
        shortest, longest_short = sorted(min(size) for size in scale)
        sizes = list(range(shortest, longest_short + 1))
        return [{"type": "ResizeShortestEdge", "size": sizes, "max_size": max(longest)}]
    ratios = step.get("ratio_range")
    if min(scale) == max(scale):
        return [{"type": "ScaleJitter", "target_size": list(scale), "scale_range": list(ratios)}]
    aspect = max(scale) / min(scale)
    step.lose("scale", f"images more than {aspect:.3g} times as long as wide are not limited in length", "nothing")
    low, high = (int(min(scale) * ratio) for ratio in ratios)
    return [{"type": "RandomResize", "min_size": low, "max_size": high + 1}]


def _filter(step: Keys) -> list[dict[str, Any]]:
    """FilterAnnotations: drops small boxes."""
    width, height = step.get("min_gt_bbox_wh", (1, 1))
    step.expect("by_box", True, reason="boxes below min_gt_bbox_wh are dropped", effect="training")
    step.expect("by_mask", False, reason="masks of any area are kept", effect="training")
    step.ignore("keep_empty", "min_gt_mask_area")
    if width != height:
        step.lose("min_gt_bbox_wh", f"boxes below {min(width, height)} px are dropped", "training")
    return [{"type": "SanitizeInstances", "min_size": min(width, height)}]


def _is_jitter(resize: Keys, crop: Keys) -> bool:
    """Whether two steps are large-scale jitter: a resize to a random multiple of a size, and a crop of this size."""
    return (
        crop.get("type") == "RandomCrop"
        and crop.get("crop_type", "absolute") == "absolute_range"
        and "ratio_range" in resize
        and list(resize.get("scale")) == _pair(crop.get("crop_size"))
    )


def _large_scale_jitter(resize: Keys, crop: Keys) -> dict[str, Any]:
    for step in (resize, crop):
        step.ignore(*step.values)
    width, height = _pair(crop.get("crop_size"))
    size = width if width == height else [height, width]
    return {"type": "LargeScaleJitter", "size": size, "scale": list(resize.get("ratio_range"))}


def _crop(step: Keys) -> list[dict[str, Any]]:
    if step.get("crop_type", "absolute").startswith("relative"):
        step.ignore(*step.values)
        step.lose("crop_type", "this transform is left out", "training")
        return []
    first, second = _pair(step.get("crop_size"))
    step.expect("crop_type", "absolute", reason="crops have a fixed size", effect="training")
    step.ignore("ignore_index", "allow_negative_crop", "recompute_bbox", "bbox_clip_border")
    size = first if first == second else [first, second]
    return [{"type": "ClassLimitedCrop", "size": size, "max_fraction": step.get("cat_max_ratio", 1.0)}]


def _flip(step: Keys) -> list[dict[str, Any]]:
    kinds = {"horizontal": "RandomHorizontalFlip", "vertical": "RandomVerticalFlip"}
    direction, p = step.get("direction", "horizontal"), step.get("prob", None)
    if not isinstance(direction, str) or direction not in kinds or not isinstance(p, int | float):
        step.lose("direction", "horizontal flips with p=0.5", "training")
        direction, p = "horizontal", 0.5
    return [{"type": kinds[direction], "p": p}]


def _distortion(step: Keys) -> list[dict[str, Any]]:
    for key, value in (("brightness_delta", 32), ("contrast_range", (0.5, 1.5)), ("saturation_range", (0.5, 1.5)),
                       ("hue_delta", 18)):  # fmt: skip
        step.expect(key, value, reason="the default strength is used", effect="training")
    return [{"type": "PhotometricDistortion"}]


def _pair(size: int | Sequence[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


CONVERTERS = {
    "Resize": _resize,
    "RandomChoiceResize": _choice,
    "RandomResize": _random_resize,
    "RandomCrop": _crop,
    "RandomFlip": _flip,
    "FilterAnnotations": _filter,
    "PhotoMetricDistortion": _distortion,
}
