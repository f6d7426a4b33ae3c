"""Mutated panoptic JSON files and PNGs are read as by a naive reader, or refused with a one-line error."""

import random
from pathlib import Path

import numpy as np
import pytest
from panoptic_mutants import Refused, Segments, mutate, read_naively, write_clean

from chordate.data.coco_panoptic import CocoPanoptic
from chordate.errors import DataError


def open_set(root: Path) -> CocoPanoptic:
    return CocoPanoptic("panoptic.json", "images", "segments", data_root=root)


def read(dataset: CocoPanoptic) -> Segments:
    """The segments of each image; asserts that the sample's labels, slots, crowd flags and boxes agree with them."""
    found: Segments = {}
    for index in range(len(dataset)):
        sample = dataset[0, index]
        file = Path(sample["info"].path).name
        numbers, labels, crowd = dataset.segments_of(int(dataset.image_ids[index]))
        semantic, slots = (np.asarray(sample[name]) for name in ("semantic", "slots"))
        rows, things = [], 0
        for place, (label, is_crowd) in enumerate(zip(labels.tolist(), crowd.tolist()), start=1):
            pixels = numbers.numpy() == place
            assert (semantic[pixels] == label + 1).all()
            if dataset.is_thing[label]:
                things += 1
                assert (slots[pixels] == things).all() and bool(sample["crowd"][things - 1]) == is_crowd
                ys, xs = np.nonzero(pixels)
                assert sample["boxes"][things - 1].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            else:
                assert (slots[pixels] == 0).all()
            rows.append((dataset.classes[label], bool(dataset.is_thing[label]), is_crowd, pixels.tobytes()))
        assert things == len(sample["boxes"]) and (semantic[numbers.numpy() == 0] == 0).all()
        found[file] = sorted(rows)
    return found


def run(seeds: range, root: Path) -> tuple[int, int]:
    """Read one mutant per seed; returns how many were read, and how many only the naive reader read."""
    opened = strict = 0
    for seed in seeds:
        rng = random.Random(seed)
        mutate(root, write_clean(root, rng), rng)
        try:
            wanted: Segments | None = read_naively(root)
        except Refused:
            wanted = None
        try:
            got = read(open_set(root))
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) > 20, seed
            strict += wanted is not None
            continue
        opened += 1
        assert wanted is not None and got == wanted, (seed, got.keys(), wanted and wanted.keys())
    return opened, strict


def test_mutants_of_panoptic_files_are_read_correctly_or_refused_in_one_line(tmp_path: Path) -> None:
    opened, strict = run(range(120), tmp_path)
    assert opened >= 40 and strict <= 8


@pytest.mark.slow
def test_many_mutants_of_panoptic_files(tmp_path: Path) -> None:
    opened, strict = run(range(120, 2120), tmp_path)
    assert opened >= 700 and strict <= 140
