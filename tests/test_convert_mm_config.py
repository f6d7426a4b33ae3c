"""`chordate convert-config` on configs in MMDetection's and MMSegmentation's layout."""

import pytest
from converted_configs import Result, write
from mmengine.config import Config

from chordate.migration.mm_files import read_mm

DATA = """
    root = 'data/coco/'
    size = (1333, 800)
    train_pipeline = [
        dict(type='LoadImageFromFile', backend_args=None),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=size, keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs')]
    test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=size, keep_ratio=True)]
    train_dataloader = dict(
        batch_size=2, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=True),
        batch_sampler=dict(type='AspectRatioBatchSampler'),
        dataset=dict(type='CocoDataset', data_root=root, ann_file='annotations/instances_train2017.json',
                     data_prefix=dict(img='train2017/'), filter_cfg=dict(filter_empty_gt=True, min_size=32),
                     pipeline=train_pipeline))
    val_dataloader = dict(batch_size=1, dataset=dict(
        type='CocoDataset', data_root=root, ann_file=f'annotations/instances_{"val"}2017.json',
        data_prefix=dict(img='val2017/'), pipeline=test_pipeline))
    val_evaluator = dict(type='CocoMetric', ann_file=root + 'annotations/instances_val2017.json')
    train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
    param_scheduler = [
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)]
    optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001))
    auto_scale_lr = dict(enable=False, base_batch_size=16)
    default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
"""
TRUNK = """
    preprocess = dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
                      bgr_to_rgb=True, pad_size_divisor=32)
    resnet = dict(type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1, norm_eval=True,
                  norm_cfg=dict(type='BN', requires_grad=False), style='pytorch',
                  init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'))
    nms = dict(type='nms', iou_threshold=0.5)
"""
RETINANET = (
    TRUNK
    + """
    model = dict(
        type='RetinaNet', data_preprocessor=preprocess, backbone=resnet,
        neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, start_level=1,
                  add_extra_convs='on_input', num_outs=5),
        bbox_head=dict(
            type='RetinaHead', num_classes=80, in_channels=256, stacked_convs=4, feat_channels=256,
            anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3,
                                  ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0] * 4, target_stds=[1.0] * 4),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                       sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
        test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=nms, max_per_img=100))
"""
)
FASTER = (
    TRUNK
    + """
    def_coder = dict(type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0], target_stds=[.1, .1, .2, .2])
    head = dict(type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024, roi_feat_size=7, num_classes=80,
                bbox_coder=def_coder, reg_class_agnostic=False,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0, loss_weight=2.0))
    rcnn = dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, match_low_quality=False),
                sampler=dict(type='RandomSampler', num=256, pos_fraction=0.3, neg_pos_ub=-1, add_gt_as_proposals=True))
    rpn_nms = dict(type='nms', iou_threshold=0.6)
    model = dict(
        type='FasterRCNN', data_preprocessor=preprocess, backbone=resnet,
        neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
        rpn_head=dict(
            type='RPNHead', in_channels=256, feat_channels=256,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8, 16, 32, 64]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[1.0, 1.0, 1.0, 1.0]),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor', out_channels=256, featmap_strides=[4, 8, 16, 32],
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=False)),
            bbox_head=head),
        train_cfg=dict(
            rpn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.2,
                                   match_low_quality=True),
                     sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5), allowed_border=-1, pos_weight=-1),
            rpn_proposal=dict(nms_pre=1500, max_per_img=800, nms=rpn_nms, min_bbox_size=0),
            rcnn=rcnn),
        test_cfg=dict(rpn=dict(nms_pre=900, max_per_img=700, nms=rpn_nms, min_bbox_size=0),
                      rcnn=dict(score_thr=0.01, nms=nms, max_per_img=50)))
"""
)
SEGMENTER = """
    norm_cfg = dict(type='SyncBN', requires_grad=True)
    crop_size = (512, 1024)
    model = dict(
        type='EncoderDecoder', pretrained='open-mmlab://resnet50_v1c',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53],
                               std=[58.395, 57.12, 57.375], bgr_to_rgb=True, size=crop_size),
        backbone=dict(type='ResNetV1c', depth=50, out_indices=(0, 1, 2, 3), dilations=(1, 1, 2, 4),
                      strides=(1, 2, 1, 1), norm_cfg=norm_cfg, norm_eval=False, contract_dilation=True),
        decode_head=dict(type='PSPHead', in_channels=2048, in_index=3, channels=512, pool_scales=(1, 2, 3, 6),
                         dropout_ratio=0.1, num_classes=19, norm_cfg=norm_cfg, align_corners=False,
                         loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
        auxiliary_head=dict(type='FCNHead', in_channels=1024, in_index=2, channels=256, num_convs=1,
                            concat_input=False, dropout_ratio=0.1, num_classes=19, norm_cfg=norm_cfg,
                            align_corners=False,
                            loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
        train_cfg=dict(), test_cfg=dict(mode='whole'))
    root = 'data/cityscapes/'
    train_dataloader = dict(batch_size=2, dataset=dict(
        type='CityscapesDataset', data_root=root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=[
            dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75), dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')]))
    val_dataloader = dict(batch_size=1, dataset=dict(
        type='CityscapesDataset', data_root=root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(2048, 1024), keep_ratio=True)]))
    optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005))
    param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=80000, by_epoch=False)]
    train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
    default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=8000))
"""


