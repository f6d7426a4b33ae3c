"""Detect on pictures or classify them, draw what was found, and write it as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_options

if TYPE_CHECKING:
    from chordate.structures import Classification, Detections, Skeleton

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a packaged config's name, or a config file")
    parser.add_argument("checkpoint", help="path or URL of a checkpoint, Chordate's own or a foreign one")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, or folders of them")
    parser.add_argument("--out", default="predictions", help="folder for drawn pictures and a JSON file")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="drop detections below it (0.5)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    add_options(parser)


def picture_files(given: list[str]) -> list[Path]:
    """The files among `given`, and the pictures in the folders among them.

    Raises:
        DataError: there is no such file, or a folder holds no picture.
    """
    from chordate.data.image_io import missing_file
    from chordate.errors import DataError

    found: list[Path] = []
    for path in map(Path, given):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: no pictures in this folder ({', '.join(SUFFIXES)})")
        if not inside[0].exists():
            raise DataError(missing_file(path, "image"))
        found += inside
    return found


def run(arguments: argparse.Namespace) -> None:
    from rich.progress import track

    from chordate import checks
    from chordate.api import predict
    from chordate.cli.common import load_trained
    from chordate.config import load_config
    from chordate.data.image_io import read_image
    from chordate.errors import DataError
    from chordate.structures import Classification
    from chordate.visualization import draw, draw_class, write_image

    checks.number("--score-threshold", arguments.score_threshold, least=0, below=1)
    cfg = load_config(arguments.config, arguments.cfg_options)
    paths = picture_files(arguments.images)
    model = load_trained(cfg, arguments.checkpoint)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    drawn: set[str] = set()
    classifies = False
    for number, path in enumerate(track(paths, description="predict")):
        try:
            image = read_image(path)
        except DataError as error:  # the rest is worth having
            broken.append(str(error))
            continue
        picture = image.permute(1, 2, 0).numpy()
        (found,) = predict(model, image, score_threshold=arguments.score_threshold, precision=arguments.precision)
        classifies = isinstance(found, Classification)
        name = f"{path.stem}_{number}" if path.stem in drawn else path.stem
        drawn.add(path.stem)
        if classifies:
            write_image(out / f"{name}_class.png", draw_class(picture, found, model.classes))
            rows.append({"file": str(path), "found": class_rows(found, model.classes)})
        else:
            skeleton = getattr(model, "skeleton", None)
            write_image(out / f"{name}_detections.png", draw(picture, found, model.classes, skeleton=skeleton))
            rows += [{"file": str(path), **row} for row in detection_rows(found, model.classes, skeleton)]
    read = len(paths) - len(broken)
    if read:
        (out / ("classes.json" if classifies else "detections.json")).write_text(json.dumps(rows, indent=1) + "\n")
    if classifies:
        print(f"{read} picture(s) classified: {out}/")
    elif read:
        hint = "" if rows else f"; nothing scores {arguments.score_threshold:g}, try a lower --score-threshold"
        print(f"{len(rows)} detections on {read} picture(s): {out}/{hint}")
    if broken:
        more = f"; and {len(broken) - 3} more such pictures" if broken[3:] else ""
        raise DataError("; ".join(broken[:3]) + more)


def detection_rows(
    found: Detections, classes: tuple[str, ...], skeleton: Skeleton | None = None
) -> list[dict[str, Any]]:
    """For each detection its class, score and box in pixels of the picture, and what else the model finds: the mask in
    COCO's run lengths, and by name each keypoint's x, y and score (a logit)."""
    from chordate.data.rle import encode_masks

    rows: list[dict[str, Any]] = [
        {"class": classes[label], "score": round(score, 4), "box": [round(x, 2) for x in box]}
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    ]
    if found.masks is not None:
        for row, mask in zip(rows, encode_masks(found.masks)):
            row["mask"] = mask
    if found.keypoints is not None and skeleton is not None:
        for row, points in zip(rows, found.keypoints.tolist()):
            row["keypoints"] = {name: [round(x, 2) for x in point] for name, point in zip(skeleton.names, points)}
    return rows


def class_rows(found: Classification, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The best five classes and their scores, best first."""
    return [{"class": classes[label], "score": round(score, 4)} for label, score in found.top(5)]
