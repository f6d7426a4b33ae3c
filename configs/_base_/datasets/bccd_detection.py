"""BCCD: 364 microscope images of blood, 640×480, with boxes of red and white blood cells and platelets.

Source: github.com/Shenggan/BCCD_Dataset (MIT). The data root contains annotations/, train/ and val/, with COCO
annotations instead of the source's Pascal VOC annotations.
Cells have no preferred orientation, so horizontal and vertical flips are both valid.
"""

train_data = dict(
    dataset=dict(type="CocoDataset", annotations="annotations/train.json", images="train", filter_empty=True),
    pipeline=[
        dict(type="ResizeShortestEdge", size=[320, 352, 384, 416, 448, 480], max_size=640),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="RandomVerticalFlip", p=0.5),
        dict(type="RandomPhotometricDistort", p=0.5),
    ],
    batch_size=4,
    workers=2,
)
val_data = dict(
    dataset=dict(type="CocoDataset", annotations="annotations/val.json", images="val"),
    pipeline=[dict(type="ResizeShortestEdge", size=480, max_size=640)],
    batch_size=1,
    workers=1,
)
metric = dict(type="CocoMetric")
