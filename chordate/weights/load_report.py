"""LoadReport: which tensors of a checkpoint were loaded, as one line and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from chordate.structures import DatasetMeta
from chordate.text import pluralize, printable

_COLUMNS = ("loaded", "adapted", "missing", "skipped")
_MAX_LAYERS = 12  # if more layers of a part differ from the rest, the part has only one row


def abbreviate(names: Sequence[str], count: int = 3) -> str:
    """Join the first `count` names, and append the number of the others: `a, b, c … 57 more`."""
    rest = len(names) - count
    return ", ".join(printable(name, 160) for name in names[:count]) + (f" … {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a checkpoint were loaded. Prints as one line; `table()` has a row per part of the model.

    Attributes:
        source: the path or URL, or "the state dict".
        format: whose tensor names the checkpoint uses: a library's, such as "torchvision", or the model's
            ("chordate" for our own checkpoints, "state dict" for others).
        loaded: names of the model's tensors that were copied unchanged.
        adapted: names of the model's tensors that were copied after a change: outputs reordered by class or keypoint
            name, a 3-channel stem converted to another number of input channels, or weights that were standardized.
        skipped: names of the checkpoint's tensors that were not used (converted names, except for tensors that were
            left out before the conversion).
        missing: names of the model's tensors that were not loaded and keep their values. A tensor that does not
            fit is in `missing` and in `skipped`.
        meta: metadata of the dataset that the checkpoint was trained on, if known.
        notes: mapping from tensor name to how the tensor was adapted, or why it does not fit.
        settings: settings that the weights were trained with, see `Format.settings`.
    """

    source: str
    format: str
    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    meta: DatasetMeta | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{pluralize(len(self.loaded), 'tensor')} loaded"]
        for word, names in (("adapted", self.adapted), ("skipped", self.skipped), ("missing", self.missing)):
            if names:
                changes = dict.fromkeys(self.notes[name] for name in names if word == "adapted" and name in self.notes)
                details = [abbreviate(names), *(printable(change, None) for change in changes)]
                parts.append(f"{len(names)} {word} ({'; '.join(details)})")
        return f"{self.source} ({self.format}): " + ", ".join(parts)

    def table(self) -> Table:
        """The number of tensors loaded, adapted, missing (the model's values stay) and skipped, per part of the model.

        A layer whose outcome differs from the rest of its part has its own row.
        """
        table = Table("part", title=Text(f"{self.source} ({self.format})"))
        for column in _COLUMNS:
            table.add_column(column, justify="right")
        table.add_column("note")
        outcome_of = self._outcomes()
        for part, names in self._parts(outcome_of).items():
            outcomes = [outcome_of[name] for name in names]
            counts = [outcomes.count(column) for column in _COLUMNS]
            notes = dict.fromkeys(self.notes[name] for name in names if name in self.notes)
            cells = [part, *(str(count) if count else "" for count in counts), abbreviate(list(notes), 2)]
            table.add_row(*map(Text, cells))  # as Text, since rich would interpret brackets in class names as markup
        return table

    def _outcomes(self) -> dict[str, str]:
        groups = (self.skipped, self.missing, self.adapted, self.loaded)
        outcomes = zip(("skipped", "missing", "adapted", "loaded"), groups)
        return {name: outcome for outcome, names in outcomes for name in names}

    def _parts(self, outcomes: Mapping[str, str]) -> dict[str, list[str]]:
        """Group tensor names by row of the table; `outcomes` maps tensor names to outcomes."""
        by_part: dict[str, dict[str, list[str]]] = {}
        for name in dict.fromkeys([*self.loaded, *self.adapted, *self.missing, *self.skipped]):
            by_part.setdefault(name.split(".")[0], {}).setdefault(name.rpartition(".")[0] or name, []).append(name)
        rows: dict[str, list[str]] = {}
        for part, layers in by_part.items():
            outcome_of = {layer: outcomes[names[0]] for layer, names in layers.items()}
            common = max(_COLUMNS, key=list(outcome_of.values()).count)
            apart = [layer for layer, outcome in outcome_of.items() if outcome != common]
            for layer, names in layers.items():
                row = layer if layer in apart and len(apart) <= _MAX_LAYERS else part
                rows.setdefault(row, []).extend(names)
        return rows
