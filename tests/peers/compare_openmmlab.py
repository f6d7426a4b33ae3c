"""Compares random models of MMDetection, MMSegmentation and MMPretrain with ours, which load their checkpoints.

Run in an environment with these libraries (see `mmcv_ops_stub.py`):
`python tests/peers/compare_openmmlab.py [CONFIG …]`. Prints a table in Markdown. `--names FILE` writes the names and
shapes of the tensors of the libraries' models; `tests/data/openmmlab_names.json` lists equal backbones once.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import MethodType
from typing import Any

import mmcv_ops_stub  # noqa: F401
import torch
from differences import (
    DEVIATIONS,
    Difference,
    Level,
    compare_detections,
    compare_levels,
    deviation,
    our_levels,
)
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor, nn

import chordate
from chordate.config import load_config
from chordate.migration.checkpoint_config import checkpoint_config
from chordate.structures import Batch, ImageInfo
from chordate.weights.checkpoint_conversion import restored
from chordate.weights.find_weights import find_weights

warnings.filterwarnings("ignore")
SIZE = (256, 320)
# The standard deviation that each predictor's outputs are scaled to.
SPREAD = {
    "rpn_cls": 2.0,
    "rpn_reg": 0.3,
    "fc_cls": 3.0,
    "fc_reg": 0.5,
    "conv_logits": 2.0,
    "retina_cls": 1.5,
    "retina_reg": 0.3,
    "conv_seg": 3.0,
}
CONFIGS = {
    "mmdet": [
        "faster_rcnn/faster-rcnn_r50_fpn_1x_coco",
        "faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco",
        "mask_rcnn/mask-rcnn_r50_fpn_1x_coco",
        "gn/mask-rcnn_r50_fpn_gn-all_2x_coco",
        "gn+ws/mask-rcnn_r50_fpn_gn-ws-all_2x_coco",
        "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco",
        "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco",
        "retinanet/retinanet_r50_fpn_1x_coco",
    ],
    "mmseg": [
        "deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024",
        "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024",
        "fcn/fcn_r50-d8_4xb2-80k_cityscapes-512x1024",
        "pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024",
        "sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024",
    ],
    "mmpretrain": ["resnet/resnet50_8xb32_in1k", "resnet/resnetv1c50_8xb32_in1k", "resnet/resnetv1d50_8xb32_in1k"],
}


def read_config(library: str, name: str) -> Config:
    root = Path(str(import_module(library).__file__)).parent
    return Config.fromfile(root / f".mim/configs/{name}.py")


def build(library: str, cfg: Config) -> nn.Module:
    """The library's model with random weights; no pretrained weights are downloaded."""
    import_module(f"{library}.models")
    init_default_scope(library)
    model = ConfigDict(cfg.model)
    if library == "mmpretrain":
        model["data_preprocessor"] = cfg.data_preprocessor
    _drop_pretrained(model)
    return import_module(f"{library}.registry").MODELS.build(model)


def _drop_pretrained(part: Any) -> None:
    if isinstance(part, dict):
        part.pop("init_cfg", None)
        part.pop("pretrained", None)
        if part.get("type") == "SyncBN":
            part["type"] = "BN"  # `calibrate` needs BatchNorm2d; SyncBN's tensors are the same
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ():
        _drop_pretrained(value)


@torch.no_grad()
def calibrate(model: nn.Module, run: Any) -> None:
    """Set the norms' statistics and the scale of the predictors from an image, which `run` passes through the model."""
    torch.manual_seed(0)
    for name, part in model.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, std=0.1)
            part.register_forward_pre_hook(_set_statistics)
        elif name.rpartition(".")[2] in SPREAD:
            nn.init.normal_(part.weight, std=0.01)
            part.spread = SPREAD[name.rpartition(".")[2]]
            part.register_forward_hook(_scale)
    run()
    for part in model.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()


def _set_statistics(norm: Any, inputs: tuple[Tensor]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3), unbiased=False) + 1e-3)


def _scale(layer: Any, inputs: Any, output: Tensor) -> Tensor:
    factor = layer.spread / output.std()
    if hasattr(layer, "scaled"):  # a layer shared by several levels is called for each; later calls only scale down
        factor = factor.clamp(max=1)
    layer.scaled = True
    layer.weight.mul_(factor)
    layer.bias.zero_()
    return output * factor


