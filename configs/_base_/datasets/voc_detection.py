"""Pascal VOC 2007: training on trainval, evaluation on test with COCO's metric; difficult objects are ignored.

The data root is the folder VOCdevkit. The shortest edge of 600 px and the longest of at most 1000 px are from the
Faster R-CNN paper (Ren et al. 2015).
"""

fallback_meta = dict(
    classes=[
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ]
)
train_data = dict(
    dataset=dict(type="VocDataset", folder="VOC2007", split="trainval"),
    pipeline=[
        dict(type="ResizeShortestEdge", size=600, max_size=1000),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
    batch_size=2,
    workers=4,
)
val_data = dict(
    dataset=dict(type="VocDataset", folder="VOC2007", split="test"),
    pipeline=[dict(type="ResizeShortestEdge", size=600, max_size=1000)],
    batch_size=1,
    workers=2,
)
metric = dict(type="CocoMetric")
