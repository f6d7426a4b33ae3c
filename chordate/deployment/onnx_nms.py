"""The ONNX implementation of `padded_nms`, for the exporter."""

from __future__ import annotations

from typing import Any

from onnxscript import BOOL, FLOAT, INT64
from onnxscript import opset18 as op

LOWEST = -3e38  # below every score


def onnx_padded_nms(boxes: FLOAT, scores: FLOAT, groups: INT64, threshold: float) -> BOOL:
    """`padded_nms` as one ONNX NonMaxSuppression; its classes are the groups, and a box has a score only in its group.

    ONNX compares boxes in float32.
    """
    last: Any = op.Max(op.ReduceMax(groups, keepdims=0), op.Constant(value_int=0))
    group = op.Range(op.Constant(value_int=0), op.Add(last, op.Constant(value_int=1)), op.Constant(value_int=1))
    is_member = op.Equal(op.Unsqueeze(groups, [1]), op.Unsqueeze(group, [0, 2]))  # [N, groups, K]
    candidates = op.Where(is_member, op.Unsqueeze(scores, [1]), op.Constant(value_float=-float("inf")))
    most = op.Shape(scores, start=1, end=2)
    kept = op.NonMaxSuppression(
        boxes, candidates, most, op.Constant(value_floats=[threshold]), op.Constant(value_floats=[LOWEST])
    )  # [kept, 3]: image, group and box
    place = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(kept, start=0, end=1))
    return op.Cast(op.ScatterND(op.Expand(op.Constant(value_float=0.0), op.Shape(scores)), place, ones), to=BOOL.dtype)
