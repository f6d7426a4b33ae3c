"""Pascal VOC 2012 for semantic segmentation, with SBD's labels in training (train_aug), and crops of 512 px
(MMSegmentation's settings).

The data root is the folder VOCdevkit. SBD's labels are read from VOC2012/SegmentationClassAug or benchmark_RELEASE/.
"""

fallback_meta = dict(classes="voc_semantic")
train_data = dict(
    dataset=dict(type="VocSemantic", split="train_aug"),
    pipeline=[
        dict(type="RandomResize", min_size=256, max_size=1025),  # of the shorter side: 512 × (0.5 … 2.0)
        dict(type="ClassLimitedCrop", size=512, max_fraction=0.75),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="RandomPhotometricDistort", hue=(-0.1, 0.1)),
    ],
    batch_size=4,  # images per process; 16 in total on 4 processes
    workers=4,
)
val_data = dict(
    dataset=dict(type="VocSemantic", split="val"),
    pipeline=[dict(type="ResizeShortestEdge", size=512, max_size=2048)],
    batch_size=1,
    workers=4,
)
metric = dict(type="SemanticMetric")
