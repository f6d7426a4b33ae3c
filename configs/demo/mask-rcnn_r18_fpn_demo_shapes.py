"""The model of `make demo`: the Faster R-CNN of `faster-rcnn_r18_fpn_demo_shapes` with a mask head."""

_base_ = ["faster-rcnn_r18_fpn_demo_shapes.py"]

model = dict(mask=dict(type="MaskHead", resolution=10, sampling_ratio=1, convs=2, channels=32, norm="BN"))
train_data = dict(dataset=dict(masks=True))
