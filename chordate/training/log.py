"""What a run tells: a line on the console, `log.jsonl`, TensorBoard, mmengine's message hub, and the progress bar."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from chordate.errors import TrainingError
from chordate.training.checkpoint_folder import write_atomically


class JsonLines:
    """`log.jsonl`: one JSON object a line, the whole history of a run over all its resumes; written by the first rank.

    Args:
        path: the file; made by the first `append`.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line, at full precision; what JSON has no number for (NaN, Inf) becomes null.

        Raises:
            TrainingError: it cannot be written.
        """
        if not is_main_process():
            return
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(plain) + "\n")
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def begin(self) -> None:
        """Start a new run: an earlier one's file is set aside under the time it was last written."""
        if self.path.exists():
            stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(self.path.stat().st_mtime))
            os.replace(self.path, self.path.with_stem(f"{self.path.stem}_{stamp}"))

    def rewind(self, iteration: int, evaluated: bool) -> None:
        """Go back to the state of a checkpoint: forget what was written after it.

        Args:
            iteration: of the checkpoint.
            evaluated: whether the evaluation after that iteration is part of it.
        """
        if not is_main_process() or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # cut off when the process was killed
                continue
            last = iteration if record["mode"] == "train" or evaluated else iteration - 1
            if record["iteration"] <= last:
                kept.append(line + "\n")
        write_atomically(self.path, lambda file: file.write("".join(kept).encode()))


class LogHook(Hook):
    """Tells how training goes, every `interval` iterations, and every evaluation's numbers.

    Args:
        interval: iterations from line to line.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int):
        self.interval = interval
        self._training = False

    def before_train(self, runner: Any) -> None:
        self._training, self._first, self._started = True, runner.iter, time.monotonic()
        self._restart_clock()
        self._inform(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._inform(runner)

    def _inform(self, runner: Any) -> None:
        """What models and other hooks may ask mmengine's message hub for."""
        for name in ("epoch", "iter", "max_epochs", "max_iters"):
            runner.message_hub.update_info(name, getattr(runner, name))

    def _restart_clock(self) -> None:
        self._images, self._since = 0, time.monotonic()

    def after_run(self, runner: Any) -> None:
        """What TensorBoard's writer still holds goes to the disk."""
        runner.visualizer.close()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        loop, iteration, epoch = runner.train_loop, runner.iter + 1, runner.epoch + 1
        self._images += sum(len(batch) for batch in data_batch) * runner.world_size
        loop.update_bar(description=f"epoch {epoch}/{loop.max_epochs}")
        if iteration % self.interval and iteration != loop.max_iters:
            return
        now = time.monotonic()
        losses = loop.losses.means()
        numbers = {"lr": loop.learning_rate, **losses, "images_per_s": round(self._images / (now - self._since), 2)}
        if runner.device.type == "cuda":
            numbers["memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        self._record(runner, {"mode": "train", "epoch": epoch, "iteration": iteration}, numbers)
        loop.update_bar(
            0, status=f"loss {losses['loss']:.4g}  lr {loop.learning_rate:.2g}  {numbers['images_per_s']} images/s"
        )
        if not runner.progress.visible:
            left = (now - self._started) / (iteration - self._first) * (loop.max_iters - iteration)
            text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            runner.logger.info(
                f"epoch {epoch}/{loop.max_epochs}  iteration {iteration}/{loop.max_iters}  {text}  "
                f"ETA {timedelta(seconds=round(left))}"
            )
        self._restart_clock()

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        text = "  ".join(f"{name} {value:.4f}" for name, value in (metrics or {}).items())
        if not self._training:
            runner.logger.info(f"evaluation: {text}")
            return
        self._record(runner, {"mode": "val", "epoch": runner.epoch, "iteration": runner.iter}, metrics or {})
        runner.logger.info(f"evaluation after epoch {runner.epoch}, iteration {runner.iter}: {text}")

    def after_val(self, runner: Any) -> None:
        self._restart_clock()

    def after_train(self, runner: Any) -> None:
        self._training = False

    def _record(self, runner: Any, where: dict[str, Any], numbers: Mapping[str, float]) -> None:
        runner.json_lines.append({**where, **numbers})
        tagged = {f"{where['mode']}/{name}": float(value) for name, value in numbers.items()}
        runner.visualizer.add_scalars(tagged, step=where["iteration"])
        for name, value in tagged.items():
            runner.message_hub.update_scalar(name, value)
