"""Processes that start fast, since they are forked from a process that has already imported torch."""

import importlib
import io
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence, Set
from contextlib import redirect_stdout
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any


def forkserver() -> ForkServerContext:
    """A context whose processes are forked from a server that has imported the trainer; importing it takes seconds.

    As with "spawn", a process does not inherit the memory of the tests, and its arguments are pickled.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chordate.training.trainer"])
    return context


def run_ranks(function: Callable[..., Any], *arguments: Any, count: int = 2, timeout: float = 300) -> list[int | None]:
    """Run a function in `count` processes that have torchrun's environment variables; returns their exit codes.

    The exit code of a process that does not end within `timeout` seconds is None.

    torchrun is not used here, since it and its processes would import torch again, which takes seconds;
    test_docs_commands.py tests it.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    ranks = [
        forkserver().Process(target=_run, args=({**shared, "RANK": n, "LOCAL_RANK": n}, function, arguments))
        for n in range(count)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout)
    return [process.exitcode for process in ranks]


def imported_with(*modules: str) -> set[str]:
    """The names of all modules that are imported in a process of the server after it imports `modules`."""
    with forkserver().Pool(1) as pool:
        return pool.apply(_import, modules)


def _import(*modules: str) -> set[str]:
    for name in modules:
        importlib.import_module(name)
    return set(sys.modules)


def run_forked(code: str, site: Path, cwd: Path, packages: Set[str]) -> str:
    """Run Python code in a fork of this process, which does not import torch again; returns what the code prints.

    The code imports `packages` anew, from the folder `site` if it has them, and runs in the folder `cwd`.
    """
    import torchvision  # noqa: F401  # the fork has what this process has imported

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_execute, args=(code, site, cwd, packages, sender))
    process.start()
    sender.close()
    printed = receiver.recv()
    process.join()
    assert process.exitcode == 0, printed
    return printed


def _execute(code: str, site: Path, cwd: Path, packages: Set[str], sender: Any) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    sys.path.insert(0, str(site))
    os.chdir(cwd)
    with redirect_stdout(io.StringIO()) as printed:
        try:
            exec(code, {})
        except Exception:
            sender.send(traceback.format_exc())
            sys.exit(1)
    sender.send(printed.getvalue())


def _run(environment: dict[str, Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from chordate.launch import finish

    os.environ.update({name: str(value) for name, value in environment.items()})
    status = function(*arguments)
    finish()
    sys.exit(status)


def call_with_sites(
    function: Callable[..., Any], *arguments: Any, sites: Sequence[Path], cwd: Path, warning: Any = "ignore"
) -> subprocess.CompletedProcess[str]:
    """Call a function in a new process in which the packages of `sites` are installed, as with `PYTHONPATH`.

    Returns:
        The function's result as the exit status, and what the process printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        given = (outputs, list(map(str, sites)), cwd, warning, function, arguments)
        process = forkserver().Process(target=_call, args=given)
        process.start()
        process.join(300)
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in outputs))


def _call(
    outputs: list[Path], sites: list[str], cwd: Path, warning: Any, function: Callable[..., Any], arguments: tuple
) -> None:
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.path[:0] = sites
    os.chdir(cwd)
    warnings.simplefilter(warning)
    sys.exit(function(*arguments))
