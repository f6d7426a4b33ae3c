"""The trainer with the real loader and a real detector: resuming within an epoch, and the logged metrics."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_toy import read_log

import chordate
from chordate.config import load_config
from chordate.data.shapes import generate_shapes
from chordate.training.evaluation_loop import evaluate
from chordate.training.trainer import Trainer

SMALL = {
    "train_data.batch_size": 2, "train_data.workers": 2, "train_data.pipeline": [
        {"type": "ResizeShortestEdge", "size": [56, 64, 72], "max_size": 96}, {"type": "RandomHorizontalFlip"},
        {"type": "RandomPhotometricDistort"},
    ],
    "model.backbone.base_channels": 8, "model.neck.channels": 16, "model.box.trunk.fc_channels": 32,
    "train.epochs": None, "train.iterations": 6, "train.eval_every": None, "train.save_best": None,
    "train.log_every": 1, "train.tensorboard": False, "train.seed": 3, "train.accumulate": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(folder, train=14, val=3, size=64)
    return folder


def train(shapes: Path, work_dir: Path, **options: Any) -> Trainer:
    """Train as `chordate train` does, with 7 batches and 4 iterations per epoch."""
    cfg = load_config("faster-rcnn_r18_fpn_demo_shapes", {**SMALL, **options})
    trainer = chordate.train(cfg, data_root=shapes, work_dir=work_dir, resume=True)
    assert not multiprocessing.active_children()  # workers must not outlive the training run
    return trainer


def test_resuming_a_detector_within_an_epoch_is_exact_with_workers_and_augmentation(
    shapes: Path, tmp_path: Path
) -> None:
    train(shapes, tmp_path / "whole")
    train(shapes, tmp_path / "resumed", **{"train.iterations": 3})
    train(shapes, tmp_path / "resumed", **{"train_data.workers": 0})
    whole, resumed = read_log(tmp_path / "whole"), read_log(tmp_path / "resumed")
    assert [line["iteration"] for line in whole] == list(range(1, 7))
    learning_rates = [line.pop("lr") for line in whole], [line.pop("lr") for line in resumed]
    assert learning_rates[0] == learning_rates[1]  # in the warm-up, which does not depend on the number of iterations
    assert whole == resumed


def test_the_metrics_logged_in_training_equal_a_later_evaluation(shapes: Path, tmp_path: Path) -> None:
    trainer = train(shapes, tmp_path, **{"train.iterations": 1})
    logged = {k: v for k, v in read_log(tmp_path, "val")[0].items() if k not in ("mode", "epoch", "iteration")}
    again = evaluate(trainer.module, trainer.val_loader, trainer.metric, device=torch.device("cpu"))
    assert logged == {name: pytest.approx(value, nan_ok=True) for name, value in again.items() if value == value} | {
        name: None for name, value in again.items() if value != value
    }
