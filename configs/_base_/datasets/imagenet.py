"""ImageNet-1k: random crops of 8 to 100 % of the image's area, resized to 224 px (Szegedy et al. 2015, section 6), and
horizontal flips.

The data root contains train/ and val/ with a folder for each class; any images in such folders work. Validation
uses the central 224 px after resizing the shorter side to 256.
"""

fallback_meta = dict(classes="imagenet")
train_data = dict(
    dataset=dict(type="ImageNet", split="train"),
    pipeline=[dict(type="RandomResizedCrop", size=224), dict(type="RandomHorizontalFlip", p=0.5)],
    batch_size=32,  # images per process; 256 in total on 8 processes
    workers=8,
)
val_data = dict(
    dataset=dict(type="ImageNet", split="val"),
    pipeline=[dict(type="Resize", size=256), dict(type="CenterCrop", size=224)],
    batch_size=32,
    workers=4,
)
metric = dict(type="AccuracyMetric")
