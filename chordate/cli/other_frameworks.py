"""Recognizes the options and settings of Detectron2, MMDetection and Ultralytics, and names ours in the error."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence

from chordate.section_names import SECTIONS, renamed

TORCHRUN = "start one process per GPU: torchrun --nproc_per_node N -m chordate {command} CONFIG"
OPTIONS = {
    "--config-file": "the config is the first argument: chordate {command} CONFIG",
    "--num-gpus": TORCHRUN,
    "--gpus": TORCHRUN,
    "--launcher": TORCHRUN,
    "--eval-only": "write chordate test CONFIG CHECKPOINT",
    "--output-dir": "write --work-dir DIR",
}


def explain(words: Sequence[str], command: str, options: Collection[str]) -> str | None:
    """The error message for other frameworks' options or settings on a command line; None if there are none.

    Args:
        words: the command line after `chordate <command>`.
        command: the command, such as `train`.
        options: the command's options, such as `--work-dir`.
    """
    settings, in_cfg_options = [], False
    for word in words:
        if word.startswith("-"):
            option = word.partition("=")[0]
            in_cfg_options = option.startswith("--cf")  # argparse accepts abbreviations of --cfg-options
            hyphenated = option.replace("_", "-")
            if option in options:
                continue
            if hyphenated in options:
                return f"{option} is written {hyphenated} here"
            if hyphenated in OPTIONS:
                return f"no option {option}; {OPTIONS[hyphenated].format(command=command)}"
        elif not in_cfg_options and (message := _setting(word)):
            settings.append(message)
    if not settings:
        return None
    return f"{'; '.join(settings)}; settings follow --cfg-options: chordate {command} … --cfg-options KEY=VALUE"


def _setting(word: str) -> str | None:
    """Error message for a setting outside of --cfg-options: `SOLVER.BASE_LR`, `epochs=3`, `optimizer.lr=0.1`; None if
    the word is something else, such as a file."""
    key, equals, _ = word.partition("=")
    pattern = r"[A-Za-z_][\w.]*" if equals else r"[A-Z][A-Z0-9_.]*"
    if os.path.exists(word.partition("/")[0]) or not re.fullmatch(pattern, key):
        return None
    return renamed([key]) or (f"`{key}` is a setting" if equals and key.split(".")[0] in SECTIONS else None)
