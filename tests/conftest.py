"""Shared test setup: threads, hypothesis without deadlines, and fixtures of real and generated data."""

import os
from pathlib import Path

# In parallel runs, tests and the processes that they start get one thread each; more would compete for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_configure(config) -> None:
    """Hide the GPU from all tests but those marked `gpu`: the others compare bitwise, which needs the CPU."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


# Timing on a shared machine is unreliable, so no deadlines; derandomized, so that every run tests the same examples.
settings.register_profile("chordate", deadline=None, derandomize=True)
settings.load_profile("chordate")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with coco-mini, bccd …; tests that need it skip where it is absent."""
    root = Path(__file__).parents[1]
    folder = (root / os.environ.get("CHORDATE_TEST_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder} (set CHORDATE_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A small generated data set: 24 training images and 12 validation images."""
    from chordate.data.shapes import generate_shapes

    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, train=24, val=12, size=96, seed=7)
    return root
