"""Write what a model sees in images to a file: one row of features an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from chordate.cli.common import add_config_arguments, data_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="path or URL of a checkpoint, Chordate's own or a foreign one")
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE",
        help="picture files, or folders of them (default: the config's validation data)",
    )  # fmt: skip
    parser.add_argument("--data", choices=["train", "val"], default="val", help="which of the config's data sets (val)")
    parser.add_argument(
        "--map", metavar="NAME",
        help="map of the backbone to average, such as c4 (default: what a classifier's last layer reads)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write, .npz or .safetensors")


def run(arguments: argparse.Namespace) -> None:
    import torch
    from rich.progress import track

    from chordate.api import features
    from chordate.cli.common import load_trained
    from chordate.cli.predict import picture_files
    from chordate.config import load_config, section
    from chordate.data.loader import build_loader
    from chordate.training.evaluate import stop_workers
    from chordate.training.features import batch_features, check_features_file, save_features
    from chordate.structures import ClassTargets

    cfg, out = load_config(arguments.config, arguments.cfg_options), Path(arguments.out)
    check_features_file(out)
    paths = picture_files(arguments.images)
    model: Any = load_trained(cfg, arguments.checkpoint).eval()
    rows, labels, files, classes = [], [], [], ()
    if paths:
        files = [str(path) for path in paths]
        rows = [features(model, path, map=arguments.map).cpu() for path in track(paths, description="features")]
    else:
        # Prepared as for testing, whichever of the data sets it is; their classes need not be the model's.
        data = {**section(cfg, "val_data"), "dataset": section(cfg, f"{arguments.data}_data")["dataset"]}
        loader: Any = build_loader(data, data_root=data_root(arguments), training=False, seed=0)
        classes, device = loader.dataset.classes, next(model.parameters()).device
        with torch.inference_mode():
            for batch in track(loader, total=len(loader), description="features"):
                rows.append(batch_features(model, batch.to(device), arguments.map).cpu())
                files += [info.path for info in batch.infos]
                labels += [batch.targets.labels] if isinstance(batch.targets, ClassTargets) else []
        stop_workers(loader)
    out.parent.mkdir(parents=True, exist_ok=True)
    table = torch.cat(rows)
    save_features(out, table, files, torch.cat(labels).cpu() if labels else None, classes)
    print(f"{len(table)} rows of {table.shape[1]} features: {out}")
