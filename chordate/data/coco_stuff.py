"""COCO-Stuff 164k, version 1.1: pixel labels of 80 thing and 91 stuff classes on COCO's images (Caesar et al. 2018)."""

from pathlib import Path
from typing import Any, Literal

from chordate.data.coco_classes import COCO_CLASSES
from chordate.data.semantic_folder import SemanticFolder
from chordate.registry import DATASETS

# The stuff classes in the order of their ids, 92 … 182.
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
# Ids of thing classes in the COCO paper that were never annotated.
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
# The pixel value of a class is its id - 1.
COCO_STUFF_IDS = tuple(number - 1 for number in range(1, 183) if number not in UNUSED_IDS)


@DATASETS.register_module()
class CocoStuff(SemanticFolder):
    """Reads images such as `images/train2017/000000000009.jpg`, whose labels are in
    `annotations/train2017/000000000009.png`.

    The PNGs come from stuffthingmaps_trainval2017.zip. Pixels with the value 255 are unlabeled, and are ignored.

    Args:
        split: "train2017" or "val2017".
        images, labels: folders that have a subfolder per split, relative to `data_root` or absolute.
        settings: data_root, pipeline, seed, meta, skip_broken: see `Dataset`.
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
