"""Semantic, panoptic and pose metrics of two ranks (gloo) equal those of one process on the same data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panoptic_files import reader, write_panoptic
from processes import forkserver
from stick_figures import write_figures
from test_pose_metric import figures, perfect, uneven
from test_semantic_data import folder, write_folder

from chordate.data import CocoPanoptic, CocoPoseDataset, SemanticFolder
from chordate.data.loader import build_loader
from chordate.registry import METRICS
from chordate.structures import ImageInfo, PanopticMap, Poses, SemanticMap


def semantic_map(dataset: SemanticFolder, info: ImageInfo) -> SemanticMap:
    """The ground truth, shifted by a number of pixels that depends on the image."""
    labels = dataset.labels_of(info.image_id).clamp(min=0)
    return SemanticMap(labels.roll(info.image_id, dims=1))


def panoptic_map(dataset: CocoPanoptic, info: ImageInfo) -> PanopticMap:
    """The ground truth, shifted by a number of pixels that depends on the image."""
    numbers, labels, _ = dataset.segments_of(info.image_id)
    ids = numbers.roll(info.image_id % 5, dims=0).int()
    things = torch.from_numpy(dataset.is_thing)[labels]
    areas = ids.flatten().bincount(minlength=len(labels) + 1)[1:]
    return PanopticMap(ids, labels, things, torch.full((len(labels),), 0.5), areas)


def poses(dataset: CocoPoseDataset, info: ImageInfo) -> Poses:
    return perfect(dataset, info.image_id, *uneven(info.image_id))


# For each metric, its settings, the dataset that it evaluates, and the prediction for an image.
CASES: dict[str, tuple[dict[str, Any], Callable[[Path], Any], Callable[..., Any]]] = {
    "SemanticMetric": ({"boundary": 0.05}, folder, semantic_map),
    "PanopticMetric": ({}, reader, panoptic_map),
    "PoseMetric": ({}, figures, poses),
}


def results(name: str, root: Path, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """The metrics that a rank reports after each rank has evaluated its share of the samples. PoseMetric's samples are
    crops, and crops of the same image are on both ranks."""
    settings, open_dataset, predict = CASES[name]
    dataset = open_dataset(root / name)
    metric = METRICS.build({"type": name, **settings}, dataset=dataset)
    section = {"dataset": dataset, "workers": 0}
    for batch in build_loader(dataset, section, training=False, rank=rank, world_size=world_size):
        metric.update([predict(dataset, info) for info in batch.infos], batch)
    found: dict[str, Any] = {"numbers": metric.compute(), "samples": len(dataset)}
    if name == "PoseMetric":
        found["predictions"] = metric.predictions()
    else:
        found["per_class"] = metric.per_class()
        worst = metric.report().worst
        found["worst"] = [[image.score, str(image.original.infos[0].image_id)] for image in worst]
    return found


def run_rank(rank: int, root: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{root}/meet", rank=rank, world_size=2)
    found = {name: results(name, Path(root), rank, 2) for name in CASES}
    Path(root, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of the data, and the results that each of two ranks reported."""
    root = tmp_path_factory.mktemp("ranks")
    write_folder(root / "SemanticMetric", 7)
    write_panoptic(root / "PanopticMetric", 5)
    write_figures(root / "PoseMetric")
    processes = [forkserver().Process(target=run_rank, args=(rank, str(root))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return root, [json.loads((root / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_give_the_metrics_of_one_process(name: str, ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    root, reports = ranks
    alone = json.loads(json.dumps(results(name, root)))
    assert reports[0][name] == reports[1][name] == alone
    assert alone["samples"] > 4
    main = next(iter(alone["numbers"].values()))
    assert 0 < main < 1 and np.isfinite(main)  # imperfect predictions, so lost or duplicate images change the value
