"""Faster R-CNN with FPN: Lin et al. 2017, section 4, with the settings of Detectron2's Base-RCNN-FPN.yaml, which
are the default arguments of our components.
"""

model = dict(
    type="TwoStageDetector",
    # Batches are too small for BatchNorm statistics, so ImageNet's are kept; the stem and c2 are frozen.
    backbone=dict(type="resnet50", norm=dict(type="FrozenBN"), frozen_stages=1, pretrained=True),
    neck=dict(type="FPN"),
    rpn=dict(type="RPNHead"),
    box=dict(type="BoxHead", trunk=dict(type="ConvFC")),
)
