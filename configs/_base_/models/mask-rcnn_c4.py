"""Mask R-CNN on c4: He et al. 2017, figure 4 left, with the settings of Detectron2's Base-RCNN-C4.yaml."""

_base_ = ["faster-rcnn_c4.py"]

model = dict(mask=dict(type="MaskHead", convs=0))  # the 7×7 output of c5 is only upsampled to 14×14 before prediction
