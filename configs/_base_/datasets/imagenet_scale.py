"""ImageNet-1k: the shorter side sampled from 256 … 480 px, random crops of 224 px, flips, AlexNet's color augmentation
(He et al. 2016, section 3.4).
"""

_base_ = ["imagenet.py"]
train_data = dict(
    pipeline=[
        dict(type="RandomShortestSize", min_size=list(range(256, 481))),
        dict(type="RandomCrop", size=224),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="Lighting", std=0.1),
    ],
)