def converted(folder, base, changes="", name="mine"):
    files = {"base_py": base, "data_py": DATA if base is not SEGMENTER else "log_level = 'INFO'\n"}
    head = "_base_ = ['./base.py', './data.py']\n"
    return Result(write(folder, **files, **{f"{name}_py": head + changes}))


def test_reading_gives_what_mmengine_gets_by_running_the_file(tmp_path):
    path = write(
        tmp_path,
        base_py="""
            epochs = 12
            args = None
            names = ('a', 'b')
            loader = dict(dataset=dict(type='X', names=names, args=args), size=(2 * 4, 1 / 8))
            steps = [dict(type='A', end=500), dict(type='B', milestones=[8, 11])]
            gone = dict(old=1, both=2)
        """,
        mine_py="""
            _base_ = './base.py'
            pipeline = [dict(type='Load', args=_base_.args), dict(scales=[(1333, s) for s in (640, 800)])]
            same = dict(args={{_base_.args}})
            _base_.loader.dataset.pipeline = pipeline
            _base_.steps[1].milestones = [28, 34]
            loader = dict(dataset=dict(type='Y'))
            gone = dict(_delete_=True, new=f'{_base_.epochs}x')
            interval = _base_.epochs // 5 if _base_.epochs > 3 else -1
        """,
    )
    mine, theirs = read_mm(path), Config.fromfile(path).to_dict()
    assert {name: mine[name] for name in theirs} == theirs


def test_retinanet_has_the_parameters_of_mmdetections_docs(tmp_path):
    """37.74 M: docs/en/user_guides/useful_tools.md, Model Complexity, of MMDetection 3.3."""
    result = converted(tmp_path, RETINANET)
    assert not result.lost
    model = result.build()
    # The docs count trainable parameters: those of the frozen stem and first stage do not count, but weight and bias of
    # other BatchNorms do; in our FrozenBN, these are buffers.
    stages = [module for name, module in model.backbone.named_children() if name in ("layer2", "layer3", "layer4")]
    norms = sum(b.numel() for stage in stages for name, b in stage.named_buffers() if name.endswith(("weight", "bias")))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{(trained + norms) / 1e6:.2f}" == "37.74"
    assert (model.neck.extra_from, model.neck.extra_relu) == ("c5", False)  # relu_before_extra_convs is off by default
    assert (model.head.anchors.per_cell, model.size_divisor) == (9, 32)


