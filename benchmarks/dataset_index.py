"""Benchmark of opening an annotation file of COCO train2017's size: CocoDataset against pycocotools, time and memory.

Each side opens the file in a new process (CocoDataset also checks the annotations) and forks 4 workers, which read the
annotations, including polygons, of random images. A worker's memory is the size of its private pages
(Linux `smaps_rollup`); pages that are still shared with the parent do not count.

    python benchmarks/dataset_index.py [--file instances.json] [--images 118287 --annotations 860001]

`--file` keeps the generated file for another run; without it a temporary folder is used. The image files, which
CocoDataset only lists, are empty; they are in the folder `images` next to the file.
"""

import argparse
import json
import multiprocessing as mp
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

IMAGES, ANNOTATIONS, CATEGORIES, WORKERS, READS = 118_287, 860_001, 80, 4, 5_000  # the first three are train2017's
VERTICES = 24  # mean number of polygon vertices per instance; makes the file as large as train2017's


def generate(path: Path, images: int, annotations: int) -> None:
    """Write annotations in COCO format: star-shaped polygons of random sizes; records have all of COCO's fields."""
    rng = np.random.default_rng(0)
    owner = np.sort(rng.integers(0, images, annotations))
    with open(path, "w") as file:
        file.write('{"images": ')
        json.dump(
            [
                {
                    "license": 4,
                    "file_name": f"{i:012}.jpg",
                    "coco_url": f"http://images.cocodataset.org/train2017/{i:012}.jpg",
                    "height": 480,
                    "width": 640,
                    "date_captured": "2013-11-14 17:02:52",
                    "flickr_url": f"http://farm7.staticflickr.com/6116/{i}_z.jpg",
                    "id": i,
                }
                for i in range(images)
            ],
            file,
        )
        file.write(', "categories": ')
        json.dump([{"supercategory": "thing", "id": c, "name": f"class {c}"} for c in range(1, CATEGORIES + 1)], file)
        file.write(', "annotations": [')
        for i in track(range(annotations), "writing annotations"):
            count = int(rng.integers(8, 2 * VERTICES - 7))
            angle = np.sort(rng.random(count)) * 2 * np.pi
            radius = rng.uniform(5, 100) * rng.uniform(0.7, 1, count)
            points = np.stack([320 + radius * np.cos(angle), 240 + radius * np.sin(angle)], 1).round(2)
            (x, y), (right, bottom) = points.min(0), points.max(0)
            entry = {
                "segmentation": [points.ravel().tolist()],
                "area": float(radius.mean() ** 2 * 3),
                "iscrowd": 0,
                "image_id": int(owner[i]),
                "bbox": [x, y, round(right - x, 2), round(bottom - y, 2)],
                "category_id": int(rng.integers(1, CATEGORIES + 1)),
                "id": i + 1,
            }
            file.write((", " if i else "") + json.dumps(entry))
        file.write("]}")


def make_images(folder: Path, images: int) -> None:
    """Create empty files for the images that have none."""
    folder.mkdir(exist_ok=True)
    for name in {f"{i:012}.jpg" for i in range(images)}.difference(os.listdir(folder)):
        (folder / name).touch()


def memory(*fields: str) -> float:
    """Memory of this process in MB: the sum of the given fields of `smaps_rollup`."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    return sum(sizes[field] for field in fields) / 1024


def open_ours(file: Path) -> Callable[[int], Any]:
    from chordate.data import CocoDataset

    coco = CocoDataset(file, file.parent / "images").coco
    return lambda image: coco.load_anns(coco.get_ann_ids(img_ids=image))


def open_theirs(file: Path) -> Callable[[int], Any]:
    from pycocotools.coco import COCO

    coco = COCO(str(file))
    return lambda image: coco.loadAnns(coco.getAnnIds(imgIds=[image]))


SIDES: dict[str, Callable[[Path], Callable[[int], Any]]] = {"CocoDataset": open_ours, "pycocotools": open_theirs}


def measure(side: str, file: Path, images: int) -> dict[str, float]:
    """Time and memory of one side, which opens the file in this process and reads annotations in 4 forked workers."""
    import chordate.data  # noqa: F401  (import torch before measuring)

    before, wall, cpu = memory("Rss"), time.perf_counter(), time.process_time()
    read = SIDES[side](file)
    result = {
        "seconds to open": time.perf_counter() - wall,
        "seconds of CPU time (all threads)": time.process_time() - cpu,
        "MB of the parent": memory("Rss") - before,
    }
    context = mp.get_context("fork")
    answers: Any = context.Queue()

    def work(seed: int) -> None:
        wanted = random.Random(seed).choices(range(images), k=READS)
        start = time.perf_counter()
        for image in wanted:
            read(image)
        answers.put(((time.perf_counter() - start) / READS * 1e6, memory("Private_Clean", "Private_Dirty")))

    workers = [context.Process(target=work, args=(seed,)) for seed in range(WORKERS)]
    for worker in workers:
        worker.start()
    measured = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    result["MB of 4 workers, their own"] = sum(megabytes for _, megabytes in measured)
    result["MB in all"] = result["MB of the parent"] + result["MB of 4 workers, their own"]
    result["µs to read an image's annotations"] = sum(micros for micros, _ in measured) / WORKERS
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.file, options.images)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "instances.json"
        if not file.is_file():
            generate(file, options.images, options.annotations)
        make_images(file.parent / "images", options.images)
        results = {}
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--file", str(file), "--images", str(options.images)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[side] = json.loads(output.splitlines()[-1])
        size = file.stat().st_size / 2**20
    table = Table(title=f"{options.images:,} images, {options.annotations:,} annotations, {size:.0f} MB")
    for column in ("", *SIDES, "ratio"):
        table.add_column(column, justify="right" if column else "left")
    ours, theirs = results.values()
    for name in ours:
        table.add_row(name, f"{ours[name]:,.1f}", f"{theirs[name]:,.1f}", f"1/{theirs[name] / ours[name]:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
