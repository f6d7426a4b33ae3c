"""ImageNet-1k at 160 px with RandAugment: two operations of magnitude 10 (Bello et al. 2021, section 4.2).

160 px is the smallest image size of ResNet-RS; the configs for larger images override it.
The authors' magnitude 10 is 30 on torchvision's scale (both rotate by up to 30°), the maximum of this scale. For larger
images the authors use 15, which torchvision's scale does not reach, so all image sizes use 10.
"""

_base_ = ["imagenet.py"]
train_data = dict(
    pipeline=[
        dict(type="RandomResizedCrop", size=160),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="RandAugment", num_ops=2, magnitude=30, num_magnitude_bins=31),
    ],
    batch_size=128,
)
# Center crop of 0.875 of the shorter side.
val_data = dict(pipeline=[dict(type="Resize", size=183, interpolation="bicubic"), dict(type="CenterCrop", size=160)])
