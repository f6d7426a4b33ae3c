"""Cityscapes: 19 classes of street scenes, as semantic or panoptic segmentation (Cordts et al. 2016)."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from chordate.data.coco_panoptic import CocoPanoptic
from chordate.data.panoptic_index import PanopticIndex
from chordate.data.paths import resolve_path
from chordate.data.semantic_folder import SemanticFolder
from chordate.errors import DataError
from chordate.registry import DATASETS

# The evaluated classes: name, id in labelIds PNGs, color. Source: helpers/labels.py of cityscapesScripts.
_ROWS = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
CITYSCAPES_CLASSES, CITYSCAPES_IDS, CITYSCAPES_PALETTE = zip(*_ROWS)
CITYSCAPES_STUFF, CITYSCAPES_THINGS = CITYSCAPES_CLASSES[:11], CITYSCAPES_CLASSES[11:]  # road … sky, person … bicycle
LAST_ID = 33  # ids are 0 (unlabeled) … 33; ids of classes that are not evaluated, such as parking, are ignored


@DATASETS.register_module()
class CityscapesSemantic(SemanticFolder):
    """Reads images such as `leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png`, whose labels are in
    `gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png`, as in the downloaded archives.

    Args:
        split: "train" (2,975 images) or "val" (500). The labels of "test" are not public.
        folder: contains leftImg8bit/ and gtFine/; relative to `data_root` or absolute.
        settings: data_root, pipeline, seed, meta, skip_broken: see `Dataset`.

    Raises:
        DataError: as for `SemanticFolder`.
    """

    def __init__(self, split: Literal["train", "val"], folder: str | Path = ".", **settings: Any):
        super().__init__(
            Path(folder, "leftImg8bit", split),
            Path(folder, "gtFine", split),
            image_suffix="_leftImg8bit.png",
            label_suffix="_gtFine_labelIds.png",
            classes=CITYSCAPES_CLASSES,
            ids=CITYSCAPES_IDS,
            ignored_ids=[number for number in range(LAST_ID + 1) if number not in CITYSCAPES_IDS],
            palette=CITYSCAPES_PALETTE,
            **settings,
        )


@DATASETS.register_module()
class CityscapesPanoptic(CocoPanoptic):
    """Reads the panoptic annotations that cityscapesScripts' createPanopticImgs makes from the downloaded archives.

    For "train", these are `gtFine/cityscapes_panoptic_train.json` and the PNGs in `gtFine/cityscapes_panoptic_train/`.
    Image ids are text, such as `aachen_000000_000019`; this image is
    `leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png`. The classes are the 8 thing classes, then the 11
    stuff classes, each in the order of their ids. Groups of things, such as a crowd of people, are crowd segments.

    Args:
        split: "train" (2,975 images) or "val" (500). The segments of "test" are not public.
        folder: contains leftImg8bit/ and gtFine/; relative to `data_root` or absolute.
        settings: data_root, pipeline, seed, meta, skip_broken: see `Dataset`.

    Raises:
        DataError: the panoptic annotations do not exist, or as for `CocoPanoptic`.
    """

    def __init__(self, split: Literal["train", "val"], folder: str | Path = ".", **settings: Any):
        root = resolve_path(settings.get("data_root", "."), folder)
        annotations = root / "gtFine" / f"cityscapes_panoptic_{split}.json"
        for path in (annotations, annotations.with_suffix("")):
            if not path.exists():
                raise DataError(
                    f"{path}: no such file or folder; pip install cityscapesscripts, then make it with "
                    f"python -m cityscapesscripts.preparation.createPanopticImgs --dataset-folder {root / 'gtFine'}"
                )
        super().__init__(annotations, root / "leftImg8bit" / split, **settings)

    def read_index(self) -> PanopticIndex:
        index = super().read_index()
        # In the JSON file, the images are called …_gtFine_leftImg8bit.png, without folders; no such files exist.
        names = [f"{name.partition('_')[0]}/{name}_leftImg8bit.png" for name in map(str, index.file_ids)]
        index.files = np.column_stack([names, index.files[:, 1]])
        return index
