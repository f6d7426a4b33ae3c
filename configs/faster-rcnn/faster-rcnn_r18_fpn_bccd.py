"""Faster R-CNN on BCCD (blood cells) from scratch: ResNet-18, 205 training images at half size, on a CPU.

Training from scratch needs trainable BatchNorm and more epochs (He et al. 2018, Rethinking ImageNet Pre-training).
"""

_base_ = [
    "../_base_/models/faster-rcnn_fpn.py",
    "../_base_/datasets/bccd_detection.py",
    "../_base_/schedules/1x.py",
]

model = dict(
    backbone=dict(type="resnet18", out=["c2", "c3", "c4"], norm="BN", frozen_stages=-1, pretrained=None),
    neck=dict(channels=64, inputs=["c2", "c3", "c4"]),
    rpn=dict(
        # At half size, platelets have sides of 20 px, red cells 50 px, white cells up to 120 px.
        anchors=dict(sizes=[16, 32, 64, 128]),
        batch_size_per_image=128,
        pre_nms_topk=(500, 500),
        post_nms_topk=(300, 200),
    ),
    box=dict(trunk=dict(fc_channels=256), batch_size_per_image=128, sampling_ratio=2),
)
train_data = dict(
    pipeline=[
        dict(type="ResizeShortestEdge", size=[192, 208, 224, 240, 256, 272, 288], max_size=400),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="RandomVerticalFlip", p=0.5),
        dict(type="RandomPhotometricDistort", p=0.5),
    ],
    batch_size=8,
    workers=1,
)
val_data = dict(pipeline=[dict(type="ResizeShortestEdge", size=240, max_size=400)], batch_size=4)
optimizer = dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.05, base_batch_size=8)
schedule = dict(_delete_=True, type="cosine", warmup_iters=100, warmup_factor=0.01)
train = dict(epochs=40, eval_every=5, save_best="bbox_AP", log_every=10, clip_norm=10.0)
