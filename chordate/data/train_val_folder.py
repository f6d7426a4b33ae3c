"""Classification dataset of a user's images in class folders; holds out a validation split if there is none."""

from pathlib import Path
from typing import Any, Literal

from chordate.arguments import OpenFraction
from chordate.data.held_out import held_out_part
from chordate.data.image_folder import ImageFolder, subfolders
from chordate.data.paths import resolve_path
from chordate.errors import DataError
from chordate.registry import DATASETS

SPLITS = ("train", "val")
OTHER_SPLITS = ("dev", "eval", "test", "valid", "validation")  # other common names of a validation or test folder


@DATASETS.register_module()
class TrainValFolder(ImageFolder):
    """Images in `train/<class>/` and `val/<class>/` under the data root, or only in `<class>/`.

    If the data root contains only one folder that encloses all others (as in the zip of a folder), that folder is used
    instead.

    Without `train` and `val`, a fraction of each class's images is held out for validation. The images are chosen by a
    hash of their names, so they are always the same.

    Args:
        split: "train" or "val".
        held_out: fraction of each class's images that is held out for validation if there is no `val`.

    The other arguments are as in `ImageFolder`.

    Raises:
        DataError: as in `ImageFolder`, or only one of `train` and `val` exists, or there is only one class.
    """

    def __init__(
        self,
        split: Literal["train", "val"],
        *,
        data_root: str | Path = ".",
        held_out: OpenFraction = 0.2,
        **arguments: Any,
    ):
        self.split: Literal["train", "val"] = split
        self.held_out = held_out
        root = _unwrap(resolve_path(data_root, "."))
        self.divided = _is_divided(root)
        super().__init__(split if self.divided else ".", data_root=root, **arguments)
        if len(self.classes) < 2:
            raise DataError(f"{self.images}: only one class folder, {self.classes[0]}/; a classifier needs two or more")

    def _files_by_class(self, by_class: dict[str, list[str]]) -> dict[str, list[str]]:
        by_class = super()._files_by_class(by_class)
        return (
            by_class
            if self.divided
            else {name: held_out_part(files, self.held_out, self.split) for name, files in by_class.items()}
        )


def _unwrap(root: Path) -> Path:
    """Descend from `root` through folders with a single subfolder, to the folder of the class folders or splits."""
    while len(names := subfolders(root)) == 1 and names[0] not in (*SPLITS, *OTHER_SPLITS):
        if not subfolders(root / names[0]):
            break
        root /= names[0]
    return root


def _is_divided(root: Path) -> bool:
    """Whether a folder or zip contains the folders `train` and `val`.

    Raises:
        DataError: only one of the two exists, and there are no class folders beside it.
    """
    names = subfolders(root)
    missing = [split for split in SPLITS if split not in names]
    rest = {*names} - {*SPLITS, *OTHER_SPLITS}
    # If there are other class folders, "train" is a class as well (the vehicle).
    if len(missing) == 1 and not rest:
        listed = ", ".join(f"{name}/" for name in names)
        raise DataError(
            f"{root}: has {listed} but no {missing[0]}/; create train/ and val/, each with a folder for every class, "
            f"or only the class folders (then a fraction of each is held out)"
        )
    return not missing
