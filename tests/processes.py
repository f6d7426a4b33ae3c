"""A multiprocessing context in which the package is imported only once."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def forkserver() -> ForkServerContext:
    """A context whose processes fork from one that has imported the trainer, which takes seconds.

    As under "spawn", a process inherits no memory of the tests and gets its arguments by pickling.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chordate.training.trainer"])
    return context
