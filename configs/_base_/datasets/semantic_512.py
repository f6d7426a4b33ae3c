"""Semantic segmentation in crops of 512 px, with MMSegmentation's settings: images are resized to a shorter side of
512 × (0.5 … 2.0) px; batch size 16. Dataset configs inherit from this file.
"""

train_data = dict(
    pipeline=[
        dict(type="RandomResize", min_size=256, max_size=1025),  # range of the shorter side: 512 × (0.5 … 2.0)
        dict(type="ClassLimitedCrop", size=512, max_fraction=0.75),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="PhotometricDistortion"),
    ],
    batch_size=4,  # images per process; 16 in total on 4 processes
    workers=4,
)
val_data = dict(pipeline=[dict(type="ResizeShortestEdge", size=512, max_size=2048)], batch_size=1, workers=4)
metric = dict(type="SemanticMetric")
