"""COCO-Stuff: COCO's images with 80 thing and 91 stuff classes per pixel (Caesar et al. 2018), version 1.1, 164k."""

from pathlib import Path
from typing import Any, Literal

from chordate.data.coco_classes import COCO_CLASSES
from chordate.data.semantic_folder import SemanticFolder
from chordate.registry import DATASETS

# In the order of their ids, 92 … 182.
STUFF_CLASSES = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff",
    "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood",
    "flower", "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house",
    "leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper",
    "pavement", "pillow", "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river",
    "road", "rock", "roof", "rug", "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow",
    "solid-other", "stairs", "stone", "straw", "structural-other", "table", "tent", "textile-other", "towel",
    "tree", "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile",
    "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip
COCO_STUFF_CLASSES = (*COCO_CLASSES, *STUFF_CLASSES)
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # things of the COCO paper that were never annotated
# A pixel's value is its class's id - 1.
COCO_STUFF_IDS = tuple(number - 1 for number in range(1, 183) if number not in UNUSED_IDS)


@DATASETS.register_module()
class CocoStuff(SemanticFolder):
    """`images/train2017/000000000009.jpg` and `annotations/train2017/000000000009.png`; 255 is unlabeled.

    The PNGs are those of stuffthingmaps_trainval2017.zip.

    Args:
        split: "train2017" or "val2017".
        images, labels: the folders with a folder per split, relative to `data_root` or absolute.
        settings: data_root, pipeline, seed, meta: see `Dataset`.
    """

    def __init__(
        self,
        split: Literal["train2017", "val2017"],
        images: str | Path = "images",
        labels: str | Path = "annotations",
        **settings: Any,
    ):
        super().__init__(
            Path(images, split), Path(labels, split), classes=COCO_STUFF_CLASSES, ids=COCO_STUFF_IDS, **settings
        )
