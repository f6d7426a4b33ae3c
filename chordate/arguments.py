"""The types that arguments and settings are annotated with, and the check of values against annotations (pydantic).

`nms_threshold: Fraction = 0.5` states the range in one place, so constructors hold no checks. Checked are `int`,
`float`, `bool`, `str`, `None`, `Literal["a", "b"]`, `Sequence[int]`, `tuple[float, float]`, `Mapping[str, int]`,
`Path`, classes, and unions and `Annotated` forms of these. Any other annotation (a tensor, a callable, a Protocol)
accepts every value.

Types are strict: no text or bool counts as a number; an integer counts as a float, a list as a tuple, a string as a
path, a number or array of numpy or torch as the plain numbers in it.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

from chordate.allowed_values import Rejection, are_names, ascend, do_not_descend, rejection
from chordate.composition import Section, as_section, located
from chordate.errors import ConfigError, unknown

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0), Lt(math.inf)]
NonNegativeFloat = Annotated[float, Ge(0), Lt(math.inf)]
Fraction = Annotated[float, Ge(0), Le(1)]  # both ends included
OpenFraction = Annotated[float, Gt(0), Lt(1)]  # neither end
ProperFraction = Annotated[float, Ge(0), Lt(1)]  # 0, but not 1: a dropout rate
Seed = Annotated[int, Ge(0), Lt(2**32)]
NonEmpty = MinLen(1)  # Annotated[Sequence[int], NonEmpty]
Ascending = Predicate(ascend)  # Annotated[Sequence[int], Ascending]: each larger than the one before
NotDescending = Predicate(do_not_descend)  # or equal to it: a lower and an upper threshold
Names = Annotated[Sequence[str], Predicate(are_names)]

Settings = TypeVar("Settings")


class Parameters(NamedTuple):
    """The parameters of a callable.

    Attributes:
        annotations: by name, reduced to what can be checked.
        defaults: of those that have one.
        rest: annotation of `**kwargs`; None if unknown names are errors.
    """

    annotations: dict[str, Any]
    defaults: dict[str, Any]
    rest: Any


def validate_arguments(
    target: Callable[..., Any],
    arguments: Mapping[str, Any],
    where: str,
    *,
    inferred: Iterable[str] = (),
    extra_settings: Mapping[str, Any] = MappingProxyType({}),
    values: bool = True,
) -> dict[str, Any]:
    """Check arguments against the names and annotations of a callable's signature.

    Args:
        target: a class or function.
        arguments: some or all of its arguments, by name. A `Section` makes errors name the file and the path.
        where: what the arguments are of (`backbone ResNet`), for messages.
        inferred: parameters that the caller fills, so that messages do not offer them.
        extra_settings: annotations of settings that are accepted in addition to the callable's own parameters.
        values: whether to check the values too, or only the names.

    Returns:
        The arguments as annotated: a list as a tuple, an integer as a float.

    Raises:
        ConfigError: unknown names (with near ones) or values that do not fit; all of them, in one line.
    """
    parameters = parameters_of(target)
    annotations = parameters.annotations | {name: _checkable(annotation) for name, annotation in extra_settings.items()}
    unknowns = [name for name in arguments if name not in annotations and parameters.rest is None]
    checked: dict[str, Any] = {}
    problems = []
    for name, value in arguments.items():
        if name in unknowns:
            known = set(annotations) - set(inferred)
            message = unknown(f"setting of {where}", str(name), known, listed=name == unknowns[-1])
            problems.append(_whole(arguments, [name], where, message))
            continue
        checked[name] = value
        if not values or value is parameters.defaults.get(name, parameters):  # a default always fits
            continue
        annotation = annotations.get(name, parameters.rest)
        try:
            checked[name] = _validated(annotation, value)
        except _Rejected as error:
            problems.append(_one(arguments, name, where, error.rejection))
    if problems:
        raise ConfigError("; ".join(problems), located=isinstance(arguments, Section))
    return checked


def validate_settings(
    target: Callable[..., Settings], section: Mapping[str, Any] | None, where: str, **wiring: Any
) -> Settings:
    """Make an object, such as a dataclass, from a section of a config.

    Args:
        target: the class; its signature says which settings there are, and which are required.
        section: its settings; None is an empty section.
        where: the path (`train`) of a plain dict, for messages; a Section knows its own.
        wiring: arguments that come from other parts, not from the section.

    Raises:
        ConfigError: unknown, missing or unfitting settings, or the class itself rejects them.
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
    """Check one value, such as a command's option.

    Args:
        annotation: `Fraction`, `PositiveInt | None` …
        value: the value.
        where: what it is (`--score-threshold`), for the message.

    Returns:
        The value as annotated.

    Raises:
        ConfigError: it does not fit.
    """
    try:
        return _validated(_checkable(annotation), value)
    except _Rejected as error:
        raise ConfigError(f"{'.'.join((where, *error.rejection.path))} {error.rejection.message}") from None


