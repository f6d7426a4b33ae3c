"""The result of a conversion: a Chordate config, and the settings that it does not carry over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from chordate.allowed_values import allowed, format_value
from chordate.arguments import validate_value
from chordate.errors import ConfigError
from chordate.signatures import checkable
from chordate.text import printable

# What differs from the other framework if a setting is not carried over: the predictions of the same weights, the
# training, the metrics ("evaluation"), the data that must be set, or none of these ("nothing").
Effect = Literal["predictions", "training", "evaluation", "data", "nothing"]
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


_REQUIRED: Any = object()  # the default of a setting that has none


class Keys:
    """Reads nested settings of another framework, checks their types, and remembers which ones were read.

    `report_unread` reports the settings that no converter has read, so that no setting is lost silently.

    Args:
        values: the settings.
        conversion: receives the settings that are not carried over.
        types: annotations of the settings that the converters read. A key is the setting's name, or the last two parts
            of its dotted name, which take precedence.
        path: dotted name of `values` in messages.
        defaults: the framework's default settings, which are used for missing settings.
        empty: dotted name of the outermost dict around `values` that is missing or empty; "" if there is none.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        conversion: Conversion,
        types: Mapping[str, Any],
        path: str = "",
        defaults: Mapping[str, Any] | None = None,
        empty: str = "",
    ):
        self.values, self.conversion, self.types = values, conversion, types
        self.path, self.defaults = path, defaults or {}
        self._empty = empty or ("" if values else path)
        self._read: set[str] = set()
        self._ignored: set[str] = set()
        self._parts: dict[str, Keys] = {}

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of a setting; if it is missing, the framework's default, or `default` if there is none. If
        `default` is None, the value may be None as well.

        Raises:
            ConfigError: the value has the wrong type, or the setting is missing and has no default.
        """
        self._read.add(key)
        value = self._value(key, default)
        if value is _REQUIRED:
            raise ConfigError(f"{self._name(key)} is missing; it must be {allowed(checkable(self._type(key)))}")
        if key in self.values and not (value is None and default is None):
            validate_value(self._type(key), value, self._name(key))
        return value

    def get_or_ours(self, key: str, effect: Effect = "training") -> Any:
        """The value of a setting; None if it is missing, for Chordate's default (see `fill_numbers`), which is
        reported."""
        if key in self:
            return self.get(key)
        self._read.add(key)
        self._report(NotCarried(self._empty or self._name(key), "missing", "Chordate's defaults instead", effect))
        return None

    def part(self, key: str) -> Keys:
        """The settings in the dict `key`; no settings if it is missing.

        Raises:
            ConfigError: the setting is not a dict.
        """
        self._read.add(key)
        defaults = self.defaults.get(key)
        return self._part(key, self.values.get(key), defaults if isinstance(defaults, Mapping) else None)

    def parts(self, key: str, *, least: int = 0) -> list[Keys]:
        """The settings in the dict `key`, or in each dict of the list `key`. If it is missing, there are no parts; with
        `least=1`, one part without settings.

        Raises:
            ConfigError: the setting is neither a dict nor a list of at least `least` dicts.
        """
        values = self.values.get(key)
        self._read.add(key)
        if not isinstance(values, list | tuple):
            return [] if values is None and not least else [self.part(key)]
        if len(values) < least:
            raise ConfigError(f"{self._name(key)} must be a dict or a list of dicts, got []")
        return [self._part(f"{key}[{number}]", value) for number, value in enumerate(values)]

    def expect(self, key: str, *accepted: Any, reason: str, effect: Effect = "predictions") -> None:
        """Report a setting unless its value is one of `accepted`, the values for which Chordate and the framework
        agree; the first of these values is the framework's default."""
        self._read.add(key)
        value = self._value(key, accepted[0])
        if not any(_same(value, other) for other in accepted):
            self.lose(key, reason, effect)

    def lose(self, key: str, reason: str, effect: Effect = "predictions") -> None:
        """Report that a setting is not carried over."""
        self._read.add(key)
        value = self._value(key, None)
        self._report(NotCarried(self._name(key), value, reason, effect))

    def ignore(self, *keys: str) -> None:
        """Exclude settings that affect neither predictions nor training, and the settings nested in them, from
        `report_unread`."""
        self._read.update(keys)
        self._ignored.update(keys)

    def report_unread(
        self, effect: Effect = "predictions", sections: Mapping[str, Effect] = MappingProxyType({})
    ) -> None:
        """Report all settings that were not read, unless they have the framework's default value.

        Args:
            effect: what differs without these settings.
            sections: what differs without the settings of a section, by the section's name, if not `effect`.
        """
        for key, value in self.values.items():
            if key in self._read:
                continue
            if not (key in self.defaults and _same(value, self.defaults[key])):
                self.lose(key, "has no counterpart in Chordate", sections.get(key, effect))
        for key, part in self._parts.items():
            if key.partition("[")[0] not in self._ignored:
                part.report_unread(sections.get(key, effect))

    def _report(self, lost: NotCarried) -> None:
        if lost not in self.conversion.not_carried:  # several converters may read the same setting
            self.conversion.not_carried.append(lost)

    def _value(self, key: str, default: Any) -> Any:
        return self.values.get(key, self.defaults.get(key, default))

    def _part(self, key: str, values: Any, defaults: Mapping[str, Any] | None = None) -> Keys:
        if not isinstance(values, dict | None):
            raise ConfigError(f"{self._name(key)} must be a dict, got {format_value(values)}")
        if key not in self._parts:
            name = self._name(key)
            self._parts[key] = Keys(values or {}, self.conversion, self.types, name, defaults, self._empty)
        return self._parts[key]

    def _type(self, key: str) -> Any:
        section = self.path.rpartition(".")[2].partition("[")[0]
        return self.types[f"{section}.{key}" if f"{section}.{key}" in self.types else key]

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)
