"""Types of the settings in Detectron2's configs, for `Keys`: those of the default values, as in Detectron2 itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from chordate.arguments import NonEmpty, NonNegativeFloat, PositiveFloat, PositiveInt
from chordate.migration.detectron2_defaults import DEFAULTS

Level = Literal["res2", "res3", "res4", "res5", "p2", "p3", "p4", "p5", "p6", "p7"]
Levels = Annotated[Sequence[Level], NonEmpty]
Numbers = Annotated[Sequence[PositiveFloat], NonEmpty]
Thresholds = tuple[NonNegativeFloat, NonNegativeFloat]
Weights = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


def _types(section: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name (with the section's) and the annotation of each setting in `values` and in the dicts in it."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _types(key, value)
        else:
            yield f"{section}.{key}" if section else key, _type(value)


def _type(value: Any) -> Any:
    if isinstance(value, list):
        return Sequence[_type(value[0])] if value else Sequence[str]  # type: ignore[misc]
    return str | None if isinstance(value, str) else type(value)


TYPES: Mapping[str, Any] = {
    **dict(_types("", DEFAULTS)),
    "MODEL.PIXEL_STD": Numbers,
    "RESNETS.DEPTH": Literal[18, 34, 50, 101, 152],
    "FPN.IN_FEATURES": Sequence[Literal["res2", "res3", "res4", "res5"]],
    "RPN.IN_FEATURES": Levels,
    "ROI_HEADS.IN_FEATURES": Levels,
    "RETINANET.IN_FEATURES": Levels,
    "SEM_SEG_HEAD.IN_FEATURES": Levels,
    "SEM_SEG_HEAD.PROJECT_CHANNELS": Annotated[Sequence[PositiveInt], NonEmpty],
    "ANCHOR_GENERATOR.SIZES": Numbers | Annotated[Sequence[Numbers], NonEmpty],
    "ANCHOR_GENERATOR.ASPECT_RATIOS": Numbers | Annotated[Sequence[Numbers], NonEmpty],
    "RPN.IOU_THRESHOLDS": Thresholds,
    "ROI_HEADS.IOU_THRESHOLDS": tuple[NonNegativeFloat],
    "RETINANET.IOU_THRESHOLDS": Thresholds,
    "ROI_BOX_HEAD.BBOX_REG_WEIGHTS": Weights,
    "ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": Sequence[Weights],
    "INPUT.MIN_SIZE_TRAIN": PositiveInt | Annotated[Sequence[PositiveInt], NonEmpty],
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": Literal["choice", "range"],
    "CROP.SIZE": tuple[PositiveFloat, PositiveFloat],
    "DATASETS.TRAIN": str | Sequence[str],
    "DATASETS.TEST": str | Sequence[str],
    "SOLVER.IMS_PER_BATCH": PositiveInt,
    "SOLVER.BASE_LR": PositiveFloat,
    "SOLVER.WEIGHT_DECAY_BIAS": NonNegativeFloat | None,
}
