"""Photos of one's own, in class folders: with a part to evaluate on, or without."""

from pathlib import Path
from typing import Any, Literal
from zlib import crc32

from chordate.arguments import OpenFraction
from chordate.data.coco_annotations import resolve_path
from chordate.data.image_folder import ImageFolder, subfolders
from chordate.errors import DataError
from chordate.registry import DATASETS

SPLITS = ("train", "val")
OTHER_SPLITS = ("dev", "eval", "test", "valid", "validation")  # what others call the folder to evaluate on


@DATASETS.register_module()
class TrainValFolder(ImageFolder):
    """`train/<class>/….jpg` and `val/<class>/….jpg` under the data root; or just `<class>/….jpg`.

    A lone folder around them, as in the zip of a folder, is passed through. Without `train` and `val`, a fraction of
    each class's images is held out of the training and evaluated on: always the same ones, drawn by their names.

    Args:
        split: "train" or "val".
        held_out: fraction of each class that is evaluated on, where there is no `val`.

    The others as in `ImageFolder`.

    Raises:
        DataError: as in `ImageFolder`, one of `train` and `val` is missing, or there is but one class.
    """

    def __init__(
        self,
        split: Literal["train", "val"],
        *,
        data_root: str | Path = ".",
        held_out: OpenFraction = 0.2,
        **arguments: Any,
    ):
        self.split, self.held_out = split, held_out
        root = _unwrap(resolve_path(data_root, "."))
        self.divided = _is_divided(root)
        super().__init__(split if self.divided else ".", data_root=root, **arguments)
        if len(self.classes) < 2:
            raise DataError(f"{self.images}: one class folder only, {self.classes[0]}/; a classifier needs two or more")

    def _files_by_class(self, by_class: dict[str, list[str]]) -> dict[str, list[str]]:
        by_class = super()._files_by_class(by_class)
        return by_class if self.divided else {name: self._part(files) for name, files in by_class.items()}

    def _part(self, files: list[str]) -> list[str]:
        """Of one class's files those of this split: one to train on at least, then one to evaluate on."""
        drawn = sorted(files, key=lambda file: (crc32(Path(file).as_posix().encode()), file))
        count = min(max(1, round(self.held_out * len(files))), len(files) - 1)
        return drawn[:count] if self.split == "val" else drawn[count:]


def _unwrap(root: Path) -> Path:
    """The folder, or the one in it that wraps the class folders or the splits."""
    while len(names := subfolders(root)) == 1 and names[0] not in (*SPLITS, *OTHER_SPLITS):
        if not subfolders(root / names[0]):
            break
        root /= names[0]
    return root


def _is_divided(root: Path) -> bool:
    """Whether a folder, or a zip, has `train` and `val`.

    Raises:
        DataError: it has one of them only.
    """
    names = subfolders(root)
    missing = [split for split in SPLITS if split not in names]
    rest = {*names} - {*SPLITS, *OTHER_SPLITS}
    if len(missing) == 1 and not rest:  # beside other folders, "train" is a means of transport
        listed = ", ".join(f"{name}/" for name in names)
        raise DataError(
            f"{root}: has {listed} but no {missing[0]}/; give it train/ and val/, each with a folder for every class, "
            f"or the class folders alone, of which a fraction is then held out"
        )
    return not missing
