"""A multiprocessing context that starts processes fast, since it imports the package only once."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def forkserver() -> ForkServerContext:
    """A context whose processes are forked from a server that has imported the trainer; importing it takes seconds.

    As with "spawn", a process does not inherit the memory of the tests, and its arguments are pickled.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chordate.training.trainer"])
    return context
