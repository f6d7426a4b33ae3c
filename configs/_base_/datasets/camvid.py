"""CamVid with SegNet's split (Badrinarayanan et al. 2017, section 4.1): street scenes of 480×360 px.

There are 367 training, 101 validation and 233 test images. The data root contains the image folders train/, val/ and
test/ and the label folders trainannot/, valannot/ and testannot/.
"""

_classes = [
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
]  # fmt: skip
_palette = [
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
]  # fmt: skip
_dataset = dict(type="SemanticFolder", classes=_classes, ignored_ids=[11], palette=_palette)
fallback_meta = dict(classes=_classes)
train_data = dict(
    dataset=dict(images="train", labels="trainannot", **_dataset),
    pipeline=[
        dict(type="RandomResize", min_size=180, max_size=721),  # range of the shorter side: 360 × (0.5 … 2.0)
        dict(type="RandomCrop", size=(360, 480), pad_if_needed=True),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="PhotometricDistortion"),
    ],
    batch_size=8,
    workers=2,
)
val_data = dict(dataset=dict(images="val", labels="valannot", **_dataset), pipeline=[], batch_size=4, workers=2)
metric = dict(type="SemanticMetric")
