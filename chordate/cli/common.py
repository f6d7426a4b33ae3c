"""Arguments and steps that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.config import Config


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, --data-root and --cfg-options, as every command that works on a data set takes them."""
    parser.add_argument("config", help="a packaged config's name, or a config file")
    parser.add_argument("--data-root", help="folder of the data set (default: $CHORDATE_DATA, else data/)")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """--cfg-options."""
    parser.add_argument(
        "--cfg-options", nargs="+", action=Options, default={}, metavar="KEY=VALUE",
        help="override settings of the config, for example optimizer.lr=0.01",
    )  # fmt: skip


class Options(argparse.Action):
    """KEY=VALUE pairs; values are numbers, True, False, None, words, and lists of these."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        from mmengine.config import DictAction  # which takes a third of a second

        for value in values:
            if "=" not in value:
                parser.error(f"{option_string} {value}: give KEY=VALUE")
        try:
            DictAction([], self.dest)(parser, namespace, values, option_string)
        except (RecursionError, ValueError, AssertionError):  # it reads lists of plain values, not of dicts
            parser.error(f"{option_string} {' '.join(values)}: write numbers, words and lists of these as values")


def data_root(arguments: argparse.Namespace) -> Path:
    return Path(arguments.data_root or os.environ.get("CHORDATE_DATA") or "data")


def load_trained(cfg: Config, checkpoint: str) -> Any:
    """The config's model with a checkpoint's weights and classes, on this process's device; says what was loaded.

    Raises:
        ConfigError: neither the checkpoint nor the config says what the classes are.
        CheckpointError: the checkpoint cannot be read or is another model's.
    """
    from chordate.launch import device
    from chordate.models.build import build_model

    model: Any = build_model(cfg, checkpoint=checkpoint)
    print(model.load_report)
    return model.to(device())
