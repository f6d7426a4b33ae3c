"""The `chordate` command: finds the subcommand, runs it, and prints one line for an error that the user can fix."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import chordate
from chordate.cli import browse, check, convert, convert_config, export, features, predict, summary, test, train
from chordate.cli import list as list_command
from chordate.cli.other_frameworks import explain, unknown_command
from chordate.errors import ChordateError, unknown
from chordate.failures import explain_failures
from chordate.signals import ended_by_signals
from chordate.text import PrintableFormatter, one_line, printable

COMMANDS = {
    "browse": browse,
    "check": check,
    "train": train,
    "test": test,
    "predict": predict,
    "features": features,
    "convert": convert,
    "export": export,
    "summary": summary,
    "list": list_command,
    "convert-config": convert_config,
}


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}\n")


class TopParser(OneLineParser):
    """The parser of `chordate`, whose first argument is the command."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            self.error(unknown_command(args[0], COMMANDS))
        return super().parse_known_args(args, namespace)


class CommandParser(OneLineParser):
    """The parser of a command.

    If an option of another framework is used, the error names Chordate's option. If an argument is missing, the error
    lists the arguments in the order in which they are typed, with an example (the epilog).
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        message = explain(args, self.prog.split()[-1], self._option_string_actions, self.command_line())
        if message:
            self.error(message)
        parsed, rest = super().parse_known_args(args, namespace)
        if rest and rest[0].startswith("-"):
            self.error(unknown("option", rest[0].partition("=")[0], self._option_string_actions))
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}; type {self.command_line()}, {self.epilog}")
        return parsed, rest

    def command_line(self) -> str:
        """The command with its required arguments: `chordate test CONFIG CHECKPOINT`."""
        required = [action for action in self._get_positional_actions() if action.required]
        names = [str(action.metavar or action.dest) for action in required]
        return f"{self.prog} {' '.join(names).upper()}".rstrip()

    def error(self, message: str) -> NoReturn:
        if "arguments are required" in message:
            message += f"; type {self.command_line()}, {self.epilog}"
        super().error(message)


def parser() -> argparse.ArgumentParser:
    top = TopParser(prog="chordate", description="Train, test and use models built from a config.")
    top.add_argument("--version", action="version", version=f"chordate {chordate.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=CommandParser)
    for name, module in COMMANDS.items():
        summary_line, example = (module.__doc__ or "").splitlines()[0], f"for example: {module.EXAMPLE}"
        module.add_arguments(commands.add_parser(name, help=summary_line, description=summary_line, epilog=example))
    return top


def command_message(command: str, message: str) -> str:
    return printable(f"chordate {command}: {' '.join(message.splitlines())}", None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0 for success, 1 for a negative result (`check` finds that training would fail, or an
        exported or converted file differs from the original), 2 for an error that the user can fix (reported in one
        line), 128 + n when ended by signal n (130 for Ctrl-C).
    """
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.command is None:
        top.error(f"name a command: {', '.join(COMMANDS)} (chordate --help describes them)")
    # Print warnings in one line, without the line of code that issued them.
    plain = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{command_message(arguments.command, str(message))}\n"
    if logging.lastResort is not None:  # prints the warnings of commands that write no log
        logging.lastResort.setFormatter(PrintableFormatter())
    try:
        with ended_by_signals(), explain_failures():
            status: int | None = COMMANDS[arguments.command].run(arguments)
    except ChordateError as error:
        print(f"chordate {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        number = signal.Signals(interrupt.args[0] if interrupt.args else signal.SIGINT)
        print(f"chordate {arguments.command}: interrupted by {number.name}", file=sys.stderr)
        return 128 + number
    finally:
        warnings.formatwarning = plain
    return status or 0
