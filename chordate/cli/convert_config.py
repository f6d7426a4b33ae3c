"""Convert a config of Detectron2, MMDetection or MMSegmentation to a Chordate config.

The file is read as data; only `--execute` runs its code. Settings that are not carried over are printed as a table.
The exit status is 0 if the model predicts and trains as in the other framework, 1 if not, and 2 after an error, for
example if Chordate has no such model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

from chordate.cli.common import nonempty
from chordate.errors import ConfigError

EXAMPLE = "chordate convert-config mask_rcnn_R_50_FPN_1x.yaml mine.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=nonempty, help="a .yaml file of Detectron2, or a .py file of MMDetection or MMSegmentation"
    )
    parser.add_argument("out", nargs="?", type=nonempty, help="the Chordate config to write (default: print it)")
    parser.add_argument("--execute", action="store_true", help="run the code of a .py file that cannot be read as data")


def run(arguments: argparse.Namespace) -> int:
    from chordate.migration import convert_file

    if arguments.out:
        out = Path(arguments.out)
        if out.suffix != ".py":
            raise ConfigError(f"{out}: a config is a Python file; name it {out.stem}.py")
        if out.exists():
            raise ConfigError(f"{out} exists; choose another name")
    text, conversion = convert_file(arguments.file, execute=arguments.execute)
    if arguments.out:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{out} cannot be written: {error.strerror}") from error
    else:
        print(text, end="")
    messages = sys.stdout if arguments.out else sys.stderr
    if conversion.not_carried:
        print(conversion.table(), file=messages)
    if arguments.out:
        print(f"{out}: {_outcome(conversion.effects, conversion.changes_numbers)}", file=messages)
    return int(conversion.changes_numbers)


def _outcome(effects: Collection[str], changes_numbers: bool) -> str:
    if not changes_numbers:
        return "predicts and trains as the original" + ("; set the data as listed above" if "data" in effects else "")
    what = [effect for effect in ("predictions", "training") if effect in effects]
    return f"differs from the original in {' and '.join(what)}, as listed above"
