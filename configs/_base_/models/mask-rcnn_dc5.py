"""Mask R-CNN on a dilated c5, with the settings of Detectron2's Base-RCNN-DilatedC5.yaml."""

_base_ = ["faster-rcnn_dc5.py"]

model = dict(mask=dict(type="MaskHead"))
