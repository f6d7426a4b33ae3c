"""Opening a COCO annotation file, and the health check that stands before training on it."""

from pathlib import Path
from typing import Literal

import hotcoco

from chordate.data.image_io import missing_file
from chordate.data.zip_files import split_archive
from chordate.errors import ConfigError, DataError, unknown

Health = Literal["error", "warn"]

# Warnings about boxes, told in our own words; the others (rare classes, similar boxes) are of no concern here.
_BOX_WARNINGS = ("degenerate_bbox", "bbox_out_of_bounds")


def open_index(path: Path) -> hotcoco.COCO:
    """The index of an annotation file.

    Raises:
        DataError: no such file, or not COCO JSON (cut short, for example).
    """
    if not path.is_file():
        raise DataError(missing_file(path, "annotation"))
    try:
        return hotcoco.COCO(str(path))
    except ValueError as error:
        raise DataError(f"{path}: not COCO annotations, or cut short: {error}") from error


def check_health(index: hotcoco.COCO, source: str, health: Health) -> list[str]:
    """Report what is wrong with an annotation file before anything is trained on it.

    Args:
        index: of the file.
        source: the file's name, for messages.
        health: "error" stops at duplicate ids, annotations of unknown images or categories, annotations
            without geometry, boxes that are not in pixels and images without a size; "warn" reports them and goes on.

    Returns:
        the problems, one line each.

    Raises:
        DataError: there are such errors; the message has their ids.
    """
    if health not in ("error", "warn"):
        raise ConfigError(unknown("health", str(health), ("error", "warn")))
    report = index.healthcheck()
    errors = [_told(finding["message"].rstrip("."), finding["affected_ids"]) for finding in report["errors"]]
    errors += _shares(index)
    if errors and health == "error":
        raise DataError(
            f'{source}: {"; ".join(errors)}. Mend the file, or go on regardless with health="warn" in the data set'
        )
    boxes = {id for w in report["warnings"] if w["code"] in _BOX_WARNINGS for id in w["affected_ids"]}
    return [f"{source}: {message}" for message in ("; ".join(errors), _box_report(index, sorted(boxes))) if message]


def _shares(index: hotcoco.COCO) -> list[str]:
    """An error if the first boxes lie between 0 and 1, as in YOLO's files."""
    sample = [a for a in index.load_anns(index.get_ann_ids()[:100]) if a.get("bbox")]
    if not sample or any(max(x + w, y + h) > 1 for x, y, w, h in (a["bbox"] for a in sample)):
        return []
    return [
        _told("boxes seem to be shares of the picture; COCO has pixels: x, y, width, height", [a["id"] for a in sample])
    ]


def _box_report(index: hotcoco.COCO, ids: list[int]) -> str:
    """How many of the boxes will be clipped to their pictures, and how many have no area there and are dropped."""
    clipped, dropped = [], []
    for annotation in index.load_anns(ids):
        image = index.load_imgs([annotation["image_id"]])[0]
        x, y, w, h = annotation["bbox"]
        width = min(x + w, image["width"]) - max(x, 0)
        height = min(y + h, image["height"]) - max(y, 0)
        if width <= 0 or height <= 0:
            dropped.append(annotation["id"])
        elif width < w or height < h:
            clipped.append(annotation["id"])
    parts = [
        _told(f"{len(found)} {'box' if len(found) == 1 else 'boxes'} {fate}", found)
        for found, fate in ((dropped, "without area in the picture left out"), (clipped, "clipped to the picture"))
        if found
    ]
    return ", ".join(parts)


def _told(message: str, ids: list[int]) -> str:
    """The message with the first of the ids that it is about."""
    shown = ", ".join(map(str, ids[:10])) + (f" … ({len(ids)} in all)" if len(ids) > 10 else "")
    return f"{message} (id {shown})"


def located(data_root: str | Path, path: str | Path) -> Path:
    """`path` under the data root (a folder, or a zip of class folders, or a folder in one); an absolute one as it is.

    Raises:
        DataError: the path is relative, and the data root does not exist.
    """
    path, root = Path(path), Path(data_root)
    if not path.is_absolute() and not root.is_dir() and split_archive(root)[0] is None:
        raise DataError(f"{root}: no such data folder; name it with --data-root, or set CHORDATE_DATA")
    return root / path
