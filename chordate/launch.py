"""Launching and stopping: which rank a process is, its device, threads and seed; signals that end it after a step.

One process is started by hand; several by torchrun (one machine or many) or by SLURM's srun.
"""

from __future__ import annotations

import atexit
import gc
import os
import random
import re
import signal
import threading
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist

from chordate.distributed import rank, world_size
from chordate.errors import ConfigError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
WORDS = ("MASTER_ADDR", "SLURM_STEP_NODELIST")  # the others are numbers


def start(seed: int | None = None) -> tuple[int, int]:
    """Join the other processes, if there are any, and seed the generators, so that all ranks build the same model.

    Returns:
        Rank and number of ranks: (0, 1) for a process on its own.

    Raises:
        ConfigError: the launcher's variables are incomplete or invalid, or the processes cannot reach each other.
    """
    os.environ.update(slurm_environment(os.environ))
    if not dist.is_initialized() and is_launched(os.environ):
        share_threads(os.environ)
        try:
            _join()
        except dist.DistError as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"the processes do not meet at MASTER_ADDR:MASTER_PORT, {address} ({reason}); start all of them, and "
                f"check that each can reach that machine"
            ) from error
    if seed is not None:
        seed_everything(seed)
    return rank(), world_size()


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (and those of all CUDA devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _join() -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
        dist.init_process_group("nccl", device_id=device())
    else:
        dist.init_process_group("gloo")
        atexit.register(finish)  # else its threads may need the interpreter after it has gone, and abort


def finish() -> None:
    """Leave the other processes once the work is done. On GPUs not after an error: it might wait for the others."""
    gc.collect()  # a wrapped model that is still around would keep the group's threads alive
    if dist.is_initialized():
        dist.destroy_process_group()


def device() -> torch.device:
    """This process's GPU if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # A launcher may show each process its own GPU only; it is then number 0 for all of them.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def share_threads(environment: Mapping[str, str]) -> None:
    """Give each process its part of the machine's cores, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in environment:
        neighbors = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // neighbors))


def is_launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process, as one of several or alone.

    Raises:
        ConfigError: its variables are incomplete or invalid.
    """
    remedy = "start with torchrun or srun, or unset them"
    if "RANK" not in environment:
        if environment.get("WORLD_SIZE", "1") != "1":  # else each process would train alone, all into one folder
            raise ConfigError(f"WORLD_SIZE is {environment['WORLD_SIZE']}, but RANK is not set; {remedy}")
        return False
    _check(environment, TORCHRUN, "RANK", remedy)
    number, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if number >= count:  # it would wait for the others for ever
        raise ConfigError(f"RANK is {number}, but WORLD_SIZE {count}: ranks count from 0; {remedy}")
    return True


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would have set, for a task that srun started; empty for any other process.

    A batch script itself has most of SLURM's variables too, but is no task of a step.

    Raises:
        ConfigError: some of SLURM's variables are missing or invalid.
    """
    if "RANK" in environment or environment.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return {}
    _check(environment, SRUN, "SLURM_STEP_NUM_TASKS", "start with srun")
    # SLURM's short list of machines: "gpu[07-09,12],login" begins with gpu07.
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", environment["SLURM_STEP_NODELIST"])
    if first is None:
        raise ConfigError(f'SLURM_STEP_NODELIST is "{environment["SLURM_STEP_NODELIST"]}", which names no machine')
    translated = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": "".join(group or "" for group in first.groups()),
        # Any port will do, if all tasks choose the same one and two jobs on a machine do not.
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
        if name not in WORDS and not environment[name].isdecimal():
            raise ConfigError(f'{name} is "{environment[name]}", which is not a whole number; {remedy}')


class StopSignals:
    """Within it, the first SIGINT or SIGTERM (Ctrl-C, SLURM's preemption) is only noted in `received`, so that the run
    can be saved; a second one acts as usual."""

    received: signal.Signals | None = None

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()  # Python lets no other set handlers
        signals = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        self._usual = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *_: Any) -> None:
        while self._usual:
            signal.signal(*self._usual.popitem())

    def _note(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
