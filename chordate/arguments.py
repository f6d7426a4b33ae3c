"""Annotation types for arguments and settings, and the validation of values against annotations (pydantic).

`nms_threshold: Fraction = 0.5` states the range in one place, so constructors need no checks. `signatures.py` lists the
annotations that are checked.

Types are strict: strings and bools are not numbers. An integer is accepted for a float, a list for a tuple, a string
for a path, and numbers and arrays of numpy or torch for Python numbers and lists.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from types import MappingProxyType
from typing import Annotated, Any, ParamSpec, TypeVar

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

from chordate.allowed_values import Rejection, are_names, ascend, do_not_descend, rejection
from chordate.composition import Section, as_section, located
from chordate.errors import ConfigError, unknown
from chordate.signatures import checkable, parameters_of

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0), Lt(math.inf)]
NonNegativeFloat = Annotated[float, Ge(0), Lt(math.inf)]
Fraction = Annotated[float, Ge(0), Le(1)]  # 0 and 1 are allowed
PositiveFraction = Annotated[float, Gt(0), Le(1)]  # 1 is allowed, 0 is not
OpenFraction = Annotated[float, Gt(0), Lt(1)]  # neither 0 nor 1 is allowed
ProperFraction = Annotated[float, Ge(0), Lt(1)]  # 0 is allowed, 1 is not; for example a dropout rate
Seed = Annotated[int, Ge(0), Lt(2**32)]
NonEmpty = MinLen(1)  # for example Annotated[Sequence[int], NonEmpty]
Ascending = Predicate(ascend)  # for example Annotated[Sequence[int], Ascending]; strictly ascending
NotDescending = Predicate(do_not_descend)  # for example a lower and an upper threshold, which may be equal
Names = Annotated[Sequence[str], Predicate(are_names)]

Settings = TypeVar("Settings")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def validate_arguments(
    target: Callable[..., Any],
    arguments: Mapping[str, Any],
    where: str,
    *,
    inferred: Iterable[str] = (),
    extra_settings: Mapping[str, Any] = MappingProxyType({}),
    values: bool = True,
    remedy: str = "",
) -> dict[str, Any]:
    """Check arguments against the names and annotations of a callable's signature.

    Args:
        target: a class or function.
        arguments: some or all of the target's keyword arguments. If they are a `Section`, errors name the config file
            and the key path.
        where: the owner of the arguments for error messages, such as `backbone ResNet`.
        inferred: parameters that the caller fills in; messages do not list them as available.
        extra_settings: mapping from name to annotation, for settings accepted in addition to the target's parameters.
        values: whether to check the values in addition to the names.
        remedy: added to the message about an unknown name without similar names.

    Returns:
        The arguments, converted to the annotated types (a list to a tuple, an integer to a float).

    Raises:
        ConfigError: names are unknown, or values do not fit their annotations. The message lists all of them on one
            line, with suggestions for unknown names.
    """
    parameters = parameters_of(target)
    annotations = parameters.annotations | {name: checkable(annotation) for name, annotation in extra_settings.items()}
    unknowns = [name for name in arguments if name not in annotations and parameters.rest is None]
    checked: dict[str, Any] = {}
    problems = []
    for name, value in arguments.items():
        if name in unknowns:
            known = set(annotations) - set(inferred)
            listed = name == unknowns[-1]
            message = unknown(f"setting of {where}", str(name), known, listed=listed, remedy=remedy)
            problems.append(_section_problem(arguments, [name], where, message))
            continue
        checked[name] = value
        if not values or value is parameters.defaults.get(name, parameters):  # defaults are not checked
            continue
        annotation = annotations.get(name, parameters.rest)
        try:
            checked[name] = _validate(annotation, value)
        except _Rejected as error:
            problems.append(_setting_problem(arguments, name, where, error.rejection))
    if problems:
        raise ConfigError("; ".join(problems), located=isinstance(arguments, Section))
    return checked


def checked_call(remedy: str = "") -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorator of public functions: an unknown argument, or one that does not fit its annotation, is a ConfigError.

    Args:
        remedy: see `validate_arguments`.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        names = list(inspect.signature(function).parameters)

        @wraps(function)
        def call(*positional: Arguments.args, **named: Arguments.kwargs) -> Result:
            validate_arguments(function, {**dict(zip(names, positional)), **named}, function.__name__, remedy=remedy)
            return function(*positional, **named)

        return call

    return decorate


def validate_settings(
    target: Callable[..., Settings], section: Mapping[str, Any] | None, where: str, **wiring: Any
) -> Settings:
    """Validate a config section, and build a `target` (such as a dataclass) from it.

    Args:
        target: the class; its signature defines the settings and which of them are required.
        section: the settings; None for an empty section.
        where: key path of the section (`train`) for error messages; used only if `section` is a plain dict or None,
            since a Section stores its key path.
        wiring: further arguments, which are not settings of the section.

    Raises:
        ConfigError: settings are unknown, missing or invalid, or the class rejects them.
    """
    settings = as_section(section, where)
    where = settings.name() or where
    arguments = validate_arguments(target, settings, where, inferred=wiring)
    check_required(target, settings | wiring, where)
    try:
        return target(**arguments, **wiring)
    except (ConfigError, TypeError, ValueError) as error:
        raise located(error, settings) from error


def validate_value(annotation: Any, value: Any, where: str) -> Any:
    """Check one value, such as a command-line option.

    Args:
        annotation: annotation such as `Fraction` or `PositiveInt | None`.
        value: the value to check.
        where: name of the value for the error message, such as `--score-threshold`.

    Returns:
        The value, converted to the annotated type.

    Raises:
        ConfigError: the value does not fit the annotation.
    """
    try:
        return _validate(checkable(annotation), value)
    except _Rejected as error:
        raise ConfigError(f"{'.'.join((where, *error.rejection.path))} {error.rejection.message}") from None


def check_required(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    """Check that all arguments without a default are set.

    Raises:
        ConfigError: arguments are missing; the message names them.
    """
    parameters = parameters_of(target)
    missing = [name for name in parameters.annotations if name not in parameters.defaults and name not in arguments]
    if missing:
        text = f"{where} needs {' and '.join(missing)}"
        raise ConfigError(_section_problem(arguments, arguments, where, text), located=isinstance(arguments, Section))


def _setting_problem(arguments: Mapping[str, Any], name: str, where: str, rejected: Rejection) -> str:
    """Format `mine.py: model.rpn.nms_threshold must be …`, or `head RPNHead: nms_threshold must be …`."""
    key = ".".join((name, *rejected.path))
    if isinstance(arguments, Section):
        return f"{arguments.source([key])}{arguments.name(key)} {rejected.message}"
    return f"{where}: {key} {rejected.message}"


def _section_problem(arguments: Mapping[str, Any], keys: Iterable[str], where: str, message: str) -> str:
    """Format `mine.py: model.rpn: message`; without the key path if it is `where`, which the message contains.

    For a plain dict, which has no file and no key path, returns only the message.
    """
    if isinstance(arguments, Section):
        path = "" if where == arguments.name() else f"{arguments.name()}: "
        return f"{arguments.source(keys)}{path}{message}"
    return message


class _Rejected(Exception):
    def __init__(self, rejected: Rejection):
        self.rejection = rejected


def _validate(annotation: Any, value: Any) -> Any:
    from pydantic import ValidationError

    if annotation is Any:
        return value
    plain = value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, range) else value
    try:
        return _adapter(annotation).validate_python(plain)
    except ValidationError:
        raise _Rejected(rejection(annotation, plain, _fits)) from None


def _fits(annotation: Any, value: Any) -> bool:
    from pydantic import ValidationError

    try:
        _adapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


@cache
def _adapter(annotation: Any) -> Any:
    from pydantic import ConfigDict, InstanceOf, TypeAdapter

    # TypeAdapter accepts no `config` for a dataclass. `InstanceOf` only checks the class, so it needs no strict mode.
    is_class = any(isinstance(item, InstanceOf) for item in getattr(annotation, "__metadata__", ()))
    return TypeAdapter(annotation, config=None if is_class else ConfigDict(strict=True))
