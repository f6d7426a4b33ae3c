"""Mutated VOC and YOLO folders are read as by a naive reader, or refused with a one-line error."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annotation_mutants import (
    Folder,
    Refused,
    Samples,
    mutate,
    naive_voc,
    naive_yolo,
    voc_folder,
    yolo_folder,
)
from yolo_descriptions import describe, naive_description

from chordate.data import VocDataset, YoloDataset
from chordate.data.coco import CocoDataset
from chordate.data.coco_geometry import MIN_SIDE
from chordate.errors import DataError

Opener = Callable[[Path, bool], CocoDataset]  # opens a folder, with masks or not


def open_voc(root: Path, masks: bool) -> CocoDataset:
    return VocDataset(root)


def open_yolo(root: Path, masks: bool) -> CocoDataset:
    return YoloDataset("images", "labels", "data.yaml", masks=masks, data_root=root)


def open_description(root: Path, masks: bool) -> CocoDataset:
    return YoloDataset(data="data.yaml", split="train", masks=masks, data_root=root)


def mutant(kind: str, rng: random.Random) -> tuple[Folder, Callable[[], Samples]]:
    """A mutated folder, and a function that reads it naively."""
    if kind == "data.yaml":
        description = describe(rng)
        return description.folder, lambda: naive_description(description, MIN_SIDE)
    make, naive, _ = KINDS[kind]
    folder = mutate(make(rng), rng)
    return folder, lambda: naive(folder, MIN_SIDE)


KINDS = {"voc": (voc_folder, naive_voc, open_voc), "yolo": (yolo_folder, naive_yolo, open_yolo)}
OPENERS: dict[str, Opener] = {kind: opener for kind, (_, _, opener) in KINDS.items()} | {"data.yaml": open_description}


def write(folder: Folder, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for path, content in folder.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def read(dataset: CocoDataset, root: Path) -> Samples:
    """The samples of a dataset, keyed by image path relative to the root."""
    samples: Samples = {}
    for sample in (dataset.read(index) for index in range(len(dataset))):
        objects = samples[Path(sample["info"].path).relative_to(root).as_posix()] = []
        rings = sample["polygons"].rings() if "polygons" in sample else [[] for _ in sample["boxes"]]
        fields = (sample["labels"].tolist(), sample["boxes"].tolist(), sample["crowd"].tolist(), rings)
        for label, box, crowd, polygons in zip(*fields, strict=True):
            outline = tuple(sorted(map(tuple, polygons[0].tolist()))) if polygons else None
            objects.append((dataset.classes[label], tuple(box), crowd, outline))
    return samples


def same(ours: Samples, naive: Samples) -> bool:
    def equal(a, b) -> bool:
        boxes = a[0] == b[0] and a[2] == b[2] and np.allclose(a[1], b[1], atol=1e-4)
        if a[3] is None or b[3] is None:
            return boxes and a[3] is b[3]
        return boxes and np.shape(a[3]) == np.shape(b[3]) and np.allclose(a[3], b[3], atol=1e-4)

    return ours.keys() == naive.keys() and all(
        len(ours[image]) == len(naive[image]) and all(map(equal, ours[image], naive[image])) for image in ours
    )


def run(kind: str, seeds: range, root: Path) -> tuple[int, int, int]:
    """Read one mutant per seed. Returns how many were read, how many of these with masks, and how many were refused
    although the naive reader reads them."""
    opened = strict = masked = 0
    for seed in seeds:
        folder, naive = mutant(kind, random.Random(seed))
        write(folder, root)
        try:
            wanted: Samples | None = naive()
        except Refused:
            wanted = None
        # Without a single polygon, a dataset cannot be opened with masks.
        masks = any(one[3] is not None for rows in (wanted or {}).values() for one in rows)
        try:
            dataset = OPENERS[kind](root, masks)
            got = read(dataset, dataset.images if kind != "data.yaml" else root)
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) > 20, seed
            strict += wanted is not None
            continue
        opened, masked = opened + 1, masked + masks
        assert wanted is not None and same(got, wanted), (seed, got, wanted)
    return opened, masked, strict


@pytest.mark.parametrize("kind", OPENERS)
def test_mutants_of_annotation_folders_are_read_correctly_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    opened, masked, strict = run(kind, range(100), tmp_path / kind)
    assert opened >= 30 and strict <= 15 and (masked >= 10 or kind == "voc")


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPENERS)
def test_many_mutants_of_annotation_folders(tmp_path: Path, kind: str) -> None:
    opened, masked, strict = run(kind, range(100, 2600), tmp_path / kind)
    assert opened >= 750 and strict <= 375 and (masked >= 250 or kind == "voc")


def test_the_naive_readers_read_the_unchanged_folders(tmp_path: Path) -> None:
    for kind, (make, naive, open_folder) in KINDS.items():
        objects = 0
        for seed in range(8):
            write(folder := make(random.Random(seed)), tmp_path / kind)
            wanted = naive(folder, MIN_SIDE)
            objects += sum(map(len, wanted.values()))
            if any(wanted.values()):
                dataset = open_folder(tmp_path / kind, False)
                boxes = {image: [(*one[:3], None) for one in rows] for image, rows in wanted.items()}
                assert same(read(dataset, dataset.images), boxes)
        assert objects > 8