def test_pspnet_has_the_parameters_of_mmsegmentations_docs(tmp_path):
    """48.98 M: docs/en/user_guides/useful_tools.md, Get the FLOPs and params, of MMSegmentation 1.2."""
    result = converted(tmp_path, SEGMENTER, name="pspnet_4xb2")
    assert set(result.lost.values()) <= {"nothing"}
    assert f"{sum(p.numel() for p in result.build().parameters()) / 1e6:.2f}" == "48.98"
    config = result.config
    assert (config.train.iterations, config.train.eval_every, config.train.sync_bn) == (80000, 8000, True)
    assert (config.optimizer.lr, config.optimizer.base_batch_size) == (0.01, 8)  # 4 GPUs × 2, from the file's name
    assert (config.schedule.type, config.schedule.power, config.schedule.min_factor) == ("poly", 0.9, 0.01)
    assert config.model.get("auxiliary_weight", 0.4) == 0.4
    losses = [loss for part in ("head", "auxiliary") for loss in config.model[part].losses]
    assert losses == [{"type": "CrossEntropy", "count_ignored": True}] * 2  # avg_non_ignore is off by default
    assert [step.type for step in config.train_data.pipeline] == [
        "RandomResize", "ClassLimitedCrop", "RandomHorizontalFlip", "PhotometricDistortion",
    ]  # fmt: skip


def test_faster_rcnn_settings(tmp_path):
    result = converted(tmp_path, FASTER)
    assert not result.lost
    model = result.build()
    assert (model.rpn.pre_nms_topk, model.rpn.post_nms_topk, model.rpn.nms_threshold) == ((1500, 900), (800, 700), 0.6)
    assert (model.rpn.anchors.per_cell, model.rpn.matcher.low_quality_iou) == (1, 0.2)
    assert [float(base[0, 2] - base[0, 0]) for base in build_real_anchors(result)] == [16, 32, 64, 128, 256]
    assert (model.box.batch_size_per_image, model.box.positive_fraction) == (256, 0.3)
    assert model.box.box_weights == pytest.approx((10, 10, 5, 5))  # 1 / target_stds
    assert (model.box.box_loss.beta, model.box.box_loss_weight) == (pytest.approx(1 / 9), 2.0)
    assert (model.box.score_threshold, model.box.nms_threshold, model.box.detections_per_image) == (0.01, 0.5, 50)
    assert (model.box.pooler.sampling_ratio, model.box.pooler.aligned) == (2, False)
    assert (result.config.schedule.milestones, result.config.train.epochs) == ([8, 11], 12)
    assert result.config.train_data.dataset.filter_empty


def build_real_anchors(result):
    from chordate.ops.anchors import AnchorGenerator

    return AnchorGenerator(strides=[4, 8, 16, 32, 64], **result.config.model.rpn.anchors).base


def test_caffe_style_dataset_classes_and_a_repeated_dataset(tmp_path):
    config = converted(
        tmp_path,
        FASTER,
        """
model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(style='caffe', init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet50_caffe')),
    roi_head=dict(bbox_head=dict(num_classes=2)))
train_dataloader = dict(dataset=dict(
    _delete_=True, type='RepeatDataset', times=3, dataset=dict(
        type='CocoDataset', ann_file='mine.json', data_prefix=dict(img='images/'),
        metainfo=dict(classes=('cat', 'dog')), pipeline=[dict(type='RandomResize', scale=[(900, 300), (900, 304)],
                                                              keep_ratio=True)])))
optim_wrapper = dict(type='AmpOptimWrapper', clip_grad=dict(max_norm=35, norm_type=2))
""",
    ).config
    assert (config.model.backbone.type, config.model.preprocess.bgr) == ("resnet50_caffe", True)
    assert config.model.backbone.pretrained.startswith("https://download.openmmlab.com/")
    assert (config.train.epochs, config.schedule.milestones, config.train.eval_every) == (36, [24, 33], 3)
    assert (config.train_data.dataset.annotations, config.train_data.dataset.classes) == ("mine.json", ["cat", "dog"])
    assert config.train_data.pipeline[0]["size"] == [300, 301, 302, 303, 304]
    assert (config.train.amp, config.train.clip_norm) == ("fp16", 35)


