"""What became of a checkpoint's tensors when it was loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, field


def some(names: Sequence[str], count: int = 3) -> str:
    """The first names and how many more there are: `fc.weight, fc.bias`, `a, b, c … 57 more`."""
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" … {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class LoadReport:
    """Prints as one line.

    Attributes:
        source: the path or URL, or "a state dict".
        format: whose names the checkpoint used: "chordate", "state dict", "torchvision" …
        loaded: the model's tensors that were filled as they were.
        adapted: those filled after a change of shape (a 3-channel stem for other input channels).
        skipped: tensors of the checkpoint that were not used, in the model's names where they have one.
        missing: the model's tensors that kept their values.
        classes: the class names that the checkpoint was trained on, where it says.
    """

    source: str
    format: str
    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    classes: tuple[str, ...] | None = None

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for word, names in (("adapted", self.adapted), ("skipped", self.skipped), ("missing", self.missing)):
            if names:
                parts.append(f"{len(names)} {word} ({some(names)})")
        return f"{self.source} ({self.format}): " + ", ".join(parts)
