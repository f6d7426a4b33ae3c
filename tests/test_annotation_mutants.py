"""Mutated VOC and YOLO folders are read as by a naive reader, or refused with a one-line error."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from annotation_mutants import Folder, Refused, Samples, mutate, naive_voc, naive_yolo, voc_folder, yolo_folder

from chordate.data import VocDataset, YoloDataset
from chordate.data.coco import MIN_SIDE
from chordate.errors import DataError

KINDS = {
    "voc": (voc_folder, naive_voc, lambda root: VocDataset(root)),
    "yolo": (yolo_folder, naive_yolo, lambda root: YoloDataset("images", "labels", "data.yaml", data_root=root)),
}


def write(folder: Folder, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for path, content in folder.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def read(dataset) -> Samples:
    samples = [dataset.read(index) for index in range(len(dataset))]
    return {
        Path(sample["info"].path).relative_to(dataset.images).as_posix(): [
            (dataset.classes[label], tuple(box), crowd)
            for label, box, crowd in zip(
                sample["labels"].tolist(), sample["boxes"].tolist(), sample["crowd"].tolist(), strict=True
            )
        ]
        for sample in samples
    }


def same(ours: Samples, naive: Samples) -> bool:
    def equal(a, b) -> bool:
        return a[0] == b[0] and a[2] == b[2] and np.allclose(a[1], b[1], atol=1e-4)

    return ours.keys() == naive.keys() and all(
        len(ours[image]) == len(naive[image]) and all(map(equal, ours[image], naive[image])) for image in ours
    )


def run(kind: str, seeds: range, root: Path) -> tuple[int, int]:
    """Read one mutant per seed. Returns how many were read, and how many were refused that the naive reader reads."""
    make, naive, open_folder = KINDS[kind]
    opened = strict = 0
    for seed in seeds:
        rng = random.Random(seed)
        folder = mutate(make(rng), rng)
        write(folder, root)
        try:
            wanted: Samples | None = naive(folder, MIN_SIDE)
        except Refused:
            wanted = None
        try:
            got = read(open_folder(root))
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) > 20, seed
            strict += wanted is not None
            continue
        opened += 1
        assert wanted is not None and same(got, wanted), (seed, got, wanted)
    return opened, strict


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_of_annotation_folders_are_read_correctly_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    opened, strict = run(kind, range(100), tmp_path / kind)
    assert opened >= 30 and strict <= 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutants_of_annotation_folders(tmp_path: Path, kind: str) -> None:
    opened, strict = run(kind, range(100, 2600), tmp_path / kind)
    assert opened >= 750 and strict <= 375


def test_the_naive_readers_read_the_unchanged_folders(tmp_path: Path) -> None:
    for kind, (make, naive, open_folder) in KINDS.items():
        objects = 0
        for seed in range(8):
            write(folder := make(random.Random(seed)), tmp_path / kind)
            wanted = naive(folder, MIN_SIDE)
            objects += sum(map(len, wanted.values()))
            if any(wanted.values()):
                assert same(read(open_folder(tmp_path / kind)), wanted)
        assert objects > 8
