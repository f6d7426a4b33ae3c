"""Training runs and evaluations on two ranks, which test_distributed.py compares with one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from trainer_toy import OPTIMIZER, ToyData, ToyMetric, ToyModel, collate, toy_loader, toy_trainer

from chordate.data.dataset import Dataset
from chordate.data.loader import Loader
from chordate.distributed import all_gather_object, is_main_process
from chordate.errors import BrokenFile, ChordateError, ConfigError
from chordate.launch import start
from chordate.structures import Batch, DatasetMeta
from chordate.training.evaluation_loop import evaluate

SCALED = {**OPTIMIZER, "base_batch_size": 4}
TRAINING: dict[str, Any] = {"optimizer": SCALED, "epochs": 2, "accumulate": 2, "clip_norm": 0.5, "ema": 0.9}


class BrokenImages(Dataset):
    """The toy images, two of which are broken; in an epoch on two ranks, each rank reads one of them."""

    meta = DatasetMeta(("bright",))

    def __init__(self, broken: tuple[int, int]):
        super().__init__(skip_broken=True)
        self.broken = broken

    def __len__(self) -> int:
        return 24

    def read(self, index: int) -> dict[str, Any]:
        if index in self.broken:
            raise BrokenFile(f"{index}.jpg: broken")
        return {"index": index}

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        return ToyData(24)[key[0], self.read_next(key[1])["index"]]

    def collate(self, samples: Any, size_divisor: int = 1) -> Batch:
        return collate(samples)


def fresh_model(**options: Any) -> ToyModel:
    torch.manual_seed(5)
    return ToyModel(**{"dropout": 0.0, "norm": False, **options})


def main(folder: Path) -> dict[str, Any]:
    """Execute all training runs and evaluations of this rank; returns their results."""
    rank, world_size = start()
    rank_options = {"rank": rank, "world_size": world_size}
    results: dict[str, Any] = {"rank": rank, "world_size": world_size}

    # Batches of 2 images on each of two ranks equal batches of 4 images in one process.
    loader = toy_loader(24, 2, **rank_options)
    toy_trainer(folder / "plain", model=fresh_model(), loader=loader, **TRAINING).train()

    # As above, with a layer that gets no gradient, as in a backbone whose last feature map is not used.
    model = fresh_model()
    model.idle = nn.Linear(2, 2)
    toy_trainer(folder / "idle", model=model, loader=toy_loader(24, 2, **rank_options), **TRAINING).train()

    # Evaluation of one checkpoint on 7 images, which are split over the ranks.
    model = fresh_model()
    model.load_state_dict(torch.load(folder / "plain" / "epoch_2.pt", weights_only=True)["model"])
    results["metrics"] = evaluate(model, toy_loader(7, 2, training=False, **rank_options), ToyMetric())

    # A run with dropout, BatchNorm and per-rank random numbers: once without a stop, once resumed after each epoch.
    for name, stages in (("whole", (3,)), ("resumed", (1, 2, 3))):
        for epochs in stages:
            loader = toy_loader(24, 2, workers=0, **rank_options)
            model = fresh_model(dropout=0.5, norm=True)
            toy_trainer(folder / name, model=model, loader=loader, epochs=epochs, resume=True).train()
            torch.distributed.barrier()
    results["draw"] = torch.rand(1).item()

    # BatchNorm's running statistics differ between the ranks until an evaluation or a checkpoint averages them.
    for name, ema in (("norm", None), ("norm_ema", 0.9)):
        trainer = toy_trainer(
            folder / name, model=fresh_model(norm=True), loader=toy_loader(24, 2, **rank_options), epochs=2, ema=ema,
            val_loader=toy_loader(7, 2, training=False, **rank_options), metric=ToyMetric(),
        )  # fmt: skip
        trainer.train()
        results[name] = {key: value.double().sum().item() for key, value in trainer.module.named_buffers()}

    loader = toy_loader(24, 2, **rank_options)
    toy_trainer(folder / "one_step", model=fresh_model(norm=True), loader=loader, iterations=1).train()

    # Only rank 1 has a NaN loss.
    _, bad = list(toy_loader(24, 2, rank=1, world_size=2).batch_sampler)[3][0]
    try:
        toy_trainer(
            folder / "nan", model=fresh_model(), loader=toy_loader(24, 2, bad=bad, **rank_options), epochs=1
        ).train()
    except ChordateError as error:
        results["nan"], results["bad"] = str(error), bad

    # Two machines without a shared filesystem; only the first has the checkpoint.
    machine = folder / "idle" if rank == 0 else folder / "elsewhere"
    try:
        toy_trainer(machine, model=fresh_model(), loader=loader, resume=True, **TRAINING).train()
    except ChordateError as error:
        results["resume"] = str(error)

    # Each rank reads one of the two broken images, the same one in both epochs.
    batches = toy_loader(24, 2, training=False, **rank_options).batch_sampler
    broken = (2, 5)  # an even and an odd index
    results["reads"] = sum(index in broken for batch in batches for _, index in batch)
    skipping = Loader(BrokenImages(broken), batch_sampler=batches, collate_fn=collate)
    validation = Loader(BrokenImages((6, 9)), batch_sampler=batches, collate_fn=collate)
    evaluation = {"val_loader": validation, "metric": ToyMetric()}
    toy_trainer(folder / "broken", model=fresh_model(), loader=skipping, epochs=2, **evaluation).train()

    # SyncBatchNorm supports only GPUs.
    try:
        toy_trainer(folder / "sync", model=fresh_model(norm=True), loader=loader, sync_bn=True)
    except ConfigError as error:
        results["sync_bn"] = str(error)
    return results


def report(folder: Path) -> None:
    """Run `main`, and write the results of all ranks to `report.json`."""
    results = all_gather_object(main(folder))
    if is_main_process():
        (folder / "report.json").write_text(json.dumps(results))