def compare(library: str, name: str) -> tuple[Difference, list[str]]:
    """Make a random model of a config, load its checkpoint, and compare the predictions for one image.

    Returns:
        The differences (those of the logits as `levels`, if the model is not a detector), and the names of the tensors
        that differ after conversion back to the library.
    """
    cfg = read_config(library, name)
    model = build(library, cfg).eval()
    torch.manual_seed(1)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 20) * 255, SIZE, mode="bicubic").clamp(0, 255).byte()
    with torch.no_grad():
        x = model.data_preprocessor(
            {"inputs": [image[0].flip(0)]} if library != "mmpretrain" else {"inputs": image.flip(1)}
        )
        x = x["inputs"].double()
        run = lambda: _predict(library, model, x)  # noqa: E731
        calibrate(model.double(), run)
        model.float().double()  # rounds the weights to the file's precision
        state = {
            key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in model.state_dict().items()
        }
        standardized = standardized_weights(model, state)
        use_weights(model, standardized)
        expected = run()
    contents = {"state_dict": state, "meta": {"cfg": cfg.pretty_text, "dataset_meta": {}}}
    weights = find_weights(contents)
    config, overrides, _ = checkpoint_config(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # fails if a setting differs from that of the weights
        ours = chordate.build_model(load_config(config, overrides), checkpoint=contents)
    back = restored(ours, {"mmdet": "mmdetection", "mmseg": "mmsegmentation"}.get(library, library))["state_dict"]
    kept = [key for key in state if not key.endswith("num_batches_tracked")]
    written = state | standardized  # as weights of plain convolutions
    changed = [key for key in kept if key not in back or not torch.equal(back[key], written[key])]
    batch = Batch(image, torch.tensor([SIZE]), [ImageInfo(0, "image", *SIZE)])
    ours = ours.double()
    with torch.no_grad():
        if library != "mmdet":
            found = deviation(_logits(ours, batch), expected)
            return Difference(expected.numel(), expected.numel() if found <= DEVIATIONS else 0, levels=found), changed
        names = ("bboxes", "scores", "labels", "masks")
        difference = compare_detections(ours.predict(batch)[0], *(expected.get(key) for key in names))
        return difference._replace(levels=compare_levels(our_levels(ours, batch), their_levels(model, x))), changed


def standardized_weights(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with which the ConvWS layers of a model convolve, by the formula of `mmcv.cnn.ConvWS2d`."""
    from mmcv.cnn import ConvWS2d

    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ConvWS2d):
            own = state[f"{name}.weight"]
            flat = own.view(len(own), -1)
            mean, std = (x.view(-1, 1, 1, 1) for x in (flat.mean(dim=1), flat.std(dim=1)))
            weights[f"{name}.weight"] = (own - mean) / (std + layer.eps)
    return weights


def use_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Make plain convolutions of the ConvWS layers, with weights that were standardized in float32: in float64, the
    results would differ from the float32 of a file by more than the bounds of the comparison."""
    for name, weight in weights.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        layer.weight.data = weight.double()
        layer.forward = MethodType(nn.Conv2d.forward, layer)


def their_levels(model: Any, x: Tensor) -> list[Level]:
    """The levels of a model of MMDetection with an RPN or a RetinaNet head."""
    maps = model.extract_feat(x)
    head = model.rpn_head if hasattr(model, "rpn_head") else model.bbox_head
    priors = head.prior_generator.grid_priors([part.shape[-2:] for part in maps], dtype=x.dtype, device=x.device)
    levels = []
    for part, anchors, logits, deltas in zip(maps, priors, *head(maps), strict=True):
        rows = [own[0].permute(1, 2, 0).reshape(len(anchors), -1) for own in (logits, deltas)]
        levels.append(Level(part, anchors, rows[0], head.bbox_coder.decode(anchors, rows[1])))
    return levels


def _logits(model: Any, batch: Batch) -> Tensor:
    if hasattr(model, "window"):
        return model.logits(batch.images, batch.sizes)
    return model.logits(model.preprocess(batch.images, batch.sizes))


def _predict(library: str, model: Any, x: Tensor) -> Any:
    if library == "mmseg":
        return model._forward(x)
    if library == "mmpretrain":
        return model(x, mode="tensor")
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head
    from mmdet.structures import DetDataSample

    paste = fcn_mask_head._do_paste_mask  # fails on mixed float32 and float64
    fcn_mask_head._do_paste_mask = lambda masks, boxes, *args, **options: paste(
        masks.float(), boxes.float(), *args, **options
    )
    sample = DetDataSample(metainfo={"img_shape": SIZE, "ori_shape": SIZE, "scale_factor": (1.0, 1.0)})
    return model.predict(x, [sample], rescale=True)[0].pred_instances


def main() -> None:
    if sys.argv[1:2] == ["--names"]:
        names = {
            f"{library}/{name.rpartition('/')[2]}": {
                key: list(tensor.shape)
                for key, tensor in build(library, read_config(library, name)).state_dict().items()
            }
            for library, configs in CONFIGS.items()
            for name in configs
        }
        Path(sys.argv[2]).write_text(json.dumps(names))
        return
    print("| model | compared | the same | boxes / px | scores | levels | masks | tensors changed in the round trip |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for library, configs in CONFIGS.items():
        for name in configs:
            if not sys.argv[1:] or any(word in name for word in sys.argv[1:]):
                found, changed = compare(library, name)
                print(f"| {name} | {found.row()} | {', '.join(changed[:3]) or 'none'} |", flush=True)


if __name__ == "__main__":
    main()
