"""ImageNet-1k as for ConvNeXt (Liu et al. 2022, appendix A.1, table 5): RandAugment (9, 0.5), random erasing.

The paper's magnitude 9 (of 10) corresponds to 27 (of 30) on torchvision's scale: both rotate by up to 27°. The paper's
random variation of the magnitude (standard deviation 0.5) is omitted.
"""

_base_ = ["imagenet.py"]
train_data = dict(
    pipeline=[
        dict(type="RandomResizedCrop", size=224, interpolation="bicubic"),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="RandAugment", num_ops=2, magnitude=27, num_magnitude_bins=31, fill=(124, 116, 104)),
        dict(type="NoiseErasing", p=0.25),
    ],
    batch_size=128,
)
val_data = dict(pipeline=[dict(type="Resize", size=256, interpolation="bicubic"), dict(type="CenterCrop", size=224)])
