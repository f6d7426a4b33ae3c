"""Shared test setup: threads, hypothesis without deadlines, and fixtures of real and generated data."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# In parallel runs, tests and the processes that they start get one thread each; more would compete for cores. torch
# reads the variable when it is imported. This file does not import torch, since pytest-xdist's main process does not
# need it.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import pytest
from hypothesis import settings


def pytest_configure(config) -> None:
    """Hide the GPU unless the run is `pytest -m gpu`: the other tests compare bitwise, which needs the CPU. Restore the
    handlers of SIGHUP and SIGINT: tests send these signals, which `nohup` and the shell's `&` make processes ignore."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


# No deadlines, since timing on shared machines is unreliable; derandomized, so every run tests the same examples.
settings.register_profile("chordate", deadline=None, derandomize=True)
settings.load_profile("chordate")


# `make test` distributes tests by file. The slowest files come first, so that the processes finish together.
LONG_FILES = (
    "backbones", "distributed", "torchvision_instances", "panoptic_commands", "plugging", "adapters", "library_weights",
    "panoptic_models", "resnet", "task_seam", "configs", "conv_norm", "cli", "packaging", "training_steps",
    "semantic_models", "config_names", "recipes", "pose_commands", "keypoint_detector", "densenet_convnext",
    "backbones_detect", "torchvision_detection", "finetune", "readme", "resume", "distributed_detector",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}": place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish() -> None:
    """Exempt imported modules from the garbage collection at the end of `chordate train` and `test`, to save time."""
    gc.freeze()


@pytest.fixture(scope="session")
def cells() -> Path:
    """Six real photos with boxes, in Pascal VOC's layout with `coco.json` next to it (data/README.md)."""
    return Path(__file__).parent / "data/bccd"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with coco-mini (masks, keypoints, crowds) and CIFAR-10. Tests that need it are skipped without it."""
    root = Path(__file__).parents[1]
    folder = (root / os.environ.get("CHORDATE_TEST_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs coco-mini and cifar10.zip in {folder} (set CHORDATE_TEST_DATA)")
    return folder


@pytest.fixture(scope="module")
def without_curves() -> Iterator[None]:
    """Keep `chordate train` from plotting its curves, which takes a second; other tests check the plot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chordate.visualization.plot_training", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A small generated dataset: 24 training images and 12 validation images."""
    from chordate.data.shapes import generate_shapes

    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, train=24, val=12, size=96, seed=7)
    return root
