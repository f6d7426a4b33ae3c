"""The `chordate` command: finds the subcommand, runs it, and reports each error that the user can fix as one line."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import chordate
from chordate.cli import browse, features, predict, summary, test, train
from chordate.cli import list as list_command
from chordate.errors import ChordateError
from chordate.text import PrintableFormatter, printable

COMMANDS = {
    "browse": browse,
    "train": train,
    "test": test,
    "predict": predict,
    "features": features,
    "summary": summary,
    "list": list_command,
}


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line without the usage text; the parsers of subcommands have this class as well."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def parser() -> argparse.ArgumentParser:
    top = OneLineParser(prog="chordate", description="Train, test and use models built from a config.")
    top.add_argument("--version", action="version", version=f"chordate {chordate.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary_line = (module.__doc__ or "").splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary_line, description=summary_line))
    return top


def one_line(command: str, message: str) -> str:
    return printable(f"chordate {command}: {' '.join(message.splitlines())}", None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0 for success, 2 for an error that the user can fix (reported in one line), 130 when interrupted.
    """
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.command is None:
        top.error(f"name a command: {', '.join(COMMANDS)} (chordate --help describes them)")
    # Print warnings in one line, without the line of code that issued them.
    plain = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{one_line(arguments.command, str(message))}\n"
    if logging.lastResort is not None:  # prints the warnings of commands that write no log
        logging.lastResort.setFormatter(PrintableFormatter())
    try:
        COMMANDS[arguments.command].run(arguments)
    except ChordateError as error:
        print(f"chordate {arguments.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(one_line(arguments.command, f"{error.filename}: {error.strerror}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"chordate {arguments.command}: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = plain
    return 0
