"""ImageNet-1k as in fb.resnet.torch, which WRN, ResNeXt and DenseNet were trained with: crops of 8 to 100 % of the
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
