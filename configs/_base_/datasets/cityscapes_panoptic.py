"""Cityscapes with 8 thing and 11 stuff classes: crops of 512×1024 px from images resized to a shorter side of
512 … 2048 px (the settings of Detectron2's Panoptic-DeepLab project).

The data root contains leftImg8bit/ and gtFine/, with the files that cityscapesScripts' createPanopticImgs writes to
gtFine/. Validation uses whole images of 1024×2048 px.
"""

_sizes = [512, 640, 704, 832, 896, 1024, 1152, 1216, 1344, 1408, 1536, 1664, 1728, 1856, 1920, 2048]
fallback_meta = dict(classes="cityscapes_panoptic", stuff="cityscapes_panoptic")
train_data = dict(
    dataset=dict(type="CityscapesPanoptic", split="train"),
    pipeline=[
        dict(type="ResizeShortestEdge", size=_sizes, max_size=4096),
        dict(type="RandomCrop", size=(512, 1024)),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
    batch_size=4,  # images per process; 32 in total on 8 processes
    workers=4,
)
val_data = dict(
    dataset=dict(type="CityscapesPanoptic", split="val"),
    pipeline=[],
    batch_size=1,
    workers=4,
)
metric = dict(type="PanopticMetric")
