"""ImageNet-1k at 160 px with RandAugment: two operations of magnitude 10 (Bello et al. 2021, section 4.2).

160 px is the smallest of ResNet-RS's image sizes; the configs of the others replace it.
The authors' magnitudes go to 10, torchvision's to 30, for the same rotation of 30°. The authors use 15 for larger
images, which is beyond torchvision's scale, so all sizes use its maximum.
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
# The center crop is 0.875 of the shorter side.
val_data = dict(pipeline=[dict(type="Resize", size=183, interpolation="bicubic"), dict(type="CenterCrop", size=160)])