def test_a_cascade_carries_its_stages_and_reports_their_loss_weights(tmp_path):
    result = converted(
        tmp_path,
        FASTER,
        """
stages = [dict(_base_.head, reg_class_agnostic=True,
               bbox_coder=dict(_base_.def_coder, target_stds=[s, s, 2 * s, 2 * s])) for s in (0.1, 0.05, 0.04)]
steps = [dict(_base_.rcnn, assigner=dict(_base_.rcnn.assigner, pos_iou_thr=t, neg_iou_thr=t)) for t in (0.5, 0.6, 0.75)]
model = dict(
    type='CascadeRCNN', train_cfg=dict(rcnn=steps),
    roi_head=dict(type='CascadeRoIHead', num_stages=3, stage_loss_weights=[1, 0.5, 0.25], bbox_head=stages))
""",
    )
    assert result.lost == {"model.roi_head.stage_loss_weights": "training"}
    model = result.build()
    assert model.box.averaged == "logits"  # CascadeRoIHead averages the stages' cls_score, then applies the softmax
    stages = model.box.stages
    assert [stage.matcher.positive for stage in stages] == [0.5, 0.6, 0.75]
    assert [stage.box_weights[0] for stage in stages] == pytest.approx([10, 20, 25])


def test_losses_over_the_labeled_pixels_are_carried_over(tmp_path):
    config = converted(
        tmp_path,
        SEGMENTER,
        "loss = dict(loss_decode=dict(avg_non_ignore=True))\nmodel = dict(decode_head=loss, auxiliary_head=loss)\n",
    ).config
    assert not any(loss.get("count_ignored") for loss in config.model.head.get("losses") or [])


def test_dilations_of_a_multi_grid_are_the_grids_numbers(tmp_path):
    """MMSegmentation's `multi_grid` lists dilations; ours lists factors of the dilation."""
    result = converted(
        tmp_path,
        SEGMENTER,
        "model = dict(backbone=dict(dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1), multi_grid=(1, 2, 4)))\n",
    )
    backbone = result.build().backbone
    assert [block.conv2.dilation[0] for block in backbone.layer4] == [1, 2, 4]
    assert backbone.out_features["c5"].stride == 16


def test_an_fcn_concatenates_its_input(tmp_path):
    head = "dict(_base_.model.decode_head, _delete_=True, type='FCNHead', in_channels=2048, in_index=3, channels=512"
    rest = "num_convs=2, concat_input=True, dilation=6, num_classes=19, norm_cfg=_base_.norm_cfg"
    changes = f"model = dict(decode_head={head.replace('_base_.model.decode_head, ', '')}, {rest}))\n"
    model = converted(tmp_path, SEGMENTER, changes).build()
    assert model.head.concatenated[0].in_channels == 2048 + 512
    assert [conv[0].dilation for conv in model.head.convs] == [(6, 6), (6, 6)]
    assert model.head.concatenated[0].dilation == (1, 1)


def test_large_scale_jitter(tmp_path):
    changes = """
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute_range', crop_size=(1024, 1024), allow_negative_crop=True)]))
"""
    (jitter,) = converted(tmp_path, RETINANET, changes).config.train_data.pipeline
    assert (jitter.type, jitter.get("size", 1024), jitter.get("scale", [0.1, 2.0])) == (
        "LargeScaleJitter",
        1024,
        [0.1, 2.0],
    )


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ("dict(backbone=dict(dcn=dict(type='DCN')))", {"model.backbone.dcn": "predictions"}),
        ("dict(test_cfg=dict(nms=dict(type='soft_nms')))", {"model.test_cfg.nms.type": "predictions"}),
        ("dict(bbox_head=dict(loss_bbox=dict(type='IoULoss')))", {"model.bbox_head.loss_bbox.type": "training"}),
        ("dict(train_cfg=dict(assigner=dict(min_pos_iou=0.2)))", {"model.train_cfg.assigner.min_pos_iou": "training"}),
        ("dict(bbox_head=dict(unheard_of=3))", {"model.bbox_head.unheard_of": "predictions"}),
    ],
)  # fmt: skip
def test_settings_of_openmmlab_that_are_not_carried_over_are_reported(tmp_path, changes, lost):
    assert converted(tmp_path, RETINANET, f"model = {changes}\n").lost == lost
