"""Converts all configs in folders of Detectron2, MMDetection or MMSegmentation, and builds the models.

    python tools/analysis/convert_configs.py --root detectron2/configs COCO-Detection Misc [--reasons]

For each folder, it counts four sets, each a subset of the one before: all configs; configs that can be converted and
built; configs that predict the same as the original with the same weights; and configs that also train the same. The
last two are judged by the settings that are not carried over; no model is run.
`--reasons` lists the settings that are not carried over, and why configs are refused. Base files (Base-….yaml, and .py
files without a model) are not counted.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import chordate
from chordate.config import load_config
from chordate.errors import ChordateError
from chordate.migration import convert_file
from chordate.migration.config_defaults import equal, without_defaults
from chordate.migration.nearest_config import KEPT

COLUMNS = ("configs", "built", "same predictions", "same training")


def count_folder(folder: Path, suffix: str, reasons: Counter[str]) -> Counter[str]:
    """Convert and build all configs of a folder; count in `reasons` the settings not carried over and the errors."""
    counts: Counter[str] = Counter()
    for path in sorted(folder.glob(f"*{suffix}")):
        whole = suffix != ".py" or re.search(r"^(model|_base_)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
        if path.name.startswith(("Base-", "metafile")) or not whole:
            continue
        counts["configs"] += 1
        try:
            text, conversion = convert_file(path)
            build(text, conversion.config)
        except ChordateError as error:
            message = str(error).partition(f"{path}: ")[2] or str(error)
            reasons[f"refused: {message}"] += 1
            continue
        counts["built"] += 1
        counts["same predictions"] += "predictions" not in conversion.effects
        counts["same training"] += not conversion.changes_numbers
        for lost in conversion.not_carried:
            reasons[f"{lost.effect}: {lost.key}: {lost.reason}"] += 1
    return counts


def build(text: str, config: dict[str, Any]) -> None:
    """Build the model of a converted config; check that the written file means the same as the complete config."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "converted.py")
        path.write_text(text, encoding="utf-8")
        loaded = load_config(path)
        written = without_defaults(loaded.to_dict())
        wanted = without_defaults(config)
        for section, key in KEPT:
            written.get(section, {}).pop(key, None)
            wanted.get(section, {}).pop(key, None)
        for section in {*written, *wanted}:
            if not equal(written.get(section) or {}, wanted.get(section) or {}):
                raise AssertionError(f"{section}: the file has {written.get(section)}, not {wanted.get(section)}")
        with torch.device("meta"):
            chordate.build_model(loaded, pretrained=False)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folders", nargs="+", help="folders, relative to --root")
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--suffix", default=".yaml", help=".yaml or .py")
    parser.add_argument("--reasons", action="store_true")
    arguments = parser.parse_args(argv)
    table, total = Table("folder", *COLUMNS), Counter[str]()
    reasons: Counter[str] = Counter()
    for name in arguments.folders:
        counts = count_folder(arguments.root / name, arguments.suffix, reasons)
        table.add_row(name, *(str(counts[column]) for column in COLUMNS))
        total += counts
    table.add_row("total", *(str(total[column]) for column in COLUMNS))
    Console(width=100).print(table)
    if arguments.reasons:
        for reason, count in sorted(reasons.items()):
            print(f"{count:4} × {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
