"""RetinaNet: Lin et al. 2017, Focal Loss, sections 4 and 5, in the settings of Detectron2's Base-RetinaNet.yaml."""

model = dict(
    type="OneStageDetector",
    backbone=dict(type="resnet50", norm=dict(type="FrozenBN"), frozen_stages=1, pretrained=True),
    neck=dict(type="FPN", channels=256, inputs=["c3", "c4", "c5"], extra="c5"),  # p3 … p7
    head=dict(
        type="RetinaHead",
        convs=4,
        anchors=dict(ratios=[0.5, 1.0, 2.0]),  # of 4 strides times 1, 2^(1/3), 2^(2/3): 32 … 813 px
        iou_thresholds=(0.4, 0.5),  # RETINANET.IOU_THRESHOLDS
        smooth_l1_beta=0.0,  # RETINANET.SMOOTH_L1_LOSS_BETA
        score_threshold=0.05,
        topk=1000,
        nms_threshold=0.5,
        detections_per_image=100,
    ),
    size_divisor=128,  # of p7
    preprocess=dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
)
