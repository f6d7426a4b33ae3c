"""Opens COCO annotation files and checks them for errors before training."""

from pathlib import Path
from typing import Literal

import hotcoco

from chordate.data.image_io import missing_file
from chordate.data.zip_files import split_archive
from chordate.errors import ConfigError, DataError, unknown

Health = Literal["error", "warn"]

# The codes of hotcoco's warnings about boxes, which `_box_report` summarizes; its other warnings are ignored.
_BOX_WARNINGS = ("degenerate_bbox", "bbox_out_of_bounds")


def open_index(path: Path) -> hotcoco.COCO:
    """Open an annotation file.

    Raises:
        DataError: the file does not exist, is truncated, or is not COCO JSON.
    """
    if not path.is_file():
        raise DataError(missing_file(path, "annotation"))
    try:
        return hotcoco.COCO(str(path))
    except ValueError as error:
        raise DataError(f"{path}: not COCO annotations, or truncated: {error}") from error


def check_health(index: hotcoco.COCO, source: str, health: Health) -> list[str]:
    """Report errors in an annotation file.

    Args:
        index: the opened file.
        source: the file's name, for messages.
        health: "error" raises on duplicate ids, annotations of unknown images or categories, annotations
            without a box or mask, boxes that are not in pixels and images without a size; "warn" only reports them.

    Returns:
        The problems, one line each.

    Raises:
        DataError: `health` is "error" and the file has such errors; the message lists the ids.
    """
    if health not in ("error", "warn"):
        raise ConfigError(unknown("health", str(health), ("error", "warn")))
    report = index.healthcheck()
    errors = [_with_ids(finding["message"].rstrip("."), finding["affected_ids"]) for finding in report["errors"]]
    errors += _relative_boxes(index)
    if errors and health == "error":
        raise DataError(
            f'{source}: {"; ".join(errors)}. Fix the file, or continue anyway with health="warn" in the dataset'
        )
    boxes = {id for w in report["warnings"] if w["code"] in _BOX_WARNINGS for id in w["affected_ids"]}
    return [f"{source}: {message}" for message in ("; ".join(errors), _box_report(index, sorted(boxes))) if message]


def _relative_boxes(index: hotcoco.COCO) -> list[str]:
    """A list with one error message if the first boxes have coordinates ≤ 1, as in YOLO's files; else empty."""
    sample = [a for a in index.load_anns(index.get_ann_ids()[:100]) if a.get("bbox")]
    if not sample or any(max(x + w, y + h) > 1 for x, y, w, h in (a["bbox"] for a in sample)):
        return []
    message = "boxes seem to be fractions of the image size; COCO's are in pixels: x, y, width, height"
    return [_with_ids(message, [a["id"] for a in sample])]


def _box_report(index: hotcoco.COCO, ids: list[int]) -> str:
    """One line: how many boxes are dropped, and how many are clipped to their images."""
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
        _with_ids(f"{len(ids)} {'box' if len(ids) == 1 else 'boxes'} {effect}", ids)
        for ids, effect in ((dropped, "without area in the image dropped"), (clipped, "clipped to the image"))
        if ids
    ]
    return ", ".join(parts)


def _with_ids(message: str, ids: list[int]) -> str:
    """Append the affected ids to a message; at most ten are listed."""
    listed = ", ".join(map(str, ids[:10])) + (f" … ({len(ids)} in all)" if len(ids) > 10 else "")
    return f"{message} (id {listed})"


def resolve_path(data_root: str | Path, path: str | Path) -> Path:
    """Join the data root (a folder, a zip, or a folder in a zip) and `path`; an absolute `path` is unchanged.

    Raises:
        DataError: `path` is relative, and the data root does not exist.
    """
    path, root = Path(path), Path(data_root)
    if not path.is_absolute() and not root.is_dir() and split_archive(root)[0] is None:
        raise DataError(f"{root}: no such data folder; set it with --data-root or CHORDATE_DATA")
    return root / path
