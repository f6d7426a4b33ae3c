"""The config that `chordate convert` prints has the settings of the config in an OpenMMLab checkpoint."""

import json
from pathlib import Path

import pytest
import torch

import chordate
from chordate.composition import nested
from chordate.config import load_config
from chordate.migration.checkpoint_config import checkpoint_config
from chordate.migration.config_writer import write_config
from chordate.weights.find_weights import Weights

TABLE = json.loads((Path(__file__).parent / "data/openmmlab_names.json").read_text())
DEEPLAB = "mmseg/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024"
FASTER = "mmdet/faster-rcnn_r50_fpn_1x_coco"
# The model of deeplabv3_r50-d16-mg124_4xb2-40k_cityscapes-769x769, as MMSegmentation writes it into `meta.cfg`.
MULTI_GRID = """
crop_size = (769, 769)
norm_cfg = dict(requires_grad=True, type='SyncBN')
model = dict(
    type='EncoderDecoder', pretrained=None,
    data_preprocessor=dict(bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], pad_val=0,
                           seg_pad_val=255, size=(769, 769), type='SegDataPreProcessor'),
    backbone=dict(contract_dilation=True, depth=50, dilations=(1, 1, 1, 2), multi_grid=(1, 2, 4), norm_eval=False,
                  norm_cfg=dict(requires_grad=True, type='SyncBN'), num_stages=4, out_indices=(0, 1, 2, 3),
                  strides=(1, 2, 2, 1), style='pytorch', type='ResNetV1c'),
    decode_head=dict(align_corners=True, channels=512, dilations=(1, 12, 24, 36), dropout_ratio=0.2, in_channels=2048,
                     in_index=3, norm_cfg=dict(requires_grad=True, type='SyncBN'), num_classes=19, type='ASPPHead',
                     loss_decode=dict(loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=False)),
    auxiliary_head=dict(align_corners=True, channels=256, concat_input=False, dropout_ratio=0.1, in_channels=1024,
                        in_index=2, norm_cfg=dict(requires_grad=True, type='SyncBN'), num_classes=19, num_convs=1,
                        type='FCNHead', loss_decode=dict(loss_weight=0.4, type='CrossEntropyLoss', use_sigmoid=False)),
    test_cfg=dict(crop_size=(769, 769), mode='slide', stride=(513, 513)), train_cfg=dict())
optim_wrapper = dict(clip_grad=None, optimizer=dict(lr=0.01, type='SGD'), type=OptimWrapper)
"""
# Parts of a Faster R-CNN config of MMDetection 2, which has no data_preprocessor: the mean is in `img_norm_cfg`, and
# the padding is in the test pipeline.
OLD = """
model = dict(
    type='FasterRCNN',
    backbone=dict(type='mmdet.ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
                  norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True, style='caffe'),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(type='RPNHead', in_channels=256, feat_channels=256,
                  anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0],
                                        strides=[4, 8, 16, 32, 64]),
                  loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    roi_head=dict(type='StandardRoIHead',
                  bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=256, featmap_strides=[4, 8, 16, 32],
                                          roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2)),
                  bbox_head=dict(type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024, num_classes=80,
                                 bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]))))
test_cfg = dict(rpn=dict(nms_pre=900, nms=dict(type='nms', iou_threshold=0.6)),
                rcnn=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.4), max_per_img=50))
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
data = dict(samples_per_gpu=2, test=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug',
            transforms=[dict(type='Resize', keep_ratio=True), dict(type='Pad', size_divisor=64)])]))
"""


def weights(name: str, text: str | None) -> Weights:
    """A checkpoint of a library's model: tensors that use no memory, and the config `text` (None: no config)."""
    entry = TABLE["models"][name]
    shapes = {**TABLE["backbones"][entry["backbone"]], **entry["shapes"]}
    state = {key: torch.ones(1).expand(shape) for key, shape in shapes.items()}
    return Weights(state, None, "file.pth", {"meta": {"cfg": text}} if text else {})


def build(name: str, text: str | None) -> tuple[chordate.Model, list[str]]:
    """The model of the printed config, built on the meta device, and the config's notes."""
    base, overrides, notes = checkpoint_config(weights(name, text))
    with torch.device("meta"):
        model = chordate.build_model(load_config(base, overrides), pretrained=False)
    return model, notes


def test_a_segmenter_has_the_dilations_rates_and_windows_of_the_config():
    model, notes = build(DEEPLAB, MULTI_GRID)
    assert [block.conv2.dilation[0] for block in model.backbone.layer4] == [1, 2, 4]
    assert model.backbone.out_features["c5"].stride == 16
    assert [branch[0].dilation[0] for branch in model.head.aspp.branches] == [1, 12, 24, 36]
    assert (tuple(model.window.size), tuple(model.window.stride)) == ((769, 769), (513, 513))
    assert model.head.dropout.p == 0.2 and model.backbone.output_stride == 16
    table = "\n".join(notes)
    assert "model.decode_head.align_corners" in table and "model.auxiliary_head.align_corners" in table
    assert "guessed" not in table and "strides" not in table


def test_a_detector_of_version_2_has_the_settings_of_the_config():
    model, notes = build(FASTER, OLD)
    base, overrides, _ = checkpoint_config(weights(FASTER, OLD))
    assert load_config(base, overrides).model.rpn.anchors.sizes_per_stride == [4]
    assert (model.rpn.pre_nms_topk, model.rpn.nms_threshold) == ((2000, 900), 0.6)  # 2000 is from the packaged config
    assert (model.box.score_threshold, model.box.nms_threshold, model.box.detections_per_image) == (0.01, 0.4, 50)
    assert (model.box.pooler.sampling_ratio, model.size_divisor) == (2, 64)
    assert (model.backbone.style, model.preprocess.bgr) == ("caffe", True)
    assert not any(parameter.requires_grad for parameter in model.backbone.bn1.parameters())
    assert not any("guessed" in line for line in notes)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (None, "the file has no config"),
        ("model = dict(type='FCOS')", "the file's config cannot be converted: ConfigError: model.type"),
        ("model = dict(type='FasterRCNN', backbone=3)", "cannot be converted"),
        ("model = dict(type='FasterRCNN', roi_head=dict(bbox_head=[[]]))", "cannot be converted"),
        ("model = 3", ""),
        ("model = dict(" * 5000, "the file has no config"),
    ],
)
def test_without_a_readable_config_the_packaged_one_is_used_and_it_is_said(text, note):
    base, overrides, notes = checkpoint_config(weights(FASTER, text))
    assert base == "faster-rcnn_r50_fpn_1x_coco" and overrides["model.box.aligned"] is True
    assert note in " ".join(notes)


def test_text_of_the_config_stays_in_the_docstring(tmp_path):
    hostile = MULTI_GRID.replace("dropout_ratio=0.2", 'evil=\'"""\\nx = 1\\n\'')
    base, overrides, notes = checkpoint_config(weights(DEEPLAB, hostile))
    (tmp_path / "printed.py").write_text(write_config(notes, base, nested(overrides)))
    assert any("evil" in line for line in notes) and "x" not in load_config(tmp_path / "printed.py")
