"""YOLO folders (one text file of relative boxes or polygons per image), read as COCO annotations.

hotcoco's converter is not used, because it requires the class names in the label folder, drops the file extensions of
images, skips images without a label file, and does not read polygons.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hotcoco
import PIL.Image
import yaml

from chordate.data.coco import CocoDataset
from chordate.data.coco_annotations import resolve_path
from chordate.data.image_io import missing_file, too_many_pixels
from chordate.errors import DataError
from chordate.registry import DATASETS

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
EXIF_ORIENTATION, EXIF_QUARTER_TURNS = 0x112, (5, 6, 7, 8)


@DATASETS.register_module()
class YoloDataset(CocoDataset):
    """A YOLO dataset: images `images/x.jpg`, and labels `labels/x.txt` with one instance per line.

    A line is `class cx cy w h` (box) or `class x1 y1 x2 y2 x3 y3 …` (polygon).

    Coordinates are fractions of the displayed image's width and height (after EXIF rotation). An image without a label
    file has no instances. Category ids are 1, 2, … in the order of the class names.

    Args:
        images, labels: the two folders, relative to `data_root` or absolute.
        names: the class names, or a YAML file with an entry `names`.
        settings: arguments of CocoDataset, except `annotations` and `images`.
    """

    def __init__(self, images: str | Path, labels: str | Path, names: str | Path | Sequence[str], **settings: Any):
        root = settings.get("data_root", ".")
        self.names = _read_names(resolve_path(root, names)) if isinstance(names, str | Path) else list(names)
        super().__init__(labels, images, **settings)

    def _open(self) -> hotcoco.COCO:
        for folder, what in ((self.annotations, "label"), (self.images, "image")):
            if not folder.is_dir():
                raise DataError(f"{folder}: no such {what} folder")
        files = sorted(path for path in self.images.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, path in enumerate(files, start=1):
            width, height = _displayed_size(path)
            images.append({"id": number, "file_name": path.name, "width": width, "height": height})
            label_file = self.annotations / f"{path.stem}.txt"
            if label_file.is_file():
                for line, text in enumerate(label_file.read_text().splitlines(), start=1):
                    if text.strip():
                        annotation = _annotation(text, width, height, len(self.names), f"{label_file}:{line}")
                        annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
        categories = [{"id": number, "name": name} for number, name in enumerate(self.names, start=1)]
        return hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})


def _read_names(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(missing_file(file, "class name"))
    try:
        names = yaml.safe_load(file.read_text())["names"]
        ordered = [names[number] for number in range(len(names))]  # a list, or a dict with keys 0, 1, 2 …
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f'{file}: needs a list "names" of class names without gaps: {error}') from error
    if nested := [name for name in ordered if not isinstance(name, str | int | float)]:
        raise DataError(f'{file}: "names" must be class names, got a {type(nested[0]).__name__}')
    return [str(name) for name in ordered]


def _displayed_size(path: Path) -> tuple[int, int]:
    """Width and height after the EXIF orientation is applied, read from the file header."""
    if not path.is_file():
        raise DataError(missing_file(path, "image"))
    try:
        with PIL.Image.open(path) as image:
            turned = image.getexif().get(EXIF_ORIENTATION) in EXIF_QUARTER_TURNS
            return (image.height, image.width) if turned else image.size
    except PIL.Image.DecompressionBombError as error:
        raise DataError(too_many_pixels(path)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error


def _annotation(text: str, width: int, height: int, classes: int, place: str) -> dict[str, Any]:
    """Convert one line of a label file to a COCO annotation; `place` is for messages."""
    try:
        label, *numbers = [float(word) for word in text.split()]
    except ValueError as error:
        raise DataError(f"{place}: {error}; a line is `class cx cy w h` or `class x1 y1 x2 y2 …`") from error
    if not (label.is_integer() and 0 <= label < classes):
        raise DataError(f"{place}: class {label:g} is not among the {classes} names (0 … {classes - 1})")
    result: dict[str, Any] = {"category_id": int(label) + 1, "iscrowd": 0}
    if len(numbers) == 4:
        x, y, w, h = (value * side for value, side in zip(numbers, (width, height, width, height)))
        return {**result, "bbox": [x - w / 2, y - h / 2, w, h], "area": w * h}
    if len(numbers) < 6 or len(numbers) % 2:
        raise DataError(f"{place}: {len(numbers)} numbers after the class; a box has 4, a polygon 3 or more pairs")
    xs, ys = [x * width for x in numbers[0::2]], [y * height for y in numbers[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    outline = [value for point in zip(xs, ys) for value in point]
    return {**result, "bbox": box, "area": box[2] * box[3], "segmentation": [outline]}
