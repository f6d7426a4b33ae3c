"""Faster R-CNN with FPN: Lin et al. 2017, section 4, in the settings of Detectron2's Base-RCNN-FPN.yaml."""

model = dict(
    type="TwoStageDetector",
    # Fine-tuned with few images a process: statistics stay those of ImageNet, stem and c2 stay as they are.
    backbone=dict(type="resnet50", norm=dict(type="FrozenBN"), frozen_stages=1, pretrained=True),
    neck=dict(type="FPN", channels=256, extra="pool"),
    rpn=dict(
        type="RPNHead",
        anchors=dict(ratios=[0.5, 1.0, 2.0]),  # ANCHOR_GENERATOR; sizes follow the strides: 32, 64 … 512 px
        iou_thresholds=(0.3, 0.7),  # RPN.IOU_THRESHOLDS
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2000, 1000),  # a level, training and testing
        post_nms_topk=(1000, 1000),  # an image
        nms_threshold=0.7,
        smooth_l1_beta=0.0,  # L1
    ),
    box=dict(
        type="BoxHead",
        resolution=7,  # ROI_BOX_HEAD.POOLER_RESOLUTION
        sampling_ratio=0,
        trunk=dict(type="ConvFC", fcs=2, fc_channels=1024),
        batch_size_per_image=512,  # ROI_HEADS.BATCH_SIZE_PER_IMAGE
        positive_fraction=0.25,
        iou_threshold=0.5,
        box_weights=(10.0, 10.0, 5.0, 5.0),  # ROI_BOX_HEAD.BBOX_REG_WEIGHTS
        smooth_l1_beta=0.0,
        score_threshold=0.05,
        nms_threshold=0.5,
        detections_per_image=100,
    ),
    preprocess=dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
)
