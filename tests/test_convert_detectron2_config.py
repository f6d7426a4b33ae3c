"""`chordate convert-config` on configs in Detectron2's layout; FPN and RETINA have the settings of its Base files."""

import textwrap

import pytest
import torchvision
from converted_configs import Result, count_weights, write

FPN = """
    MODEL:
      BACKBONE: {NAME: build_resnet_fpn_backbone}
      RESNETS: {OUT_FEATURES: [res2, res3, res4, res5]}
      FPN: {IN_FEATURES: [res2, res3, res4, res5]}
      ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]]}
      RPN:
        IN_FEATURES: [p2, p3, p4, p5, p6]
        PRE_NMS_TOPK_TRAIN: 2000
        PRE_NMS_TOPK_TEST: 1000
        POST_NMS_TOPK_TRAIN: 1000
      ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5]}
      ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
      ROI_MASK_HEAD: {NUM_CONV: 4}
    DATASETS: {TRAIN: "('coco_2017_train',)", TEST: "('coco_2017_val',)"}
    SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.02, STEPS: "(60000, 80000)", MAX_ITER: 90000}
    INPUT: {MIN_SIZE_TRAIN: "(640, 672, 704, 736, 768, 800)"}
    VERSION: 2
"""
RETINA = """
    MODEL:
      META_ARCHITECTURE: RetinaNet
      BACKBONE: {NAME: build_retinanet_resnet_fpn_backbone}
      RESNETS: {OUT_FEATURES: [res3, res4, res5]}
      ANCHOR_GENERATOR:
        SIZES: !!python/object/apply:eval ["[[x, x * 2**(1.0/3), x * 2**(2.0/3)] for x in [32, 64, 128, 256, 512]]"]
      FPN: {IN_FEATURES: [res3, res4, res5]}
      RETINANET: {SMOOTH_L1_LOSS_BETA: 0.0}
    DATASETS: {TRAIN: "('coco_2017_train',)", TEST: "('coco_2017_val',)"}
    SOLVER: {BASE_LR: 0.01, STEPS: "(60000, 80000)", MAX_ITER: 90000}
"""


def converted(tmp_path, text, base=FPN):
    text = textwrap.dedent(text)
    return Result(write(tmp_path, base_yaml=base, mine_yaml="_BASE_: base.yaml\n" + text))


def test_mask_rcnn_has_torchvisions_weights_except_the_background_box_and_mask(tmp_path):
    ours = converted(tmp_path, "MODEL: {MASK_ON: True}").build()
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=81
    )  # 81 with the background, which has no box and no mask in Detectron2
    assert count_weights(ours) == count_weights(theirs) - 4 * (1024 + 1) - (256 + 1)


def test_a_plain_mask_rcnn_is_carried_over_completely(tmp_path):
    result = converted(tmp_path, "MODEL: {MASK_ON: True}")
    assert not result.lost
    config = result.config
    assert config.model.preprocess == {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "bgr": True}
    assert (config.train.iterations, config.schedule.milestones) == (90000, [60000, 80000])
    assert (config.schedule.warmup_iters, config.schedule.warmup_factor) == (1000, 0.001)  # Detectron2's defaults
    assert result.build().backbone.name == "ResNet-50 (caffe)"  # STRIDE_IN_1X1 is the default