def check_required(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    """Check that no argument without a default is missing.

    Raises:
        ConfigError: some are; names them.
    """
    parameters = parameters_of(target)
    missing = [name for name in parameters.annotations if name not in parameters.defaults and name not in arguments]
    if missing:
        text = f"{where} needs {' and '.join(missing)}"
        raise ConfigError(_whole(arguments, arguments, where, text), located=isinstance(arguments, Section))


def is_third_party(target: Callable[..., Any]) -> bool:
    """Whether a class or function is another library's, whose annotations are narrower than what its code takes."""
    return getattr(target, "__module__", "").split(".")[0] in ("builtins", "torch", "torchvision", "timm")


@cache
def parameters_of(target: Callable[..., Any]) -> Parameters:
    """The parameters of a callable, their annotations reduced to what can be checked.

    What a class takes as `**kwargs` it is expected to hand to the class it inherits from, whose parameters are then
    optional ones of its own; except the required ones, if it asks for others in their place (a VocDataset for a folder,
    where a CocoDataset asks for annotations).
    """
    annotations, defaults, rest = {}, {}, None
    for parameter in inspect.signature(target).parameters.values():
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        if isinstance(annotation, str):
            annotation = _resolved(annotation, _namespace(target))
        checkable = _checkable(annotation)
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = checkable
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            annotations[parameter.name] = checkable
            if parameter.default is not parameter.empty:
                defaults[parameter.name] = parameter.default
    parents = target.__mro__[1:] if isinstance(target, type) and rest is not None else ()
    parent = next((cls for cls in parents if "__init__" in vars(cls)), object)
    if not is_third_party(parent):
        inherited = parameters_of(parent)
        asks_for_others = not annotations.keys() <= defaults.keys() | inherited.annotations.keys()
        offered = inherited.defaults if asks_for_others else inherited.annotations
        names = [name for name in offered if name not in annotations]
        annotations |= {name: inherited.annotations[name] for name in names}
        defaults |= {name: inherited.defaults.get(name, ...) for name in names}
    return Parameters(annotations, defaults, rest)


def _one(arguments: Mapping[str, Any], name: str, where: str, rejected: Rejection) -> str:
    """`mine.py: model.rpn.nms_threshold must be …`, or `head RPNHead: nms_threshold must be …`."""
    key = ".".join((name, *rejected.path))
    if isinstance(arguments, Section):
        return f"{arguments.source([key])}{arguments.name(key)} {rejected.message}"
    return f"{where}: {key} {rejected.message}"


def _whole(arguments: Mapping[str, Any], keys: Iterable[str], where: str, message: str) -> str:
    """`mine.py: model.rpn: message`, without the path if the message says it; or the message."""
    if isinstance(arguments, Section):
        path = "" if where == arguments.name() else f"{arguments.name()}: "
        return f"{arguments.source(keys)}{path}{message}"
    return message


class _Rejected(Exception):
    def __init__(self, rejected: Rejection):
        self.rejection = rejected


def _validated(annotation: Any, value: Any) -> Any:
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

    # A dataclass may not be configured, and of an instance nothing else is checked.
    is_class = any(isinstance(item, InstanceOf) for item in getattr(annotation, "__metadata__", ()))
    return TypeAdapter(annotation, config=None if is_class else ConfigDict(strict=True))


def _checkable(annotation: Any) -> Any:
    """An annotation with everything that cannot be checked replaced by Any."""
    from pydantic import InstanceOf, Strict, WrapValidator

    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if annotation in (int, float, bool, str, Any) or origin is Literal:
        return annotation
    if annotation is None or annotation is types.NoneType:
        return types.NoneType
    if annotation in (Path, os.PathLike):
        return str | InstanceOf[os.PathLike]
    if origin is Annotated:
        base = _checkable(inner[0])
        known = [item for item in inner[1:] if type(item).__module__.split(".")[0] in ("annotated_types", "pydantic")]
        return Annotated[(base, *known)] if base is not Any and known else base
    if origin in (Union, types.UnionType):
        members = tuple(_checkable(member) for member in inner)
        return Any if Any in members else Union[members]  # noqa: UP007  (of a tuple)
    generic: dict[Any, Any] = {tuple: tuple, Sequence: Sequence, Mapping: Mapping}  # Any: no type checker reads these
    items = tuple(item if item is Ellipsis else _checkable(item) for item in inner)
    if origin is tuple:
        return Annotated[generic[tuple][items or (Any, ...)], Strict(False)]
    if origin in (list, Sequence, MutableSequence):
        return Annotated[generic[Sequence][items or Any], WrapValidator(_no_text)]
    if origin in (dict, Mapping, MutableMapping):
        return Annotated[generic[Mapping][items or (Any, Any)], WrapValidator(_unchanged)]
    # A tensor's or array's values are checked as plain numbers, see `_validated`.
    if isinstance(annotation, type) and not (
        inner or hasattr(annotation, "tolist") or getattr(annotation, "_is_protocol", False)
    ):
        return Annotated[annotation, InstanceOf()]
    return Any


def _unchanged(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Check a mapping but keep the very object: it may be a Section, or have attributes of its own."""
    validate(value)
    return value


def _no_text(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Text is no list of letters."""
    if isinstance(value, str | bytes):
        raise ValueError
    return validate(value)


def _resolved(annotation: str, namespace: dict[str, Any]) -> Any:
    """The annotation that a string stands for; Any where its names are known to type checkers only."""
    try:
        return eval(annotation, namespace)
    except Exception:
        return Any


@cache
def _namespace(target: Callable[..., Any]) -> dict[str, Any]:
    """The globals that a callable's annotations are written in."""
    target = inspect.unwrap(getattr(target, "func", target))
    if isinstance(target, type):
        names: dict[str, Any] = {}
        for cls in reversed(target.__mro__):  # a dataclass inherits fields, a class its constructor
            names |= vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
        return names
    return getattr(target, "__globals__", {})
