"""Panoptic FPN, ResNet-18, on the generated shapes, whose backgrounds are stuff; small enough for two CPU cores.

0.517 PQ after six epochs, measured by this project (docs/results.md, "Panoptic FPN on the generated shapes").
"""

_base_ = ["../demo/mask-rcnn_r18_fpn_demo_shapes.py"]

_stuff = ["gradient", "stripes", "checkerboard", "clouds"]
fallback_meta = dict(classes=["circle", "rectangle", "triangle", "star", "ring", *_stuff], stuff=_stuff)
model = dict(
    # BN, because GN with one channel per group would remove the channel means, which identify the background's class.
    semantic=dict(type="SemanticFPNHead", channels=32, norm="BN", losses=[dict(type="CrossEntropy")]),
    merge=dict(stuff_area=256),  # the default 4096 is a quarter of a 128×128 image
)
train_data = dict(
    dataset=dict(_delete_=True, type="CocoPanoptic", annotations="annotations/panoptic_train.json", images="train")
)
val_data = dict(
    dataset=dict(_delete_=True, type="CocoPanoptic", annotations="annotations/panoptic_val.json", images="val")
)
metric = dict(_delete_=True, type="PanopticMetric")
train = dict(save_best="PQ")
