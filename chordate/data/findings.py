"""Collects the problems of an annotation file, to report each problem once, with the number of affected records."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from chordate.data.file_ids import Place
from chordate.errors import DataError
from chordate.text import printable

Health = Literal["error", "warn"]
LISTED = 10  # maximum number of ids in a message


class Findings:
    """Problems of an annotation file, each with the ids of the records that have it.

    Attributes:
        errors: dict from problem to ids, for invalid records. `health="error"` raises DataError for them,
            `health="warn"` leaves the records out.
        repairs: dict from problem to ids, for records that were repaired when they were read.
    """

    def __init__(self) -> None:
        self.errors: dict[str, list[Any]] = {}
        self.repairs: dict[str, list[Any]] = {}
        self._examples: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.errors or self.repairs)

    def error(self, problem: str, id: Any, example: str = "") -> None:
        """Add an error in the record `id`; the message quotes the `example` of the first record."""
        self.errors.setdefault(problem, []).append(id)
        self._examples.setdefault(problem, example)

    def repair(self, problem: str, id: Any) -> None:
        """Add a problem of the record `id` that was repaired."""
        self.repairs.setdefault(problem, []).append(id)

    def lines(self, source: str, health: Health) -> list[str]:
        """The report, at most one line of errors and one of repairs.

        Args:
            source: the file's name, for messages.
            health: see `CocoDataset`.

        Raises:
            DataError: there are errors, and `health` is "error".
        """
        errors = "; ".join(self._describe(self.errors))
        if errors and health == "error":
            raise DataError(
                f'{source}: {errors}. Fix the file, or set health="warn" in the dataset to leave these records out'
            )
        left_out = errors and f"left out: {errors}"
        return [f"{source}: {text}" for text in (left_out, "; ".join(self._describe(self.repairs))) if text]

    def _describe(self, problems: Mapping[str, Sequence[Any]]) -> list[str]:
        return [
            with_ids(f"{problem}{': ' if (example := self._examples.get(problem)) else ''}{example or ''}", ids)
            for problem, ids in problems.items()
        ]


def with_ids(message: str, ids: Sequence[Any]) -> str:
    """Append the affected ids or Places to a message; at most ten are listed."""
    listed = ", ".join(printable(str(id)) for id in ids[:LISTED])
    kind = "" if isinstance(ids[0], Place) else "id "
    return f"{message} ({kind}{listed}{f' … ({len(ids)} in all)' if len(ids) > LISTED else ''})"


def name_annotation(id: Any) -> str:
    """Name an annotation in a message, by its id or its Place."""
    return printable(id) if isinstance(id, Place) else f"annotation {printable(str(id))}"
