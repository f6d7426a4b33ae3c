"""Arguments and steps that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import DictAction

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
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE",
        help="override settings of the config, for example optimizer.lr=0.01",
    )  # fmt: skip


def data_root(arguments: argparse.Namespace) -> Path:
    return Path(arguments.data_root or os.environ.get("CHORDATE_DATA") or "data")


def load_trained(cfg: Config, checkpoint: str) -> Any:
    """The config's model with a checkpoint's weights, for the classes that the checkpoint was trained on."""
    from chordate.api import build_model
    from chordate.checkpoints.load import load_checkpoint, read_state

    state = read_state(checkpoint)
    model: Any = build_model(cfg, classes=state.get("classes"), pretrained=False)
    print(load_checkpoint(model, state))
    return model