def test_settings_of_all_sections(tmp_path):
    config = converted(tmp_path, """
        MODEL:
          MASK_ON: True
          WEIGHTS: detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl
          PIXEL_STD: [57.375, 57.12, 58.395]
          BACKBONE: {FREEZE_AT: 3}
          RESNETS: {DEPTH: 101, NUM_GROUPS: 32, WIDTH_PER_GROUP: 8, STRIDE_IN_1X1: False, NORM: GN}
          FPN: {OUT_CHANNELS: 128, NORM: GN}
          ANCHOR_GENERATOR: {SIZES: [[16], [32], [64], [128], [256]], ASPECT_RATIOS: [[0.25, 1.0]]}
          RPN: {NMS_THRESH: 0.6, BATCH_SIZE_PER_IMAGE: 128, IOU_THRESHOLDS: [0.2, 0.6], CONV_DIMS: [-1, -1]}
          ROI_HEADS: {NUM_CLASSES: 3, SCORE_THRESH_TEST: 0.1, NMS_THRESH_TEST: 0.4, BATCH_SIZE_PER_IMAGE: 256}
          ROI_BOX_HEAD: {NUM_CONV: 4, NUM_FC: 1, NORM: GN, POOLER_TYPE: ROIAlign, POOLER_SAMPLING_RATIO: 2}
          ROI_MASK_HEAD: {NUM_CONV: 2, CLS_AGNOSTIC_MASK: True}
        SOLVER: {IMS_PER_BATCH: 32, BASE_LR: 0.04, CHECKPOINT_PERIOD: 700, WEIGHT_DECAY: 0.001}
        INPUT: {MIN_SIZE_TRAIN: [500, 600], MAX_SIZE_TRAIN: 900, RANDOM_FLIP: none, MIN_SIZE_TEST: 600,
                MAX_SIZE_TEST: 1000}
        TEST: {DETECTIONS_PER_IMAGE: 50, EVAL_PERIOD: 800}
        DATALOADER: {SAMPLER_TRAIN: RepeatFactorTrainingSampler, REPEAT_THRESHOLD: 0.002}
    """).config  # fmt: skip
    model = config.model
    assert (model.backbone.type, model.backbone.frozen_stages) == ("resnext101_32x8d", 2)
    assert model.backbone.pretrained.endswith("/ImageNetPretrained/FAIR/X-101-32x8d.pkl")
    assert (model.neck.channels, model.neck.norm) == (128, "GN")
    assert model.rpn.anchors == {"sizes_per_stride": [4.0], "ratios": [0.25, 1.0]}
    assert (model.rpn.nms_threshold, model.rpn.batch_size_per_image, model.rpn.convs) == (0.6, 128, 2)
    assert (model.box.score_threshold, model.box.nms_threshold, model.box.detections_per_image) == (0.1, 0.4, 50)
    assert (model.box.aligned, model.box.sampling_ratio, model.box.trunk.convs) == (False, 2, 4)
    assert (model.mask.convs, model.mask.class_agnostic) == (2, True)
    assert config.fallback_meta.classes == 3
    assert [step.type for step in config.train_data.pipeline] == ["ResizeShortestEdge"]
    assert (config.train_data.pipeline[0]["size"], config.train_data.pipeline[0].max_size) == ([500, 600], 900)
    assert (config.val_data.pipeline[0]["size"], config.val_data.pipeline[0].max_size) == (600, 1000)
    assert (config.train_data.batch_size, config.train_data.class_balanced) == (4, 0.002)  # on 8 GPUs
    assert (config.optimizer.lr, config.optimizer.base_batch_size, config.optimizer.no_decay) == (0.04, 32, ["norm"])
    assert (config.train.save_every, config.train.eval_every) == (700, 800)


def test_a_config_without_settings_is_detectron2s_default_a_c4_model(tmp_path):
    result = Result(write(tmp_path, mine_yaml="DATASETS: {TRAIN: coco_2017_train, TEST: coco_2017_val}"))
    model = result.build()
    assert model.shares_trunk and model.size_divisor == 1
    assert (model.rpn.pre_nms_topk, model.rpn.anchors.per_cell) == ((12000, 6000), 15)
    assert (result.config.train.iterations, result.config.optimizer.lr) == (40000, 0.001)


def test_dc5(tmp_path):
    result = converted(
        tmp_path,
        """
        MODEL:
          BACKBONE: {NAME: build_resnet_backbone}
          RESNETS: {OUT_FEATURES: [res5], RES5_DILATION: 2}
          RPN: {IN_FEATURES: [res5]}
          ANCHOR_GENERATOR: {SIZES: [[32, 64, 128, 256, 512]]}
          ROI_HEADS: {IN_FEATURES: [res5]}
        """,
    )
    model = result.build()
    assert [block.conv2.dilation for block in model.backbone.layer4] == [(2, 2)] * 3
    assert {name: spec.stride for name, spec in model.head_features.items()} == {"c5": 16}


def test_retinanet_evaluates_the_expression_for_its_anchors(tmp_path):
    model = Result(write(tmp_path, mine_yaml=RETINA)).build()
    assert model.head.anchors.per_cell == 9
    assert list(model.head_features) == ["p3", "p4", "p5", "p6", "p7"]
    assert (model.size_divisor, model.head.matcher.positive, model.head.box_loss.beta) == (32, 0.5, 0.0)


def test_cascade_and_keypoints_and_panoptic(tmp_path):
    cascade = converted(
        tmp_path, "MODEL: {ROI_HEADS: {NAME: CascadeROIHeads}, ROI_BOX_CASCADE_HEAD: {IOUS: [0.4, 0.5, 0.6]}}"
    )
    assert [stage.matcher.positive for stage in cascade.build().box.stages] == [0.4, 0.5, 0.6]
    keypoint = converted(
        tmp_path,
        """
        MODEL: {KEYPOINT_ON: True, ROI_HEADS: {NUM_CLASSES: 1}, ROI_KEYPOINT_HEAD: {CONV_DIMS: [256, 256]}}
        DATASETS: {TRAIN: keypoints_coco_2017_train, TEST: keypoints_coco_2017_val}
        """,
    )
    assert len(keypoint.build().keypoint.convs) == 2
    assert keypoint.config.train_data.dataset.annotations == "annotations/person_keypoints_train2017.json"
    panoptic = converted(
        tmp_path,
        """
        MODEL:
          META_ARCHITECTURE: PanopticFPN
          MASK_ON: True
          SEM_SEG_HEAD: {LOSS_WEIGHT: 0.3}
          PANOPTIC_FPN: {COMBINE: {STUFF_AREA_LIMIT: 100}}
        DATASETS: {TRAIN: coco_2017_train_panoptic_separated, TEST: coco_2017_val_panoptic_separated}
        """,
    )
    model = panoptic.build()
    assert (model.merger.settings.stuff_area, model.semantic.losses[0].loss_weight) == (100, 0.3)
    assert (model.box.num_classes, model.semantic.logits.out_channels) == (80, 54)


