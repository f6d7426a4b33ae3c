"""A stand-in for `mmcv.ops`, whose compiled extension no longer builds; import it before MMDetection.

With it, these packages and their pure-Python dependencies suffice:
`pip install --no-deps mmcv-lite==2.1.0 mmdet==3.3.0 mmsegmentation==1.2.2 mmpretrain==1.2.0`.
RoIAlign and NMS are torchvision's; other operators cannot be called.
"""

import importlib.machinery
import importlib.metadata
import sys
import types
from typing import Any

import torch
import torchvision
from torch import Tensor, nn


class RoIAlign(nn.Module):
    def __init__(self, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = 0, **options: Any):
        super().__init__()
        self.output_size = output_size if isinstance(output_size, tuple) else (output_size, output_size)
        self.spatial_scale, self.sampling_ratio = spatial_scale, sampling_ratio
        self.aligned = options.get("aligned", True)

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        ratio = self.sampling_ratio or -1
        return torchvision.ops.roi_align(x, rois, self.output_size, self.spatial_scale, ratio, self.aligned)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: Any, class_agnostic: bool = False) -> Any:
    keep = torchvision.ops.batched_nms(boxes, scores, idxs, nms_cfg["iou_threshold"])
    return torch.cat([boxes[keep], scores[keep][:, None]], 1), keep


class _Absent(nn.Module):
    pass


class _Operators(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Absent,), {})


class _Finder:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("mmcv.ops") else None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = _Operators(spec.name)
        module.RoIAlign, module.batched_nms = RoIAlign, batched_nms
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.insert(0, _Finder())
sys.modules.setdefault("importlib_metadata", importlib.metadata)
