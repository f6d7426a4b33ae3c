"""Random models of Detectron2, and their predictions on images, for comparison with the converted models.

Random weights are useless as they are: activations grow without limit, and no score exceeds the threshold. So the
statistics of all BatchNorms are set from the images, and the predictors are scaled so that there are many detections.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor, nn

# The standard deviation that each predictor's outputs are scaled to.
SPREAD = {
    "objectness_logits": 2.0,
    "anchor_deltas": 0.3,
    "cls_score": 3.0,
    "bbox_pred": 0.5,
    "mask_head.predictor": 2.0,
    "score_lowres": 2.0,
    "sem_seg_head.predictor": 3.0,
    "center_predictor": 0.3,
    "offset_predictor": 3.0,
}


def config(name: str, options: list[Any] = []) -> CfgNode:  # noqa: B006
    """A config of Detectron2's model zoo, or of its DeepLab projects, on the CPU, without weights."""
    if "deeplab" in name:
        import detectron2
        from detectron2.projects.deeplab import add_deeplab_config
        from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

        cfg = get_cfg()
        is_panoptic = name.startswith("panoptic_deeplab")
        (add_panoptic_deeplab_config if is_panoptic else add_deeplab_config)(cfg)
        project = "Panoptic-DeepLab" if is_panoptic else "DeepLab"
        (file,) = (Path(detectron2.__file__).parents[1] / f"projects/{project}/configs").glob(f"*/{name}.yaml")
        cfg.merge_from_file(str(file))
    else:
        cfg = model_zoo.get_config(f"{name}.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])
    _replace(cfg, "SyncBN", "BN")  # `random_model` calibrates BatchNorm2d; SyncBN's tensors are the same
    return cfg


def random_model(cfg: CfgNode, images: list[Tensor], seed: int = 0) -> nn.Module:
    """Build a model with random weights that are calibrated on the images, uint8 `[3, H, W]` RGB.

    If PIXEL_STD is 1, frozen norms are like those of MSRA's weights: the statistics are folded into weight and bias.
    """
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    fold = set(cfg.MODEL.PIXEL_STD) == {1.0}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            handles.append(module.register_forward_pre_hook(_calibrate))
        spread = next((value for end, value in SPREAD.items() if name.endswith(end)), None)
        if spread is not None:
            handles.append(module.register_forward_hook(_scale(spread)))
    predict(model, cfg, images)
    for handle in handles:
        handle.remove()
    for module in model.modules():
        if fold and isinstance(module, FrozenBatchNorm2d):
            _fold(module)
    return model


@contextmanager
def float64() -> Iterator[None]:
    """Keep float64 where Detectron2 would cast to float32: in box decoding, NMS and `Boxes`."""
    own = Boxes.__init__
    Boxes.__init__ = lambda self, boxes: setattr(self, "tensor", boxes.reshape(-1, 4))
    try:
        with patch.object(Tensor, "float", lambda x: x):
            yield
    finally:
        Boxes.__init__ = own


def in_float64(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Convert a model to float64, with the config's mean and std: the model has rounded them to float32."""
    model.double()
    for name, values in (("pixel_mean", cfg.MODEL.PIXEL_MEAN), ("pixel_std", cfg.MODEL.PIXEL_STD)):
        getattr(model, name).copy_(torch.tensor(values, dtype=torch.float64)[:, None, None])
    return model


@torch.no_grad()
def predict(model: nn.Module, cfg: CfgNode, images: list[Tensor], sizes: list[tuple[int, int]] | None = None) -> Any:
    """Predict on images; outputs are scaled to `sizes`, height and width per image, by default the images' own."""
    dtype = next(model.parameters()).dtype
    inputs = []
    for index, image in enumerate(images):
        height, width = sizes[index] if sizes else image.shape[-2:]
        pixels = image.flip(0) if cfg.INPUT.FORMAT == "BGR" else image
        inputs.append({"image": pixels.to(dtype), "height": height, "width": width})
    return [model([one])[0] for one in inputs]


@torch.no_grad()
def _calibrate(module: Any, inputs: tuple[Tensor, ...]) -> None:
    if getattr(module, "calibrated", False):
        return
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
    module.running_mean.copy_(mean)
    module.running_var.copy_(variance.clamp(min=1e-3))
    module.calibrated = True


def _scale(spread: float) -> Any:
    """A forward hook that scales a predictor's weights so that its first outputs have this standard deviation."""

    @torch.no_grad()
    def scale(module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        if getattr(module, "calibrated", False) or not output.numel():
            return None
        factor = spread / float((output - output.mean()).std().clamp(min=1e-12))
        module.weight.mul_(factor)
        module.bias.zero_()
        module.calibrated = True
        return module(*inputs)

    return scale


@torch.no_grad()
def _fold(norm: FrozenBatchNorm2d) -> None:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    norm.bias.sub_(norm.running_mean * scale)
    norm.weight.copy_(scale)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


def _replace(node: CfgNode, value: Any, by: Any) -> None:
    for key, item in node.items():
        if isinstance(item, CfgNode):
            _replace(item, value, by)
        elif item == value:
            node[key] = by
