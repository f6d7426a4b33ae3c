"""Collects the problems of an annotation file, to report each problem once, with the number of affected records."""

from collections.abc import Sequence
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
            `health="warn"` leaves out the records, or only their masks or keypoints.
        repairs: dict from problem to ids, for records that were repaired when they were read.
    """

    def __init__(self) -> None:
        self.errors: dict[str, list[Any]] = {}
        self.repairs: dict[str, list[Any]] = {}
        self._examples: dict[str, str] = {}
        self._left_out: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.errors or self.repairs)

    def error(self, problem: str, id: Any, example: str = "", left_out: str = "") -> None:
        """Add an error in the record `id`.

        Args:
            problem: what is wrong; equal for all records that have the problem.
            id: the record's id.
            example: the wrong value; the message quotes that of the first record.
            left_out: the part of the record that is left out: "masks" or "keypoints"; "" for the whole record.
        """
        self.errors.setdefault(problem, []).append(id)
        self._examples.setdefault(problem, example)
        self._left_out.setdefault(problem, left_out)

    def repair(self, problem: str, id: Any, example: str = "") -> None:
        """Add a problem of the record `id` that was repaired; the message quotes the first record's `example`."""
        self.repairs.setdefault(problem, []).append(id)
        self._examples.setdefault(problem, example)

    def lines(self, source: str, health: Health) -> list[str]:
        """The report: one line each about the records, the masks and the keypoints left out, and about repairs, if any.

        Args:
            source: the file's name, for messages.
            health: see `CocoDataset`.

        Raises:
            DataError: there are errors, and `health` is "error".
        """
        parts = dict.fromkeys(self._left_out.values())
        if self.errors and health == "error":
            errors, these = (
                "; ".join(map(self.describe, self.errors)),
                " and ".join(part or "records" for part in parts),
            )
            raise DataError(
                f'{source}: {errors}. Fix the file, or set health="warn" in the dataset to leave these {these} out'
            )
        lines = []
        for part in parts:
            problems = [problem for problem in self.errors if self._left_out[problem] == part]
            lines.append(f"{part} left out: {'; '.join(map(self.describe, problems))}".lstrip())
        if self.repairs:
            lines.append("; ".join(map(self.describe, self.repairs)))
        return [f"{source}: {line}" for line in lines]

    def describe(self, problem: str) -> str:
        """A problem with an example and its ids; "" if no record has it."""
        ids = self.errors.get(problem) or self.repairs.get(problem)
        example = self._examples.get(problem)
        return with_ids(f"{problem}: {example}" if example else problem, ids) if ids else ""


def with_ids(message: str, ids: Sequence[Any]) -> str:
    """Append the affected ids or Places to a message; at most ten are listed."""
    listed = ", ".join(printable(str(id)) for id in ids[:LISTED])
    kind = "" if isinstance(ids[0], Place) else "id "
    return f"{message} ({kind}{listed}{f' … ({len(ids)} in all)' if len(ids) > LISTED else ''})"


def name_annotation(id: Any) -> str:
    """Name an annotation in a message, by its id or its Place."""
    return printable(id) if isinstance(id, Place) else f"annotation {printable(str(id))}"
