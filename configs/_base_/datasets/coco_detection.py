"""COCO 2017 boxes: shortest edge 800 px (Lin et al. 2017, FPN, section 5.2), longest edge at most 1333 px (the settings
of Detectron's configs), flips.

The data root contains annotations/, train2017/ and val2017/.
"""

fallback_meta = dict(classes="coco")
train_data = dict(
    dataset=dict(
        type="CocoDataset",
        annotations="annotations/instances_train2017.json",
        images="train2017",
        filter_empty=True,
    ),
    pipeline=[
        dict(type="ResizeShortestEdge", size=800, max_size=1333),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
    batch_size=2,  # images per process
    workers=4,
    group_by_aspect=True,
)
val_data = dict(
    dataset=dict(
        type="CocoDataset",
        annotations="annotations/instances_val2017.json",
        images="val2017",
    ),
    pipeline=[dict(type="ResizeShortestEdge", size=800, max_size=1333)],
    batch_size=1,
    workers=2,
)
metric = dict(type="CocoMetric")
