"""Keypoint R-CNN with FPN: He et al. 2017, section 5, with the settings of Detectron2's Base-Keypoint-RCNN-FPN.yaml."""

_base_ = ["faster-rcnn_fpn.py"]

model = dict(
    rpn=dict(post_nms_topk=(1500, 1000)),  # (training, testing), from RPN.POST_NMS_TOPK_*
    box=dict(smooth_l1_beta=0.5),  # ROI_BOX_HEAD.SMOOTH_L1_BETA: plain L1 would raise box AP but lower keypoint AP
    keypoint=dict(type="KeypointHead"),
)
