"""RetinaNet: Lin et al. 2017, Focal Loss, sections 4 and 5, with the settings of Detectron2's Base-RetinaNet.yaml."""

model = dict(
    type="OneStageDetector",
    backbone=dict(type="resnet50", norm=dict(type="FrozenBN"), frozen_stages=1, pretrained=True),
    neck=dict(type="FPN", inputs=["c3", "c4", "c5"], extra="c5"),  # p3 … p7
    head=dict(type="RetinaHead"),
    size_divisor=128,  # the stride of p7, the coarsest level
)
