"""Cascade R-CNN with FPN: Cai & Vasconcelos 2018, with the settings of Detectron2's Cascade Mask R-CNN."""

_base_ = ["faster-rcnn_fpn.py"]

model = dict(
    rpn=dict(post_nms_topk=(2000, 1000)),  # (training, testing), from RPN.POST_NMS_TOPK_*
    box=dict(_delete_=True, type="CascadeHead", stage=dict(trunk=dict(type="ConvFC"))),
)
