"""Opening a COCO annotation file, and the health check that stands before training on it."""

import logging
from pathlib import Path
from typing import Any, Literal

import hotcoco
from mmengine.logging import print_log

from chordate.data.reading import missing_file
from chordate.errors import ConfigError, DataError, unknown

Health = Literal["error", "warn"]

# What the check calls a warning and every detection set has: rare classes, crowded images.
_NOT_WORTH_TELLING = {"low_instance_category", "zero_instance_category", "near_duplicate", "bbox_out_of_bounds"}


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


def check_health(index: hotcoco.COCO, source: str, health: Health) -> None:
    """Report what is wrong with an annotation file before anything is trained on it.

    Args:
        index: of the file.
        source: the file's name, for messages.
        health: "error" stops at duplicate ids, annotations of unknown images or categories, annotations
            without geometry and images without a size; "warn" reports them and goes on.

    Raises:
        DataError: there are such errors; the message has their ids.
    """
    if health not in ("error", "warn"):
        raise ConfigError(unknown("health", str(health), ("error", "warn")))
    report = index.healthcheck()
    errors = "; ".join(_told(finding) for finding in report["errors"])
    if errors and health == "error":
        raise DataError(f'{source}: {errors}. Mend the file, or set health="warn" to go on without them')
    findings = [*report["errors"], *(w for w in report["warnings"] if w["code"] not in _NOT_WORTH_TELLING)]
    for finding in findings:
        print_log(f"{source}: {_told(finding)}", logger="current", level=logging.WARNING)


def _told(finding: dict[str, Any]) -> str:
    ids = finding["affected_ids"]
    shown = ", ".join(map(str, ids[:10])) + (f" … ({len(ids)} in all)" if len(ids) > 10 else "")
    return f"{finding['message'].rstrip('.')} (id {shown})"


def located(data_root: str | Path, path: str | Path) -> Path:
    """`path` under the data root; an absolute one as it is.

    Raises:
        DataError: the path is relative, and the data root does not exist.
    """
    path, root = Path(path), Path(data_root)
    if not path.is_absolute() and not root.is_dir():
        raise DataError(f"{root}: no such data folder; name it with --data-root, or set CHORDATE_DATA")
    return root / path
