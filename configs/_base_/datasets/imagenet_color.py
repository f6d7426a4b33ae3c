"""ImageNet-1k with the augmentation of fb.resnet.torch, used for WRN, ResNeXt and DenseNet: crops of 8 to 100 % of the
area, color jitter (brightness, contrast, saturation; Howard 2013), AlexNet's PCA lighting noise, flips.
"""

_base_ = ["imagenet.py"]
train_data = dict(
    pipeline=[
        dict(type="RandomResizedCrop", size=224),
        dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4),
        dict(type="Lighting", std=0.1),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
)
