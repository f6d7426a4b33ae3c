"""Sets up each process of a run: rank, device, number of threads, seed.

A single process starts directly; several processes are started by torchrun (on one or more machines) or SLURM's srun.
"""

from __future__ import annotations

import atexit
import gc
import os
import random
import re
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist

from chordate.distributed import rank, world_size
from chordate.errors import ConfigError
from chordate.text import one_line

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
TEXT_VARIABLES = ("MASTER_ADDR", "SLURM_STEP_NODELIST")  # all other variables are numbers


def start(seed: int | None = None) -> tuple[int, int]:
    """Join the process group, if there is one, and seed the random number generators identically on all ranks.

    Returns:
        Rank and number of ranks: (0, 1) for a single process.

    Raises:
        ConfigError: the launcher's environment variables are incomplete or invalid, or processes cannot connect.
    """
    os.environ.update(slurm_environment(os.environ))
    if not dist.is_initialized() and is_launched(os.environ):
        share_threads(os.environ)
        try:
            _join()
        except dist.DistError as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            reason = one_line(error, 160)
            raise ConfigError(
                f"the processes cannot connect to MASTER_ADDR:MASTER_PORT, {address} ({reason}); start all "
                f"processes, and check that each can reach this address"
            ) from error
    if seed is not None:
        seed_everything(seed)
    return rank(), world_size()


def seed_everything(seed: int) -> None:
    """Seed the random number generators of Python, numpy and torch (on the CPU and all CUDA devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _join() -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
        dist.init_process_group("nccl", device_id=device())
    else:
        dist.init_process_group("gloo")
        atexit.register(finish)  # otherwise gloo's threads may abort when the interpreter shuts down


def finish() -> None:
    """Leave the process group after the run. On GPUs, do not call this after an error: it might block forever."""
    gc.collect()  # otherwise a DDP model that still exists would keep the group's threads alive
    if dist.is_initialized():
        dist.destroy_process_group()


def device() -> torch.device:
    """This process's GPU if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # If the launcher makes only one GPU visible to each process, the GPU has index 0 in every process.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def share_threads(environment: Mapping[str, str]) -> None:
    """Divide the machine's cores among its processes, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in environment:
        processes = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def is_launched(environment: Mapping[str, str]) -> bool:
    """Whether torchrun started this process (even as the only one), or srun started it as one of several.

    Raises:
        ConfigError: the launcher's environment variables are incomplete or invalid.
    """
    remedy = "start with torchrun or srun, or unset the launcher's variables"
    if "RANK" not in environment:
        if environment.get("WORLD_SIZE", "1") != "1":  # otherwise all processes would train independently in one folder
            raise ConfigError(f"WORLD_SIZE is {environment['WORLD_SIZE']}, but RANK is not set; {remedy}")
        return False
    _check(environment, TORCHRUN, "RANK", remedy)
    number, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if number >= count:  # the process would wait for the others forever
        raise ConfigError(f"RANK is {number}, but WORLD_SIZE is {count}: ranks count from 0; {remedy}")
    return True


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that torchrun would set, for one of several tasks that srun started.

    Empty for other processes, for the only task of a job step, and if RANK is set, as torchrun does. SLURM sets most of
    its variables in a batch script as well, but the script is not a task of a job step.

    Raises:
        ConfigError: some of SLURM's variables are missing or invalid.
    """
    if "RANK" in environment or environment.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return {}
    _check(environment, SRUN, "SLURM_STEP_NUM_TASKS", "start with srun")
    # The first machine of SLURM's compact list: gpu07 for "gpu[07-09,12],login".
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", environment["SLURM_STEP_NODELIST"])
    if first is None:
        raise ConfigError(f'SLURM_STEP_NODELIST is "{environment["SLURM_STEP_NODELIST"]}"; expected machine names')
    translated = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": "".join(group or "" for group in first.groups()),
        # All tasks must choose the same port, and two jobs on a machine must choose different ones.
        "MASTER_PORT": str(20000 + int(environment["SLURM_JOB_ID"]) % 20000),
    }
    if tasks := re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", "")):
        translated["LOCAL_WORLD_SIZE"] = tasks[0]
    return {name: environment.get(name, value) for name, value in translated.items()}


def _check(environment: Mapping[str, str], names: tuple[str, ...], variable: str, remedy: str) -> None:
    missing = [name for name in names if name not in environment]
    if missing:
        raise ConfigError(f"{variable} is set, but not {', '.join(missing)}; {remedy}")
    for name in names:
        if name not in TEXT_VARIABLES and not environment[name].isdecimal():
            raise ConfigError(f'{name} is "{environment[name]}", which is not a whole number; {remedy}')
