"""Checkpoints of MMDetection, MMSegmentation and MMPretrain: recognized, loaded with their settings, written back.

Names and shapes are those of the libraries' own models (`tests/data/openmmlab_names.json`). Predictions are compared
by `tests/peers/compare_openmmlab.py`.
"""

import functools
import itertools
import json
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from backbone_referee import slow, without_init

import chordate
from chordate.config import load_config
from chordate.contracts import FeatureSpec
from chordate.errors import CheckpointError
from chordate.necks.fpn import FPN
from chordate.ops.anchors import AnchorGenerator
from chordate.weights.candidates import formats
from chordate.weights.checkpoint_conversion import recognized_config, restored
from chordate.weights.find_weights import find_weights
from chordate.weights.formats.format import Format
from chordate.weights.formats.openmmlab import class_names
from chordate.weights.formats.openmmlab_classifiers import MMPretrainResNet
from chordate.weights.formats.openmmlab_config import pixels, read_text
from chordate.weights.loading import load_checkpoint
from chordate.weights.numerics import differing_settings, read_setting

TABLE = json.loads((Path(__file__).parent / "data/openmmlab_names.json").read_text())
OURS = {
    "mmdet/faster-rcnn_r50_fpn_1x_coco": "faster-rcnn_r50_fpn_1x_coco",
    "mmdet/faster-rcnn_r50-caffe_fpn_1x_coco": "faster-rcnn_r50_fpn_1x_coco",
    "mmdet/mask-rcnn_r50_fpn_1x_coco": "mask-rcnn_r50_fpn_1x_coco",
    "mmdet/cascade-rcnn_r50_fpn_1x_coco": "cascade-rcnn_r50_fpn_1x_coco",
    "mmdet/cascade-mask-rcnn_r50_fpn_1x_coco": "cascade-mask-rcnn_r50_fpn_1x_coco",
    "mmdet/retinanet_r50_fpn_1x_coco": "retinanet_r50_fpn_1x_coco",
    "mmdet/mask-rcnn_r50_fpn_gn-all_2x_coco": "mask-rcnn_r50_fpn_1x_coco",
    "mmseg/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024": "deeplabv3_r50c_d8_80k_cityscapes",
    "mmseg/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024": "deeplabv3plus_r50c_d8_80k_cityscapes",
    "mmseg/fcn_r50-d8_4xb2-80k_cityscapes-512x1024": "fcn_r50c_d8_torchvision",
    "mmseg/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024": "pspnet_r50c_d8_80k_cityscapes",
    "mmseg/fpn_r50_4xb2-80k_cityscapes-512x1024": "semantic-fpn_r50c_fpn_80k_cityscapes",
    "mmpretrain/resnet50_8xb32_in1k": "r50_imagenet",
    "mmpretrain/resnetv1c50_8xb32_in1k": "r50c_imagenet",
    "mmpretrain/resnetv1d50_8xb32_in1k": "resnet50d_imagenet",
}
LIBRARIES = {"mmdet": "mmdetection", "mmseg": "mmsegmentation", "mmpretrain": "mmpretrain"}


