"""Write feature vectors of images to a file: one row per image."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_config_arguments, data_root
from chordate.text import pluralize

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".npz", ".safetensors")
EXAMPLE = "chordate features resnet50_imagenet best_top1.pt photos/ --out features.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="path or URL of a checkpoint of Chordate or another library")
    parser.add_argument(
        "images", nargs="*", default=[], metavar="IMAGE",
        help="image files, or folders (subfolders are included; default: the config's validation data)",
    )  # fmt: skip
    parser.add_argument("--data", choices=["train", "val"], default="val", help="dataset of the config (default: val)")
    parser.add_argument(
        "--map", metavar="NAME",
        help="feature map of the backbone to average, such as c4 (default: the input of a classifier's last layer)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write, .npz or .safetensors")


def run(arguments: argparse.Namespace) -> None:
    import torch
    from rich.progress import track

    from chordate.api import features
    from chordate.cli.common import load_trained
    from chordate.cli.predict import image_files
    from chordate.config import load_config, section
    from chordate.data.loader import build_dataset, build_loader
    from chordate.models.build import image_channels
    from chordate.models.feature_extraction import feature_vectors

    cfg, out = load_config(arguments.config, arguments.cfg_options), Path(arguments.out)
    check_features_file(out)
    paths = [path for path, _ in image_files(arguments.images, out)]
    model: Any = load_trained(cfg, arguments.checkpoint)
    rows: list[Any] = []
    labels: list[Any] = []
    files: list[str] = []
    classes: tuple[str, ...] = ()
    if paths:
        files = [str(path) for path in paths]
        rows = [features(model, path, map=arguments.map).cpu() for path in track(paths, description="features")]
    else:
        # The training set also uses the pipeline of val_data. The dataset's classes may differ from the model's.
        data = section(cfg, "val_data") | {"dataset": section(cfg, f"{arguments.data}_data")["dataset"]}
        dataset = build_dataset(data, data_root=data_root(arguments), training=False, channels=image_channels(cfg))
        loader: Any = build_loader(dataset, data, training=False, size_divisor=model.size_divisor)
        classes, device = dataset.classes, next(model.parameters()).device
        for batch in track(loader, total=len(loader), description="features"):
            rows.append(feature_vectors(model, batch.to(device), arguments.map).cpu())
            files += [info.path for info in batch.infos]
            known = None if batch.targets is None else batch.targets.image_labels()
            labels += [] if known is None else [known]
        loader.stop_workers()
    out.parent.mkdir(parents=True, exist_ok=True)
    table = torch.cat(rows)
    save_features(out, table, files, torch.cat(labels).cpu() if labels else None, classes)
    print(f"{pluralize(len(table), 'row')} of {pluralize(table.shape[1], 'feature')}: {out}")


def check_features_file(path: Path) -> None:
    """Raise ConfigError unless `save_features` can write to `path`."""
    from chordate.errors import ConfigError

    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: features are written as {' or '.join(SUFFIXES)}; use one of these suffixes")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the file to write")


def save_features(
    path: Path, features: Tensor, files: Sequence[str], labels: Tensor | None = None, classes: Sequence[str] = ()
) -> None:
    """Write the arrays `features` `[N, C]`, `labels` `[N]` (if known), `files` `[N]` and `classes` to a file.

    In a `.safetensors` file, which stores only tensors, `files` and `classes` are JSON lists in the metadata.
    """
    import numpy as np
    import safetensors.torch

    numbers = {"features": features} if labels is None else {"features": features, "labels": labels}
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in numbers.items()}
        np.savez(path, files=np.array(files), classes=np.array(classes, dtype=np.str_), **arrays)
        return
    names = {"files": json.dumps(list(files)), "classes": json.dumps(list(classes))}
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in numbers.items()}, path, names)
