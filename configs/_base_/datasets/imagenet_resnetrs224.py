"""ImageNet-1k at 224 px with RandAugment, see `imagenet_resnetrs160.py`."""

_base_ = ["imagenet.py"]
train_data = dict(
    pipeline=[
        dict(type="RandomResizedCrop", size=224),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="RandAugment", num_ops=2, magnitude=30, num_magnitude_bins=31),
    ],
    batch_size=128,
)
val_data = dict(pipeline=[dict(type="Resize", size=256, interpolation="bicubic"), dict(type="CenterCrop", size=224)])
