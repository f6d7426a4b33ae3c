"""Converts the ResNets of Detectron2, MMDetection and MMSegmentation to Chordate's backbone configs."""

from __future__ import annotations

from typing import Any

from chordate.registry import BACKBONES


def resnet_part(
    depth: int,
    *,
    groups: int = 1,
    group_width: int = 64,
    deep_stem: bool = False,
    stem_channels: int = 64,
    average_shortcut: bool = False,
    caffe: bool = False,
) -> dict[str, Any]:
    """The config of a ResNet or ResNeXt: the nearest variant's name, and the arguments that differ from the variant's.

    Args:
        depth: 18, 34, 50, 101 or 152.
        groups, group_width: number of groups of the 3×3 convolutions, and channels per group at c2 (used only if
            `groups` > 1).
        deep_stem: whether the stem has three 3×3 convolutions (ResNet-C).
        stem_channels: width of the stem.
        average_shortcut: whether the shortcuts have an average pool (ResNet-D).
        caffe: whether bottlenecks have their stride in the first 1×1 convolution.
    """
    wanted: dict[str, Any] = {}
    if groups > 1:
        wanted |= {"groups": groups, "group_width": group_width}
    if deep_stem:
        wanted["stem"] = "deep"
    if stem_channels != 64:
        wanted["stem_channels"] = stem_channels
    if average_shortcut:
        wanted["shortcut"] = "D"
    if caffe and depth >= 50:
        wanted["style"] = "caffe"
    variants = {
        name: {key: value for key, value in BACKBONES.expand(name).items() if key not in ("type", "default_weights")}
        for name in BACKBONES.names("res*")
        if name in BACKBONES.variants and BACKBONES.variants[name]["type"] == "ResNet"
    }
    best, covered = f"resnet{depth}", -1
    for name, arguments in variants.items():
        rest = {key: value for key, value in arguments.items() if key != "depth"}
        if arguments.get("depth") == depth and rest.items() <= wanted.items() and len(rest) > covered:
            best, covered = name, len(rest)
    own = BACKBONES.expand(best)
    return {"type": best} | {key: value for key, value in wanted.items() if own.get(key) != value}
