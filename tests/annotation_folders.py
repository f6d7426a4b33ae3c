"""Writes small Pascal VOC and YOLO folders, and lists the samples of a dataset."""

from pathlib import Path

import numpy as np
from raw_images import png

HEIGHT, WIDTH = 60, 80
PNG = png(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def voc_xml(filename: str = "", name: str = "cat", corners=(11, 6, 30, 25), size: str | None = None) -> str:
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>" if size is None else size
    named = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{named}{size}<object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"


def voc(root: Path, files: dict[str, str], images: list[str]) -> Path:
    """Write XML files below `Annotations/` and images below `JPEGImages/`."""
    for name, content in files.items():
        write(root / "Annotations" / name, content)
    for name in images:
        write(root / "JPEGImages" / name, PNG)
    return root


def yolo(
    root: Path, labels: dict[str, str | bytes], images: list[str], names: str | None = "names: [cat, dog]"
) -> Path:
    for name, content in labels.items():
        write(root / "labels" / name, content)
    for name in images:
        write(root / "images" / name, PNG)
    if names is not None:
        write(root / "data.yaml", names)
    return root


def samples(dataset) -> dict[str, list]:
    """Dict from the path of each image, relative to the image folder, to its objects as (class name, box)."""
    read = [dataset[(0, index)] for index in range(len(dataset))]
    return {
        Path(sample["info"].path).relative_to(dataset.images).as_posix(): [
            (dataset.classes[label], box) for label, box in zip(sample["labels"].tolist(), sample["boxes"].tolist())
        ]
        for sample in read
    }


CAT = ("cat", [10.0, 5.0, 30.0, 25.0])
LINE = "0 0.25 0.25 0.25 0.3333333333"


def is_cat(objects: list) -> bool:
    return [name for name, _ in objects] == ["cat"] and np.allclose(objects[0][1], [10, 5, 30, 25], atol=1e-4)
