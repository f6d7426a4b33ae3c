"""Cityscapes with 19 classes: images scaled by 0.5 … 2.0, crops of 512×1024 px (MMSegmentation's settings).

The data root contains leftImg8bit/ and gtFine/. Validation uses whole images of 1024×2048 px.
"""

fallback_meta = dict(classes="cityscapes")
train_data = dict(
    dataset=dict(type="CityscapesSemantic", split="train"),
    pipeline=[
        dict(type="RandomResize", min_size=512, max_size=2049),  # range of the shorter side: 1024 × (0.5 … 2.0)
        dict(type="ClassLimitedCrop", size=(512, 1024), max_fraction=0.75),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="PhotometricDistortion"),
    ],
    batch_size=2,  # images per process; 8 in total on 4 processes
    workers=4,
)
val_data = dict(
    dataset=dict(type="CityscapesSemantic", split="val"),
    pipeline=[],
    batch_size=1,
    workers=4,
)
metric = dict(type="SemanticMetric")