def with_pools(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """Rename ResNetV1c's tensors to ResNetV1d's, whose strided shortcuts have an average pool as layer 0."""
    layer = re.compile(r"(layer[234]\.0\.downsample\.)(\d)")
    return {layer.sub(lambda m: f"{m[1]}{int(m[2]) + 1}", name): shape for name, shape in shapes.items()}


V1C = "resnet50_v1c_mmpretrain"
TABLE["backbones"]["resnet50_v1d_mmpretrain"] = with_pools(TABLE["backbones"][V1C])
TABLE["models"]["mmpretrain/resnetv1d50_8xb32_in1k"] = {
    **TABLE["models"]["mmpretrain/resnetv1c50_8xb32_in1k"], "backbone": "resnet50_v1d_mmpretrain"
}  # fmt: skip

# Cascade Mask R-CNN has Cascade R-CNN's tensors, and the mask head of Mask R-CNN in each stage.
MASK_HEAD = "roi_head.mask_head."
TABLE["models"]["mmdet/cascade-mask-rcnn_r50_fpn_1x_coco"] = {
    "backbone": "resnet50",
    "shapes": TABLE["models"]["mmdet/cascade-rcnn_r50_fpn_1x_coco"]["shapes"] | {
        name.replace(MASK_HEAD, f"{MASK_HEAD}{stage}."): shape
        for name, shape in TABLE["models"]["mmdet/mask-rcnn_r50_fpn_1x_coco"]["shapes"].items()
        for stage in range(3) if name.startswith(MASK_HEAD)
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_init():
    """Skip random initialization, since the models load the weights of a checkpoint."""
    with without_init():
        yield


@functools.cache
def random_numbers() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(20_000_000)


def state_of(name: str) -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes of a library's model; variances are positive.

    `num_batches_tracked` is added, which the table lacks: every BatchNorm of the libraries has it, even with constant
    statistics.
    """
    entry, start = TABLE["models"][name], itertools.count(step=101)
    shapes = {**TABLE["backbones"][entry["backbone"]], **entry["shapes"]}
    state = {
        key: random_numbers()[next(start) :][: math.prod(shape)].view(shape).clone() for key, shape in shapes.items()
    }
    counters = [key.replace("running_mean", "num_batches_tracked") for key in state if key.endswith("running_mean")]
    return state | {key: torch.tensor(7) for key in counters}


def build(name: str, contents: dict) -> chordate.Model:
    config, overrides = recognized_config(find_weights(contents))
    assert config == OURS[name]
    return chordate.build_model(load_config(config, overrides), checkpoint=contents)


# Marked slow: all their tensors are also in the other networks.
AGAIN = [
    "mmdet/faster-rcnn_r50_fpn_1x_coco", "mmdet/faster-rcnn_r50-caffe_fpn_1x_coco",
    "mmseg/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024",
]  # fmt: skip


@pytest.mark.parametrize("name", [*(name for name in TABLE["models"] if name not in AGAIN), *slow(*AGAIN)])
def test_every_tensor_loads_and_is_written_back_bit_for_bit(name):
    state = state_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the recognized config has all settings of the weights
        model = build(name, {"state_dict": state, "meta": {}})
    assert [key for key in model.load_report.settings if read_setting(model, key) is None] == []
    report, library = model.load_report, LIBRARIES[name.partition("/")[0]]
    assert report.format == library
    assert not report.skipped and not report.missing
    written = restored(model, library)["state_dict"]
    without_counters = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    assert {key for key in written if not key.endswith("num_batches_tracked")} == without_counters.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in without_counters.items())


def test_retinanets_anchors_are_reordered():
    """MMDetection's AnchorGenerator lists the scales of each ratio (`scale_major`): the widths of a cell's anchors are
    `(w * w_ratios[:, None] * scales[None, :]).view(-1)`. Scores and boxes must stay with their anchor."""
    scales = 4 * 2 ** (torch.arange(3) / 3)
    ratios = torch.tensor([0.5, 1.0, 2.0])
    widths, heights = (8 * (f[:, None] * scales[None, :]).view(-1) for f in (1 / ratios.sqrt(), ratios.sqrt()))
    theirs = torch.stack((-widths, -heights, widths, heights), dim=1) / 2
    state = state_of("mmdet/retinanet_r50_fpn_1x_coco")
    state["bbox_head.retina_reg.bias"] = theirs.flatten()
    state["bbox_head.retina_cls.bias"] = theirs.sum(1)[:, None].expand(-1, 80).flatten() + torch.arange(80).repeat(9)
    model = chordate.build_model("retinanet_r50_fpn_1x_coco", pretrained=False)
    with pytest.warns(UserWarning, match="size_divisor"):
        load_checkpoint(model, {"state_dict": state})
    anchors = AnchorGenerator([8], sizes_per_stride=[[float(s) for s in scales]][0]).base[0]
    torch.testing.assert_close(model.head.bbox_pred.bias.view(9, 4), anchors)
    torch.testing.assert_close(model.head.bbox_pred.bias.view(9, 4), model.head.anchors.base[0])
    scores = model.head.cls_score.bias.view(9, 80)
    torch.testing.assert_close(scores, anchors.sum(1)[:, None] + torch.arange(80))


def test_the_pooled_features_of_aspp_move_from_first_to_last():
    """MMSegmentation's ASPPHead concatenates `image_pool`, then `aspp_modules`."""
    state = state_of("mmseg/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024")
    channels = 512
    weight = state["decode_head.bottleneck.conv.weight"]
    for number in range(5):
        weight[:, number * channels : (number + 1) * channels] = number  # 0: pooled, 1 … 4: branches
    model = build("mmseg/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024", {"state_dict": state})
    ours = model.head.aspp.project[0].weight.unflatten(1, (5, channels)).mean((0, 2, 3, 4))
    assert ours.tolist() == [1, 2, 3, 4, 0]


def format_of(name: str, text: str = "") -> tuple[Format, dict[str, torch.Tensor]]:
    """The format of a library's checkpoint with the config `text`, and its state dict: expanded tensors of ones."""
    entry = TABLE["models"][name]
    shapes = {**TABLE["backbones"][entry["backbone"]], **entry["shapes"]}
    state = {key: torch.ones(1).expand(shape) for key, shape in shapes.items()}
    (found,) = [
        one for one in formats({"meta": {"cfg": text}}) if one.recognizes(state) and one.library in LIBRARIES.values()
    ]
    return found, state


@pytest.mark.parametrize(("changes", "relu"), [("", False), ("relu_before_extra_convs=True", True)])
def test_the_second_extra_level_of_retinanet_is_computed_without_a_relu_by_default(changes, relu):
    """MMDetection's `FPN.forward`: `F.relu(outs[-1])` only with `relu_before_extra_convs`."""
    format, state = format_of("mmdet/retinanet_r50_fpn_1x_coco", f"model = dict(neck=dict(type='FPN', {changes}))")
    assert format.settings(state)["neck.extra_relu"] is relu
    weight = torch.zeros(1, 1, 3, 3)
    weight[..., 1, 1] = 1  # an identity kernel
    neck = FPN({"c5": FeatureSpec(1, 32)}, 1, extra="c5", extra_relu=format.settings(state)["neck.extra_relu"])
    neck.load_state_dict({**neck.state_dict(), "extra.p6.weight": weight, "extra.p7.weight": weight})
    pyramid = neck({"c5": torch.full((1, 1, 8, 8), -1.0)})
    assert pyramid["p6"].unique().item() == -1 and pyramid["p7"].unique().item() == (0 if relu else -1)


@pytest.mark.parametrize(
    ("backbone", "norm"),
    [
        ("", {"type": "FrozenBN", "trainable": True}),
        ("norm_eval=True, norm_cfg=dict(type='BN', requires_grad=False)", {"type": "FrozenBN", "trainable": False}),
        ("norm_eval=False, norm_cfg=dict(type='BN', requires_grad=True)", {"type": "BN"}),
    ],
)
def test_detectors_train_the_weights_of_batch_norms_but_not_their_statistics(backbone, norm):
    """MMDetection's ResNet has `norm_eval=True` by default, but its BatchNorms still have `num_batches_tracked`."""
    format, state = format_of("mmdet/faster-rcnn_r50_fpn_1x_coco", f"model = dict(backbone=dict({backbone}))")
    state |= {"backbone.bn1.num_batches_tracked": torch.tensor(7)}
    assert format.config(state)[1]["model.backbone.norm"] == {"_delete_": True, **norm}
    segmenter, state = format_of("mmseg/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024")
    state |= {"backbone.stem.7.num_batches_tracked": torch.tensor(7)}
    assert segmenter.config(state)[1]["model.backbone.norm"]["type"] == "BN"  # MMSegmentation trains the statistics


def test_settings_that_the_tensors_do_not_show_come_from_the_config():
    format, state = format_of(
        "mmdet/mask-rcnn_r50_fpn_1x_coco",
        """
model = dict(
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[1, 2, 3], std=[4, 5, 6], pad_size_divisor=64),
    backbone=dict(type='ResNet', style='caffe', norm_cfg=dict(type='BN', eps=0.001)),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=False)),
        mask_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0))))
""",
    )
    assert format.settings(state) == {
        "preprocess.bgr": True, "preprocess.mean": (1, 2, 3), "preprocess.std": (4, 5, 6), "size_divisor": 64,
        "backbone.style": "caffe", "backbone.norm.eps": 0.001, "rpn.anchors.rounded": False,
        "rpn.anchors.stride_from_grid": False, "box.aligned": False, "box.sampling_ratio": 2, "mask.aligned": True,
        "mask.sampling_ratio": 0,
    }  # fmt: skip
    assert format.guesses(state) == "" and "guessed" in format_of("mmdet/mask-rcnn_r50_fpn_1x_coco")[0].guesses(state)


def test_the_dilations_of_a_segmenter_are_compared_with_the_model():
    backbone = "dict(type='ResNetV1c', strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), multi_grid=(1, 2, 4))"
    format, state = format_of(
        "mmseg/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024", f"model = dict(backbone={backbone})"
    )
    with torch.device("meta"):
        plain, dilated = (
            chordate.build_backbone("resnet50c", **options)
            for options in ({"output_stride": 8}, {"output_stride": 16, "multi_grid": [1, 2, 4]})
        )
    settings = {key: value for key, value in format.settings(state).items() if key.startswith("backbone.")}
    differing = {"model.backbone.output_stride": 16, "model.backbone.multi_grid": (1, 2, 4)}
    assert differing_settings(plain, settings) == differing and differing_settings(dilated, settings) == {}


@pytest.mark.parametrize(
    ("model", "unsupported"),
    [
        ("backbone=dict(conv_cfg=dict(type='ConvAWS'))", ["backbone.conv_cfg=ConvAWS"]),
        ("decode_head=dict(align_corners=True)", ["decode_head.align_corners=True"]),
        ("neck=dict(conv_cfg=dict(type='ConvAWS'))", ["neck.conv_cfg=ConvAWS"]),
        ("decode_head=dict(conv_cfg=dict(type='ConvWS'))", ["decode_head.conv_cfg=ConvWS"]),
        ("backbone=dict(dcn=dict(type='DCN'), conv_cfg=None)", ["backbone.dcn"]),
        ("decode_head=dict(align_corners=False), neck=dict(conv_cfg=dict(type='Conv2d'))", []),
    ],
)
def test_loading_tells_what_no_model_of_chordate_has(model, unsupported):
    """The tensors of ConvAWS, and of ConvWS outside of MMDetection's R-CNNs, have the names of plain convolutions."""
    format, state = format_of("mmdet/mask-rcnn_r50_fpn_gn-all_2x_coco", f"model = dict({model})")
    assert format.unsupported(state) == unsupported
    backbone = chordate.build_backbone("resnet18")
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    weights |= {"head.fc.weight": torch.zeros(9, 512), "head.fc.bias": torch.zeros(9)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_checkpoint(backbone, {"state_dict": weights, "meta": {"cfg": f"model = dict({model})"}})
    concerns_backbone = [setting for setting in unsupported if setting.startswith("backbone.")]
    assert [str(one.message).partition(",")[0] for one in caught] == [
        f"the state dict: Chordate has no counterpart of {setting}" for setting in concerns_backbone
    ]


CAFFE = """
model = dict(
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0],
                           bgr_to_rgb=False, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, style='caffe'))
"""


@pytest.mark.parametrize("evidence", ["config", "statistics"])
def test_caffe_weights_need_bgr_and_the_stride_in_the_first_convolution(evidence):
    """Caffe weights are recognized by the checkpoint's config, or else by zero running means of the first norm."""
    state = state_of("mmdet/faster-rcnn_r50_fpn_1x_coco")
    if evidence == "statistics":
        state["backbone.bn1.running_mean"].zero_()
    meta = {"cfg": CAFFE} if evidence == "config" else {}
    model = build("mmdet/faster-rcnn_r50_fpn_1x_coco", {"state_dict": state, "meta": meta})
    assert model.preprocess.bgr and model.preprocess.std.flatten().tolist() == [1, 1, 1]
    assert model.backbone.layer2[0].conv1.stride == (2, 2) and model.size_divisor == 32


@pytest.mark.parametrize(
    "text",
    [
        "img_norm_cfg = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)",
        "x = {'mean': [1, 2, 3], 'std': (4, 5, 6), 'to_rgb': True}",
    ],
)
def test_mean_and_std_are_read_from_the_text_of_a_config(text):
    assert pixels(read_text(text)) == ((1, 2, 3), (4, 5, 6), False)


@pytest.mark.parametrize(
    "text",
    [
        "import os; os.system('x')",
        "dict(mean=open('x'), std=[1])",
        "(" * 10_000,
        "mean = [1]",
        "dict(mean='abc', std='abc')",
        "\0",
    ],
)
def test_a_config_that_is_not_literal_is_ignored_and_not_executed(text):
    assert pixels(read_text(text)) is None


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset_meta": {"classes": ["cat", "dog"]}},
        {"CLASSES": ("cat", "dog")},
        {"dataset_meta": {"CLASSES": ("cat", "dog")}},
    ],
)
def test_class_names_are_read_from_meta(meta):
    assert class_names({"meta": meta}) == ("cat", "dog")


@pytest.mark.parametrize(
    "meta", [None, [], {"CLASSES": "ab"}, {"CLASSES": [1, 2]}, {"CLASSES": ["a", "a"]}, {"dataset_meta": 3}]
)
def test_class_names_of_another_type_are_ignored(meta):
    assert class_names({"meta": meta}) == ()


@pytest.mark.parametrize(("names", "are_known"), [(["cat", "dog"], True), (["cat"], False), (None, False)])
def test_class_names_of_every_output_are_known(names, are_known):
    state = {"head.fc.weight": torch.zeros(2, 8)}
    assert MMPretrainResNet({"meta": {"CLASSES": names}}).has_names(state) == are_known


def test_fine_tuning_keeps_the_outputs_of_classes_with_the_same_name():
    """The background is the last class in MMDetection as in Chordate."""
    state = state_of("mmdet/faster-rcnn_r50_fpn_1x_coco")
    names = [f"thing {number}" for number in range(78)] + ["cat", "dog"]
    model = chordate.build_model("faster-rcnn_r50_fpn_1x_coco", classes=["dog", "bird"], pretrained=False)
    report = load_checkpoint(model, {"state_dict": state, "meta": {"CLASSES": names}}, strict=False)
    assert report.notes["box.cls_score.weight"] == "1 of 2 classes by name: dog"
    theirs = state["roi_head.bbox_head.fc_cls.weight"]
    assert torch.equal(model.box.cls_score.weight[[0, 2]], theirs[[79, 80]])
    assert torch.equal(model.box.bbox_pred.weight[:4], state["roi_head.bbox_head.fc_reg.weight"][-4:])


def test_weights_that_were_not_averaged_are_left_out():
    """mmcv's EMAHook stores the weights before averaging in the state dict, as `ema_backbone_conv1_weight`; mmengine's
    EMAHook stores them in `ema_state_dict`."""
    state = state_of("mmpretrain/resnet50_8xb32_in1k")
    extra = {f"ema_{name.replace('.', '_')}": tensor + 1 for name, tensor in state.items()}
    ema = {f"module.{name}": tensor + 1 for name, tensor in state.items()}
    contents = {"meta": {}, "ema_state_dict": {**ema, "steps": torch.tensor(3)}, "state_dict": {**state, **extra}}
    model = build("mmpretrain/resnet50_8xb32_in1k", contents)
    assert torch.equal(model.head.fc.weight, state["head.fc.weight"])


def test_a_cascades_mask_heads_are_refused_by_name():
    state = state_of("mmdet/cascade-rcnn_r50_fpn_1x_coco")
    state |= {f"roi_head.mask_head.{n}.conv_logits.weight": torch.zeros(80, 256, 1, 1) for n in range(3)}
    with pytest.raises(CheckpointError, match=r"not in the checkpoint: mask\.convs"):
        chordate.build_model("cascade-mask-rcnn_r50_fpn_1x_coco", checkpoint={"state_dict": state})
