"""Pascal VOC folders (one XML file per image), read as COCO annotations."""

from pathlib import Path
from typing import Any

import hotcoco

from chordate.data.coco import CocoDataset
from chordate.data.coco_annotations import resolve_path
from chordate.data.image_io import missing_file
from chordate.errors import DataError
from chordate.registry import DATASETS


@DATASETS.register_module()
class VocDataset(CocoDataset):
    """A Pascal VOC dataset: `Annotations/*.xml`, `JPEGImages/` and `ImageSets/Main/*.txt` (Everingham et al. 2010).

    VOC counts pixels from 1 and its boxes include the last pixel, so 1 is subtracted from `xmin` and `ymin`. Objects
    marked `difficult` are read as crowds: they are neither targets nor background, since VOC's evaluation ignores them.
    Category ids number the class names of all XML files (not only the split's) in alphabetical order, or in the order
    of a file `labels.txt`, so that all splits have the same ids.

    Args:
        folder: the folder that contains the three folders above, relative to `data_root` or absolute.
        split: name of an image list, e.g. `train` for `ImageSets/Main/train.txt`; None uses every XML file.
        settings: arguments of CocoDataset, except `annotations` and `images`.
    """

    def __init__(self, folder: str | Path, split: str | None = None, **settings: Any):
        self.split = split
        root = resolve_path(settings.get("data_root", "."), folder).absolute()
        super().__init__(root / "Annotations", root / "JPEGImages", **settings)

    def _open(self) -> hotcoco.COCO:
        if not self.annotations.is_dir():
            raise DataError(f"{self.annotations}: no such folder; a VOC dataset has its XML files there")
        for file in sorted(self.annotations.glob("*.xml")):
            if not file.is_file():
                raise DataError(missing_file(file, "annotation"))
            if not file.read_bytes().rstrip().endswith(b"</annotation>"):
                raise DataError(f"{file}: truncated; it does not end with </annotation>")
        try:
            index = hotcoco.COCO.from_voc(str(self.annotations.parent))
        except (ValueError, OSError) as error:
            raise DataError(f"{self.annotations}: {error}") from error
        return index if self.split is None else self._part(index)

    def _part(self, index: hotcoco.COCO) -> hotcoco.COCO:
        """Restrict the dataset to the images listed in the split's file."""
        file = self.annotations.parent / "ImageSets" / "Main" / f"{self.split}.txt"
        if not file.is_file():
            raise DataError(missing_file(file, "image list"))
        listed = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
        content = index.dataset
        ids = {Path(image["file_name"]).stem: image["id"] for image in content["images"]}
        missing = [name for name in listed if name not in ids]
        if missing:
            raise DataError(f'{file}: "{missing[0]}" has no XML file in {self.annotations}')
        kept = {ids[name] for name in listed}
        # `index.filter` would drop the classes that do not occur in this split.
        content["images"] = [image for image in content["images"] if image["id"] in kept]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        return hotcoco.COCO(content)
