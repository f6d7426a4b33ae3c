"""A Faster R-CNN narrow enough to learn the demo's shapes from scratch in three minutes on two CPU cores."""

_base_ = ["../_base_/models/faster-rcnn_fpn.py", "../_base_/schedules/1x.py"]

model = dict(
    # Shapes are at most 72 px wide, so c5 (stride 32) is left out. A narrow network trains for more iterations in the
    # same time.
    backbone=dict(
        type="resnet18",
        base_channels=24,
        out=["c2", "c3", "c4"],
        norm="BN",
        zero_init_last=True,
        frozen_stages=-1,
        pretrained=None,
    ),
    neck=dict(channels=32, inputs=["c2", "c3", "c4"]),
    rpn=dict(
        anchors=dict(sizes=[16, 32, 64, 96]),
        batch_size_per_image=64,
        pre_nms_topk=(100, 100),
        post_nms_topk=(100, 50),
    ),
    box=dict(
        trunk=dict(fc_channels=256),
        batch_size_per_image=32,
        positive_fraction=0.5,
        sampling_ratio=1,
        detections_per_image=30,
    ),
)
train_data = dict(
    dataset=dict(type="CocoDataset", annotations="annotations/train.json", images="train", filter_empty=False),
    pipeline=[dict(type="RandomHorizontalFlip"), dict(type="RandomVerticalFlip")],
    batch_size=8,
    workers=0,
)
val_data = dict(
    dataset=dict(type="CocoDataset", annotations="annotations/val.json", images="val", filter_empty=False),
    pipeline=[],
    batch_size=8,
    workers=0,
)
metric = dict(type="CocoMetric")
# AdamW, because it learns faster than SGD in such a short training run.
optimizer = dict(_delete_=True, type="AdamW", lr=3e-3, weight_decay=0.05, base_batch_size=8)
schedule = dict(_delete_=True, type="cosine", warmup_iters=60, warmup_factor=0.01)
train = dict(epochs=6, eval_every=3, save_best="bbox_AP", log_every=10, clip_norm=10.0, channels_last="auto")
