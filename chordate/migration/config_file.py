"""Converts a config file of Detectron2, MMDetection or MMSegmentation to the text of a Chordate config."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import NamedTuple

from chordate.errors import ChordateError, ConfigError
from chordate.migration.config_conversion import Conversion
from chordate.migration.config_defaults import check_arguments
from chordate.migration.config_writer import write_config
from chordate.migration.detectron2_config import convert_detectron2
from chordate.migration.mm_config import convert_mm
from chordate.migration.nearest_config import find_nearest
from chordate.text import one_line


class Converted(NamedTuple):
    """A converted config file.

    Attributes:
        text: the Chordate config as Python source.
        conversion: the Chordate config as dicts, and the settings that are not carried over.
    """

    text: str
    conversion: Conversion


def convert_file(path: str | Path, *, execute: bool = False) -> Converted:
    """Convert a config file: `.yaml` and `.yml` are Detectron2's, `.py` MMDetection's or MMSegmentation's.

    Args:
        path: the file.
        execute: whether to run the code of a `.py` file, instead of reading it as data.

    Raises:
        ConfigError: the file cannot be read, Chordate has no such model, or a setting has an unexpected value.
    """
    path = Path(path)
    try:
        if path.suffix in (".yaml", ".yml"):
            conversion = convert_detectron2(path)
        elif path.suffix == ".py":
            conversion = convert_mm(path, execute=execute)
        else:
            raise ConfigError(f"{path}: must be a .yaml file (Detectron2) or a .py file (MMDetection, MMSegmentation)")
        check_arguments(conversion.config)
        docstring = [f"Converted from {path.name} by chordate convert-config.", *_about(conversion)]
        text = write_config(docstring, *find_nearest(conversion.config))
    except ChordateError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(f"{path}:") else f"{path}: {message}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"[:200]
        raise ConfigError(f"{path}: a setting has an unexpected value ({reason})") from error
    return Converted(text, conversion)


def _about(conversion: Conversion) -> list[str]:
    """Lines of the config's docstring: notes, and the settings that are not carried over."""
    lines = [line for note in conversion.notes for line in ("", *textwrap.wrap(note, 120))]
    if conversion.not_carried:
        lines += ["", "Not carried over:", "", *(f"    {row}" for row in conversion.table().splitlines())]
    return lines
