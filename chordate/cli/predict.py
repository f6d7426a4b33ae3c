"""Detect on pictures, draw what was found, and write it as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chordate.cli.common import add_options

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a packaged config's name, or a config file")
    parser.add_argument("checkpoint", help="path or URL of a checkpoint, Chordate's own or a foreign one")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, or folders of them")
    parser.add_argument("--out", default="predictions", help="folder for the drawn pictures and detections.json")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="drop detections below it (0.5)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    add_options(parser)


def picture_files(given: list[str]) -> list[Path]:
    """The files among `given`, and the pictures in the folders among them.

    Raises:
        DataError: there is no such file, or a folder holds no picture.
    """
    from chordate.data.reading import missing_file
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

    from chordate.api import predict
    from chordate.cli.common import load_trained
    from chordate.config import load_config
    from chordate.data.reading import read_image
    from chordate.visualization import draw, write_image

    cfg = load_config(arguments.config, arguments.cfg_options)
    paths = picture_files(arguments.images)
    model = load_trained(cfg, arguments.checkpoint)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, path in enumerate(track(paths, description="predict")):
        image = read_image(path)
        (found,) = predict(model, image, score_threshold=arguments.score_threshold, precision=arguments.precision)
        repeated = path.stem in (other.stem for other in paths[:number])
        name = f"{path.stem}_{number}" if repeated else path.stem
        write_image(out / f"{name}_detections.png", draw(image.permute(1, 2, 0).numpy(), found, model.classes))
        rows += [
            {
                "file": str(path),
                "class": model.classes[label],
                "score": round(score, 4),
                "box": [round(x, 2) for x in box],
            }
            for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
        ]
    (out / "detections.json").write_text(json.dumps(rows, indent=1) + "\n")
    hint = "" if rows else f"; nothing scores {arguments.score_threshold:g}, try a lower --score-threshold"
    print(f"{len(rows)} detections on {len(paths)} picture(s): {out}/{hint}")
