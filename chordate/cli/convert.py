"""Convert a checkpoint from another library to Chordate or back, and print its config."""

from __future__ import annotations

import argparse
from pathlib import Path

from chordate.cli.common import add_options, check_out

EXAMPLE = "chordate convert model_final_280758.pkl faster-rcnn.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="path or URL of a checkpoint of Chordate or another library")
    parser.add_argument("out", help="the file to write; only tensors if its name ends with .safetensors")
    parser.add_argument(
        "--to", default="chordate", metavar="LIBRARY", help="library whose names are written (default: chordate)"
    )
    parser.add_argument(
        "--config", metavar="CONFIG",
        help="config of the model, by name or file (default: recognized by the tensors of other libraries)",
    )  # fmt: skip
    add_options(parser)


def run(arguments: argparse.Namespace) -> None:
    from chordate.composition import nested
    from chordate.config import load_config
    from chordate.errors import ConfigError
    from chordate.migration.checkpoint_config import CheckpointConfig, checkpoint_config
    from chordate.migration.config_writer import write_config
    from chordate.models.build import build_model
    from chordate.weights.checkpoint_conversion import (
        OWN,
        own_contents,
        restored,
        settings_notes,
        write_checkpoint,
    )
    from chordate.weights.checkpoint_sources import read_state
    from chordate.weights.find_weights import find_weights

    out = Path(arguments.out)
    check_out(out, arguments.source)
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: the folder {out.parent} does not exist; create it")
    if out.suffix == ".pkl" and arguments.to != "detectron2":
        raise ConfigError(f"{out}: only --to detectron2 writes .pkl files (pickles of arrays); name it {out.stem}.pth")
    contents = read_state(arguments.source)
    weights = find_weights(contents)
    known = CheckpointConfig(arguments.config, {}, [])
    name, overrides, notes = known if arguments.config else checkpoint_config(weights)
    cfg = load_config(load_config(name, overrides, source=arguments.source), arguments.cfg_options)
    overrides = {**overrides, **arguments.cfg_options}
    model = build_model(cfg, checkpoint=contents)
    print(model.load_report)
    text = write_config(notes, base_name(name), nested(overrides))
    if arguments.to == OWN:
        write_checkpoint(out, own_contents(model, write_config([], None, cfg.to_dict())))
    else:
        theirs = restored(model, arguments.to)
        write_checkpoint(out, theirs)
        for note in settings_notes(theirs, arguments.to, model):
            print(f"{out}: {note}")
    print(f"{out} ({arguments.to}) has the weights of this config:\n\n{text}", end="")


def base_name(config: str) -> str:
    """Name a config so that it is found from any folder: by a packaged or composed name, or by the file's full path."""
    from chordate.config import find_config, packaged_configs

    source = find_config(config)
    if isinstance(source, Path) and source.resolve() not in map(Path.resolve, packaged_configs().values()):
        return str(source.resolve())
    return Path(config).name.removesuffix(".py")
