"""ResNet-50 fine-tuned on your own photos: `chordate train resnet50_finetune_folder --data-root my_photos`.

The data root contains a folder for each class; or train/ and val/, each with such folders. The stem and the first stage
are frozen, and the other stages have a tenth of the head's learning rate.
"""

_base_ = ["../_base_/models/classifier.py"]

fallback_meta = dict(classes="imagenet")  # classes of torchvision's weights, before fine-tuning
model = dict(
    backbone=dict(type="resnet50", pretrained=True, frozen_stages=1),
    head=dict(label_smoothing=0.1),
)
train_data = dict(
    dataset=dict(type="TrainValFolder", split="train"),
    pipeline=[
        dict(type="RandomResizedCrop", size=224, scale=(0.35, 1.0)),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
    ],
    batch_size=32,
    workers=4,
)
val_data = dict(
    dataset=dict(type="TrainValFolder", split="val"),
    pipeline=[dict(type="Resize", size=256), dict(type="CenterCrop", size=224)],
    batch_size=32,
    workers=2,
)
metric = dict(type="AccuracyMetric")
optimizer = dict(
    type="AdamW",
    lr=1e-3,
    weight_decay=0.05,
    no_decay=["norm", "bias"],
    parts=dict(backbone=dict(lr_mult=0.1)),
    base_batch_size=32,
)
schedule = dict(type="cosine", warmup_epochs=0.5, warmup_factor=0.01)
train = dict(epochs=10, channels_last="auto", save_best="top1", log_every=10)
