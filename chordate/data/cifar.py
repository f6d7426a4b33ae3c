"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read from the official files or from class folders, on disk or in a zip."""

import tempfile
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision.datasets

from chordate.data.image_folder import ImageFolder
from chordate.data.zip_files import UNREADABLE, check_unpacked_size, members, split_archive
from chordate.errors import DataError
from chordate.registry import DATASETS


@DATASETS.register_module()
class CIFAR10(ImageFolder):
    """32×32 images of ten classes, 50,000 for training and 10,000 for testing, all kept in memory (180 MB).

    The data root contains either `cifar-10-batches-py/` (the official files; torchvision checks their md5 sums before
    it opens them), or `train/<class>/` and `test/<class>/`. The data root may be a zip of either.

    Args:
        split: "train" or "test".

    The other arguments are as in `ImageFolder`, except `cache`, which is always true.

    Raises:
        DataError: the data root has neither of the two layouts, or an official file is missing or damaged.
    """

    official: Any = torchvision.datasets.CIFAR10

    def __init__(self, split: Literal["train", "test"], *, data_root: str | Path = ".", **settings: Any):
        self.split = split
        self._root = Path(data_root)
        super().__init__(split, data_root=data_root, cache=True, **settings)

    def _on_disk(self) -> dict[str, list[str]]:
        folder = self._root / self.official.base_folder
        if folder.is_dir():
            return self._official_files(folder)
        if not self.images.is_dir():
            raise DataError(
                f"{self._root}: has neither {folder.name}/ nor {self.split}/ with class folders; set another data root "
                f"with --data-root or CHORDATE_DATA"
            )
        return super()._on_disk()

    def _in_zip(self) -> dict[str, list[str]]:
        archive, inner = split_archive(self._root / self.official.base_folder)
        assert archive is not None
        official = [name for name in members(archive) if name.startswith(inner)]
        if not official:
            return super()._in_zip()
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as file:
            check_unpacked_size(file, official, archive)
            try:
                file.extractall(folder, official)
            except UNREADABLE as error:
                raise DataError(f"{archive}: cannot be unpacked: {error}") from error
            return self._official_files(Path(folder) / inner)

    def _official_files(self, folder: Path) -> dict[str, list[str]]:
        try:
            data = self.official(str(folder.parent), train=self.split == "train")
        except RuntimeError as error:
            where = self._root / folder.name
            raise DataError(f"{where}: a file is missing or damaged (its md5 differs); download it again") from error
        self._official = torch.from_numpy(data.data).permute(0, 3, 1, 2)
        by_class: dict[str, list[str]] = {name: [] for name in data.classes}
        for index, label in enumerate(data.targets):
            by_class[data.classes[label]].append(f"{folder.name}/{self.split}_{index:05d}")
        return by_class

    def decode(self, index: int) -> torch.Tensor:
        name = self.files[index]
        if name.startswith(f"{self.official.base_folder}/"):
            return self._official[int(name[-5:])]
        return super().decode(index)


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """CIFAR-100: like CIFAR10, but 100 classes with 500 training images each; official files in `cifar-100-python/`."""

    official = torchvision.datasets.CIFAR100
