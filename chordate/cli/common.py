"""Command-line arguments and functions that several commands share."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.errors import ConfigError
from chordate.literals import literal

if TYPE_CHECKING:
    from mmengine.config import Config

    from chordate.structures import DatasetMeta


def add_config_arguments(
    parser: argparse.ArgumentParser, what: str = "a packaged config's name, or a config file"
) -> None:
    """Add CONFIG, --data-root and --cfg-options, the arguments of every command that works on a dataset.

    `what` is the help text of CONFIG.
    """
    parser.add_argument("config", help=what)
    parser.add_argument(
        "--data-root", type=nonempty, help="folder of the dataset (default: $CHORDATE_DATA, else data/)"
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --cfg-options."""
    parser.add_argument(
        "--cfg-options", nargs="+", action=Options, default={}, metavar="KEY=VALUE",
        help="override settings of the config, for example optimizer.lr=0.01",
    )  # fmt: skip


def nonempty(text: str) -> str:
    """Argument type that rejects empty strings, for example from an unset shell variable."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty; leave the option out instead")
    return text


def check_out(out: Path, source: str) -> None:
    """Check that `out` does not exist, so a command that reads the file `source` overwrites nothing.

    Raises:
        ConfigError: `out` is a folder, or exists.
    """
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name the file to write")
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise ConfigError(f"{out} is the checkpoint to read; name another file to write")
    if out.exists():
        raise ConfigError(f"{out} exists; name another file to write, or delete it")


class Options(argparse.Action):
    """Parses KEY=VALUE pairs; values are numbers, True, False, None, words, lists of these, or dicts, see `literal`."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        from mmengine.config import DictAction  # imported here, because it takes a third of a second

        for value in values:
            key, equals, text = value.partition("=")
            if not equals:
                parser.error(f"{option_string} {value}: give KEY=VALUE")
            try:
                if re.search(r"\{|\bdict\(", text):  # DictAction would keep a dict as a string
                    setattr(namespace, self.dest, {**getattr(namespace, self.dest), key: literal(text)})
                else:
                    DictAction([], self.dest)(parser, namespace, [value], option_string)
            except (RecursionError, ValueError, AssertionError, SyntaxError):
                example = "numbers, words, lists of these, or a dict such as dict(type='SGD', lr=0.1)"
                parser.error(f"{option_string} {value}: cannot be read; write {example}")


def data_root(arguments: argparse.Namespace) -> Path:
    return Path(arguments.data_root or os.environ.get("CHORDATE_DATA") or "data")


def load_trained(cfg: Config, checkpoint: str, data_meta: Callable[[], DatasetMeta] | None = None) -> Any:
    """Build the config's model on this process's device, load a checkpoint's weights and classes, print a load report.

    Args:
        cfg: the config.
        checkpoint: path or URL of the checkpoint.
        data_meta: opens the evaluation data and returns their metadata. It is called for a checkpoint without class
            names if the config has no class names either, or has a number of classes that does not fit the checkpoint.

    Raises:
        ConfigError: neither the checkpoint nor the config names the classes.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    from chordate.distributed import is_main_process
    from chordate.errors import CheckpointError
    from chordate.launch import device
    from chordate.models.build import build_model, config_meta
    from chordate.weights.checkpoint_schema import checkpoint_meta
    from chordate.weights.checkpoint_sources import read_state

    state = read_state(checkpoint)
    named = config_meta(cfg)
    try:
        model: Any = build_model(cfg, checkpoint=state)
    except (CheckpointError, ConfigError):
        if data_meta is None or checkpoint_meta(state) is not None:
            raise
        meta = data_meta()
        if named is not None and len(named.classes) == len(meta.classes):
            raise
        try:
            model = build_model(cfg, meta=meta, checkpoint=state)
        except CheckpointError as error:
            raise CheckpointError(
                f"{checkpoint} has no class names, and does not fit a model for the {len(meta.classes)} classes of the "
                f"evaluation data: {error}"
            ) from error
        if is_main_process():
            print(f"{checkpoint} has no class names; its {len(meta.classes)} classes are named by the evaluation data")
    if is_main_process():
        print(model.load_report)
    return model.to(device())
