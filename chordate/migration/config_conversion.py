"""The result of a conversion: a Chordate config, and the settings that it does not carry over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from chordate.allowed_values import format_value
from chordate.errors import ConfigError
from chordate.text import printable

# What differs from the other framework if a setting is not carried over: the predictions of the same weights, the
# training, the data that are read, or none of these ("nothing").
Effect = Literal["predictions", "training", "data", "nothing"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)
NUMERIC: tuple[Effect, ...] = ("predictions", "training")


@dataclass(frozen=True)
class NotCarried:
    """A setting of the other framework that the Chordate config does not have.

    Attributes:
        key: dotted name in the other framework.
        value: its value there.
        reason: why it is not carried over, and what happens instead.
        effect: how the conversion therefore differs from the other framework, see `Effect`.
    """

    key: str
    value: Any
    reason: str
    effect: Effect


@dataclass
class Conversion:
    """A converted config.

    Attributes:
        source: the file that was converted.
        config: the complete Chordate config, sections as nested dicts.
        not_carried: the settings that are not carried over.
        notes: sentences for the user about the new config.
    """

    source: str
    config: dict[str, Any] = field(default_factory=dict)
    not_carried: list[NotCarried] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def effects(self) -> set[Effect]:
        """The types of differences from the other framework."""
        return {lost.effect for lost in self.not_carried}

    @property
    def changes_numbers(self) -> bool:
        """Whether the predictions of the same weights, or the training, differ from the other framework's."""
        return any(effect in NUMERIC for effect in self.effects)

    def table(self) -> str:
        """The settings that are not carried over, as an aligned table; empty if there are none."""
        if not self.not_carried:
            return ""
        rank = {effect: number for number, effect in enumerate(EFFECTS)}
        rows = [("setting", "value", "changes", "reason")]
        for lost in sorted(self.not_carried, key=lambda lost: rank[lost.effect]):
            value = lost.value.get("type", lost.value) if isinstance(lost.value, dict) else lost.value
            text = value if isinstance(value, str) else format_value(value)
            rows.append((printable(lost.key, 80), printable(text, 40), lost.effect, lost.reason))
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


class Keys:
    """Reads nested settings of another framework, and remembers which ones were read.

    `report_unread` reports the settings that no converter has read, so that no setting is lost silently.

    Args:
        values: the settings.
        conversion: receives the settings that are not carried over.
        path: dotted name of `values` in messages.
        defaults: the framework's default settings, which are used for missing settings.
    """

    def __init__(
        self,
        values: Any,
        conversion: Conversion,
        path: str = "",
        defaults: Mapping[str, Any] | None = None,
    ):
        self.values: dict[str, Any] = values if isinstance(values, dict) else {}
        self.conversion, self.path, self.defaults = conversion, path, defaults or {}
        self._read: set[str] = set()
        self._ignored: set[str] = set()
        self._parts: dict[str, Keys] = {}

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a setting; if it is missing, the framework's default, or `default` if there is none."""
        self._read.add(key)
        return self.values.get(key, self.defaults.get(key, default))

    def part(self, key: str) -> Keys:
        """The settings in the dict `key`; no settings if it is missing.

        Raises:
            ConfigError: the setting is not a dict.
        """
        self._read.add(key)
        if not isinstance(self.values.get(key), dict | None):
            raise ConfigError(f"{self._name(key)} must be a dict, got {format_value(self.values[key])}")
        if key not in self._parts:
            defaults = self.defaults.get(key)
            defaults = defaults if isinstance(defaults, Mapping) else None
            self._parts[key] = Keys(self.values.get(key), self.conversion, self._name(key), defaults)
        return self._parts[key]

    def parts(self, key: str) -> list[Keys]:
        """The settings in the dict `key`, or in each dict of the list `key`."""
        values = self.values.get(key)
        if not isinstance(values, list | tuple):
            return [self.part(key)]
        self._read.add(key)
        return [
            self._parts.setdefault(name, Keys(value, self.conversion, self._name(name)))
            for name, value in ((f"{key}[{number}]", value) for number, value in enumerate(values))
        ]

    def expect(self, key: str, *accepted: Any, reason: str, effect: Effect = "predictions") -> None:
        """Report a setting unless its value is one of `accepted`, the values for which Chordate and the framework
        agree; the first of these values is the framework's default."""
        value = self.get(key, accepted[0])
        if not any(_same(value, other) for other in accepted):
            self.lose(key, reason, effect)

    def lose(self, key: str, reason: str, effect: Effect = "predictions") -> None:
        """Report that a setting is not carried over."""
        value = self.get(key)
        self.conversion.not_carried.append(NotCarried(self._name(key), value, reason, effect))

    def ignore(self, *keys: str) -> None:
        """Exclude settings that affect neither predictions nor training, and the settings nested in them, from
        `report_unread`."""
        self._read.update(keys)
        self._ignored.update(keys)

    def report_unread(self) -> None:
        """Report all settings that were not read, unless they have the framework's default value."""
        for key, value in self.values.items():
            if key in self._read:
                continue
            if not (key in self.defaults and _same(value, self.defaults[key])):
                self.lose(key, "has no counterpart in Chordate")
        for key, part in self._parts.items():
            if key.partition("[")[0] not in self._ignored:
                part.report_unread()

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)
