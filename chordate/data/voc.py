"""Pascal VOC folders (one XML file per image), read as COCO annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hotcoco

from chordate.arguments import OpenFraction
from chordate.data.coco import CocoDataset
from chordate.data.file_ids import PLACE
from chordate.data.held_out import held_out_part
from chordate.data.image_files import image_stem, list_files, list_images
from chordate.data.image_headers import displayed_size
from chordate.data.missing_images import describe_broken
from chordate.data.paths import missing_file, resolve_path
from chordate.data.text_lists import read_lines
from chordate.data.voc_matching import ImageMatcher, last_part, read_image_list
from chordate.data.voc_xml import VocImage, read_voc_xml
from chordate.errors import BrokenFile, ConfigError, DataError, MissingFile
from chordate.registry import DATASETS
from chordate.text import first_names, pluralize


@DATASETS.register_module()
class VocDataset(CocoDataset):
    """A Pascal VOC dataset: `Annotations/*.xml`, `JPEGImages/` and `ImageSets/Main/*.txt` (Everingham et al. 2010).

    VOC counts pixels from 1 and its boxes include the last pixel, so 1 is subtracted from `xmin` and `ymin`.
    The category ids are 1, 2, … in the order of the names in the file `labels.txt`, or, without this file, in the
    alphabetical order of the class names in all XML files (not only the split's), so all splits have the same ids.

    The image of `Annotations/x.xml` is `JPEGImages/x.jpg` (or another suffix), or else the one that `<filename>` names.
    Subfolders are searched.

    Args:
        folder: the folder that contains the three folders above, relative to `data_root` or absolute.
        split: name of an image list, e.g. `train` for `ImageSets/Main/train.txt`, or the path of a text file relative
            to `folder`; None uses every XML file. With `held_out`, "train" or "val".
        images, annotations: the folders of the images and the XML files, relative to `folder`.
        held_out: fraction of the XML files that are held out for the split "val", chosen by a hash of their names; None
            uses image lists.
        ignore_difficult: whether objects marked `difficult` are read as crowds, which are neither targets nor
            background; VOC's evaluation ignores them. Otherwise they are ordinary objects, as in Detectron2's training.
        settings: the other arguments of CocoDataset.

    Raises:
        ConfigError: `held_out` is set, but `split` is neither "train" nor "val".
        DataError: an XML file or image list is missing or invalid, or as for `CocoDataset`.
    """

    not_inherited = ("images", "annotations")

    def __init__(
        self,
        folder: str | Path = ".",
        split: str | None = None,
        *,
        images: str | Path = "JPEGImages",
        annotations: str | Path = "Annotations",
        held_out: OpenFraction | None = None,
        ignore_difficult: bool = True,
        **settings: Any,
    ):
        if held_out is not None and split not in ("train", "val"):
            raise ConfigError(f'VocDataset: held_out={held_out} needs split="train" or split="val", got {split!r}')
        self.folder = resolve_path(settings.get("data_root", "."), folder).absolute()
        self.split, self.held_out, self.ignore_difficult = split, held_out, ignore_difficult
        self.known_classes = () if settings.get("meta") is None else settings["meta"].classes
        self.skips_broken = settings.get("skip_broken", False)
        self.notes: list[str] = []
        super().__init__(self.folder / annotations, self.folder / images, **settings)
        self.health_report = [*self.health_report, *self.notes]

    def _open(self) -> hotcoco.COCO:
        if not self.annotations.is_dir():
            raise DataError(
                f"{self.annotations}: no such folder of XML files; correct folder= or annotations= of VocDataset"
            )
        files = {name[: -len(".xml")]: self.annotations / name for name in list_files(self.annotations, ".xml")}
        if not files:
            raise DataError(
                f"{self.annotations}: this folder has no XML files; correct folder= or annotations= of VocDataset"
            )
        contents = {stem: read_voc_xml(path) for stem, path in files.items()}
        names = self._class_names(contents)
        category_ids = {name: number for number, name in enumerate(names, start=1)}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        broken: list[str] = []
        for stem, image in self._match(self._select(list(contents)), contents, files):
            content = contents[stem]
            try:
                height, width = content.size or displayed_size(self.images / image)
            except BrokenFile as error:
                if not self.skips_broken:
                    raise
                broken.append(str(error))
                continue
            images.append({"id": len(images) + 1, "file_name": image, "width": width, "height": height})
            for number, item in enumerate(content.objects, 1):
                x, y = item.corners[0] - 1, item.corners[1] - 1
                w, h = item.corners[2] - x, item.corners[3] - y
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": len(images), "category_id": category_ids[item.name],
                        "bbox": [x, y, w, h], "area": max(w, 0) * max(h, 0),
                        "iscrowd": int(item.difficult and self.ignore_difficult),
                        PLACE: f"{stem}.xml: object {number}",
                    }
                )  # fmt: skip
        self.left_out = broken
        self.notes += describe_broken(broken)
        categories = [{"id": number, "name": name} for name, number in category_ids.items()]
        return hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})

    def id_in_file(self, image_id: int) -> str:
        name: str = self.coco.load_imgs([image_id])[0]["file_name"]
        return name

    def _class_names(self, contents: Mapping[str, VocImage]) -> list[str]:
        """The class names in the order of their category ids: the lines of `labels.txt`, or, without this file, the
        names in the XML files and the model's classes in alphabetical order."""
        used = {item.name for content in contents.values() for item in content.objects}
        file = self.folder / "labels.txt"
        if not file.is_file():
            return sorted(used.union(self.known_classes))
        names = list(dict.fromkeys(read_lines(file, "class name")))
        if unlisted := sorted(used.difference(names)):
            raise DataError(f"{file}: the class {unlisted[0]} of the XML files is not listed; add it")
        return names

    def _select(self, stems: list[str]) -> list[str]:
        """The elements of `stems` (XML files without suffix) that belong to the split."""
        if self.held_out is not None:
            return sorted(held_out_part(stems, self.held_out, "val" if self.split == "val" else "train"))
        if self.split is None:
            return stems
        listed = self.folder / self.split
        file = listed if self.split.endswith(".txt") else self.folder / "ImageSets" / "Main" / f"{self.split}.txt"
        if not file.is_file():
            raise MissingFile(f"{missing_file(file, 'image list')}; to split without image lists, set held_out=0.2")
        return read_image_list(file, stems, self.annotations)

    def _match(
        self, stems: Sequence[str], contents: Mapping[str, VocImage], files: Mapping[str, Path]
    ) -> list[tuple[str, str]]:
        """Pair XML files with images; returns each stem and image path (relative to `images`), and sets `notes`."""
        found = list_images(self.images)
        matcher = ImageMatcher(found)
        stem_of: dict[str, str] = {}
        contradicting = []
        for stem in stems:
            filename = contents[stem].filename.replace("\\", "/")
            image = matcher.find(stem, filename, files[stem]) or filename.rpartition("/")[2] or f"{stem}.jpg"
            if image in stem_of:
                other = files[stem_of[image]]
                raise DataError(f"{files[stem]} and {other} are both for the image {image}; rename or delete one")
            if matcher.is_other(filename, image):
                contradicting.append(stem)
            stem_of[image] = stem
        names = {last_part(image_stem(c.filename.replace("\\", "/"))) for c in contents.values()}
        names.update(map(last_part, contents))
        unused = [image for image in found if last_part(image_stem(image)) not in names]
        self.notes = []
        if contradicting:
            count = pluralize(len(contradicting), "XML file")
            self.notes.append(
                f"{self.annotations}: the <filename> of {count} names another existing image; the image with the XML "
                f"file's own name is used ({first_names(contradicting)})"
            )
        if unused:
            count = pluralize(len(unused), "image")
            self.notes.append(f"{self.images}: {count} without XML file left out ({first_names(unused)})")
        return [(stem, image) for image, stem in stem_of.items()]
