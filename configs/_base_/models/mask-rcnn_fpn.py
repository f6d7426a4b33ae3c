"""Mask R-CNN with FPN: He et al. 2017, section 3.1, with the settings of Detectron2's Base-RCNN-FPN.yaml."""

_base_ = ["faster-rcnn_fpn.py"]

model = dict(mask=dict(type="MaskHead"))