def test_deeplab_has_the_settings_of_its_projects_models(tmp_path):
    """R-103 of Detectron2's projects/DeepLab has output stride 16, and its ASPP averages windows of the crop's size."""
    result = Result(
        write(
            tmp_path,
            mine_yaml="""
        MODEL:
          META_ARCHITECTURE: SemanticSegmentor
          BACKBONE: {NAME: build_resnet_deeplab_backbone, FREEZE_AT: 0}
          RESNETS: {DEPTH: 101, STEM_TYPE: deeplab, STEM_OUT_CHANNELS: 128, STRIDE_IN_1X1: False, RES5_DILATION: 2,
                    OUT_FEATURES: [res2, res5], NORM: SyncBN}
          SEM_SEG_HEAD: {NAME: DeepLabV3PlusHead, NUM_CLASSES: 19, CONVS_DIM: 256, NORM: SyncBN}
        INPUT: {CROP: {ENABLED: True, TYPE: absolute, SIZE: [512, 1024]}, FORMAT: RGB}
        DATASETS: {TRAIN: cityscapes_fine_sem_seg_train, TEST: cityscapes_fine_sem_seg_val}
        SOLVER: {LR_SCHEDULER_NAME: WarmupPolyLR, WARMUP_ITERS: 0}
        """,
        )
    )
    assert not result.lost
    model = result.build()
    assert result.config.model.backbone.type == "resnet101s"
    assert [block.conv2.dilation[0] for block in model.backbone.layer4] == [2, 4, 8]  # RES5_MULTI_GRID is [1, 2, 4]
    assert model.head.aspp.pooling_size == (32, 64)
    assert (model.head.low_level, model.head.losses[0].hard_fraction) == ("c2", 0.2)
    assert model.head.losses[0].count_ignored
    assert result.config.train.sync_bn and result.config.schedule.type == "poly"


@pytest.mark.parametrize(
    ("setting", "key", "effect"),
    [
        ("RESNETS: {DEFORM_ON_PER_STAGE: [False, True, True, True]}", "RESNETS.DEFORM_ON_PER_STAGE", "predictions"),
        ("ROI_BOX_HEAD: {POOLER_TYPE: ROIPool}", "ROI_BOX_HEAD.POOLER_TYPE", "predictions"),
        ("RPN: {BBOX_REG_LOSS_TYPE: diou}", "RPN.BBOX_REG_LOSS_TYPE", "training"),
        ("RPN: {UNHEARD_OF: 3}", "RPN.UNHEARD_OF", "predictions"),  # nothing is lost silently
        ("MY_PROJECT: {SETTING: 3}", "MY_PROJECT", "predictions"),
    ],
)
def test_what_is_not_carried_over_is_reported(tmp_path, setting, key, effect):
    result = converted(tmp_path, f"MODEL: {{{setting}}}")
    assert result.lost == {f"MODEL.{key}": effect}
    assert f"MODEL.{key}" in result.text  # in the docstring of the new config


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("MODEL: {KEYPOINT_ON: True, ROI_KEYPOINT_HEAD: {NUM_KEYPOINTS: 21}}",
         {"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": "predictions"}),
        ("MODEL: {META_ARCHITECTURE: PanopticFPN, PANOPTIC_FPN: {COMBINE: {ENABLED: False}}}",
         {"MODEL.PANOPTIC_FPN.COMBINE.ENABLED": "predictions"}),
        ("MODEL: {RESNETS: {WIDTH_PER_GROUP: 128}}", {"MODEL.RESNETS.WIDTH_PER_GROUP": "predictions"}),
        ("INPUT: {RANDOM_FLIP: both}", {"INPUT.RANDOM_FLIP": "training"}),
        ("TEST: {KEYPOINT_OKS_SIGMAS: [0.1, 0.2]}", {"TEST.KEYPOINT_OKS_SIGMAS": "evaluation"}),
        ("SOLVER: {UNHEARD_OF: 3}", {"SOLVER.UNHEARD_OF": "training"}),
    ],
)  # fmt: skip
def test_no_section_is_read_without_a_report_of_what_is_left_out(tmp_path, text, lost):
    result = converted(tmp_path, text)
    assert {key: effect for key, effect in result.lost.items() if "NUM_CLASSES" not in key} == lost


def test_a_default_that_is_written_down_is_not_reported(tmp_path):
    assert not converted(tmp_path, "MODEL: {RPN: {BOUNDARY_THRESH: -1}, RESNETS: {RES2_OUT_CHANNELS: 256}}").lost
