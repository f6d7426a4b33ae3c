"""Predict on images: draw the predictions, and write them as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_options, nonempty
from chordate.text import first_names, pluralize

if TYPE_CHECKING:
    from chordate.structures import Detections

EXAMPLE = "chordate predict faster-rcnn_r50_fpn_1x_coco best_bbox_AP.pt street.jpg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a packaged config's name, or a config file")
    parser.add_argument("checkpoint", help="path or URL of a checkpoint of Chordate or another library")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders (subfolders are included)")
    parser.add_argument("--out", type=nonempty, default="predictions", help="folder for pictures and predictions.json")
    parser.add_argument(
        "--predictions", metavar="JSON", help="also write the detections as COCO results, with file_name beside the ids"
    )
    parser.add_argument(
        "--score-threshold", type=float,
        help="drop lower-scoring objects (default: 0.5; for panoptic segmentation none, as in the evaluation)",
    )  # fmt: skip
    parser.add_argument(
        "--boxes", type=nonempty, metavar="JSON",
        help="predictions.json of a detector on the same images: the objects of a top-down pose estimator",
    )  # fmt: skip
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    add_options(parser)


def image_files(names: list[str], out: Path) -> list[tuple[Path, str]]:
    """Expand the command's arguments, files and folders of images, to a list of image files.

    Images in subfolders are included, except those in `out`, which are the pictures of an earlier prediction.

    Returns:
        Each image file, and its path relative to the named folder (the file name if the file itself was named).

    Raises:
        DataError: a name is a URL, a missing file, or a folder without images.
    """
    from chordate.data.image_files import list_files, list_images, no_images
    from chordate.data.paths import missing_file
    from chordate.errors import DataError

    files: list[tuple[Path, str]] = []
    urls = [name for name in names if "://" in name]
    if urls:
        raise DataError(f"{urls[0]}: URLs are not supported; download the file first")
    for path in map(Path, names):
        if not path.exists():
            raise DataError(missing_file(path, "image"))
        folder = path if path.is_dir() else path.parent
        inside = list_images(path) if path.is_dir() else [path.name]
        beside = list_files(path, "") if path.is_dir() else []
        if path.resolve() in out.resolve().parents:
            inside, beside = ([name for name in part if not _lies_in(path / name, out)] for part in (inside, beside))
        if not inside:
            raise DataError(no_images(path))
        files += [(folder / name, name) for name in inside]
        if others := sorted(set(beside).difference(inside)):
            print(f"{path}: {pluralize(len(others), 'file')} left out, no image: {first_names(others)}")
    return files


def _lies_in(file: Path, folder: Path) -> bool:
    return folder.resolve() in file.resolve().parents


def boxes_of(images: list[Path], file: Path, classes: Sequence[str]) -> list[Detections]:
    """The boxes in a detector's `predictions.json` for each image; none for an image without a prediction.

    Raises:
        DataError: the file cannot be used, or all of its predictions are for other images.
    """
    import torch

    from chordate.data.object_boxes import read_predicted_boxes
    from chordate.errors import DataError
    from chordate.structures import Detections

    by_file = read_predicted_boxes(file, classes)
    if by_file and not any(path.resolve() in by_file for path in images):
        other = next(iter(by_file))
        raise DataError(f"{file}: no boxes for {images[0]}, but some for {other}; run the detector on the same images")
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return [by_file.get(path.resolve(), none) for path in images]


def run(arguments: argparse.Namespace) -> None:
    from rich.progress import track

    from chordate.api import predict
    from chordate.arguments import Fraction, validate_value
    from chordate.cli.common import load_trained
    from chordate.config import load_config
    from chordate.data.image_io import read_image
    from chordate.errors import ConfigError, DataError
    from chordate.evaluation.output_names import distinct_names
    from chordate.evaluation.packed_detections import coco_results
    from chordate.structures import ImageInfo
    from chordate.visualization import draw, to_picture, write_image

    threshold = arguments.score_threshold
    if threshold is not None:
        validate_value(Fraction, threshold, "--score-threshold")
    cfg = load_config(arguments.config, arguments.cfg_options)
    out, results = Path(arguments.out), Path(arguments.predictions or "")
    files = image_files(arguments.images, out)
    paths, names = [path for path, _ in files], distinct_names([name for _, name in files])
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is not a folder; name a folder for the pictures and predictions.json")
    if arguments.predictions and results.is_dir():
        raise ConfigError(f"--predictions {results} is a folder; name the file to write")
    for folder in (out, results.parent):
        folder.mkdir(parents=True, exist_ok=True)
    model = load_trained(cfg, arguments.checkpoint)
    boxes = None if arguments.boxes is None else boxes_of(paths, Path(arguments.boxes), model.classes)
    records: list[dict[str, Any]] = []
    coco_records: list[dict[str, Any]] = []
    broken: list[str] = []
    for number, path in enumerate(track(paths, description="predict")):
        try:
            channels = model.input_shape(*model.example_size)[0]
            image = read_image(path, channels=channels, white_level=model.meta.white_level)
            own = None if boxes is None else boxes[number]
            (prediction,) = predict(model, image, boxes=own, precision=arguments.precision)
        except DataError as error:  # continue with the other images, and report the error at the end
            broken.append(str(error))
            continue
        if arguments.score_threshold is None:
            threshold = prediction.display_threshold
        prediction = prediction.above(threshold)
        picture = draw(prediction, to_picture(image), model.meta)
        file = out / f"{names[number]}_prediction.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, picture)
        records += [{"file": str(path), **record} for record in prediction.to_records(model.meta)]
        if arguments.predictions:
            info = ImageInfo(number + 1, str(path), *image.shape[-2:])
            coco_records += coco_results(prediction, info, model.classes)
    read = len(paths) - len(broken)
    if read:
        (out / "predictions.json").write_text(json.dumps(records, indent=1) + "\n")
        hint = "" if records else f"; no score is ≥ {threshold:g}, try a lower --score-threshold"
        print(f"{pluralize(len(records), 'prediction')} on {pluralize(read, 'image')}: {out}/{hint}")
    if read and arguments.predictions:
        results.write_text(json.dumps(coco_records) + "\n")
    if broken:
        more = f"; and {len(broken) - 3} more unreadable images" if broken[3:] else ""
        raise DataError("; ".join(broken[:3]) + more)
