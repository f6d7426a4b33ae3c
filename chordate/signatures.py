"""Reads the parameters of a callable from its signature, with annotations that pydantic can check.

These annotations are checked: `int`, `float`, `bool`, `str`, `None`, `Literal["a", "b"]`, `Sequence[int]`,
`tuple[float, float]`, `Mapping[str, int]`, `Path`, classes, and unions and `Annotated` forms of these. Any other
annotation (a tensor, a callable, a Protocol) accepts every value.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin


class Parameters(NamedTuple):
    """The parameters of a callable.

    Attributes:
        annotations: mapping from parameter name to annotation, with Any in place of the parts that cannot be checked.
        defaults: mapping from parameter name to default value, for the optional parameters; `...` for those that only
            the parent class requires.
        rest: annotation of further keyword arguments (`**kwargs`); None if unknown names are errors.
    """

    annotations: dict[str, Any]
    defaults: dict[str, Any]
    rest: Any


def is_third_party(target: Callable[..., Any]) -> bool:
    """Whether a class or function is from a library whose code accepts more values than its annotations allow."""
    return getattr(target, "__module__", "").split(".")[0] in ("builtins", "torch", "torchvision", "timm")


@cache
def parameters_of(target: Callable[..., Any]) -> Parameters:
    """The parameters of a callable; their annotations have Any in place of the parts that cannot be checked.

    A class with `**kwargs` is expected to pass them to its parent class, so the parent's parameters become optional
    parameters of the class. If the class has required parameters of its own, they replace the parent's required ones
    (`VocDataset` requires a folder where its parent `CocoDataset` requires annotations).
    """
    annotations, defaults, rest = {}, {}, None
    for parameter in inspect.signature(target).parameters.values():
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        if isinstance(annotation, str):
            annotation = _resolve(annotation, _namespace(target))
        annotation = checkable(annotation)
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = annotation
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            annotations[parameter.name] = annotation
            if parameter.default is not parameter.empty:
                defaults[parameter.name] = parameter.default
    parents = target.__mro__[1:] if isinstance(target, type) and rest is not None else ()
    parent = next((cls for cls in parents if "__init__" in vars(cls)), object)
    if not is_third_party(parent):
        inherited = parameters_of(parent)
        rest = inherited.rest
        replaces_required = not annotations.keys() <= defaults.keys() | inherited.annotations.keys()
        available = inherited.defaults if replaces_required else inherited.annotations
        names = [name for name in available if name not in annotations]
        annotations |= {name: inherited.annotations[name] for name in names}
        defaults |= {name: inherited.defaults.get(name, ...) for name in names}
    return Parameters(annotations, defaults, rest)


def checkable(annotation: Any) -> Any:
    """Put Any in place of the parts of an annotation that cannot be checked."""
    from pydantic import InstanceOf, Strict, WrapValidator

    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if annotation in (int, float, bool, str, Any) or origin is Literal:
        return annotation
    if annotation is None or annotation is types.NoneType:
        return types.NoneType
    if annotation in (Path, os.PathLike):
        return str | InstanceOf[os.PathLike]
    if origin is Annotated:
        base = checkable(inner[0])
        known = [item for item in inner[1:] if type(item).__module__.split(".")[0] in ("annotated_types", "pydantic")]
        return Annotated[(base, *known)] if base is not Any and known else base
    if origin in (Union, types.UnionType):
        members = tuple(checkable(member) for member in inner)
        return Any if Any in members else Union[members]  # noqa: UP007  (`members` is a tuple)
    # The values are typed Any, because type checkers cannot follow annotations that are built at run time.
    generic: dict[Any, Any] = {tuple: tuple, Sequence: Sequence, Mapping: Mapping}
    items = tuple(item if item is Ellipsis else checkable(item) for item in inner)
    if origin is tuple:
        return Annotated[generic[tuple][items or (Any, ...)], Strict(False)]
    if origin in (list, Sequence, MutableSequence):
        return Annotated[generic[Sequence][items or Any], WrapValidator(_reject_text)]
    if origin in (dict, Mapping, MutableMapping):
        return Annotated[generic[Mapping][items or (Any, Any)], WrapValidator(_keep_object)]
    # Tensors and arrays get no isinstance check, because `arguments.py` first converts values with `tolist()`.
    if isinstance(annotation, type) and not (
        inner or hasattr(annotation, "tolist") or getattr(annotation, "_is_protocol", False)
    ):
        return Annotated[annotation, InstanceOf()]
    return Any


def _keep_object(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate a mapping but return the original object, which may be a Section or have attributes."""
    validate(value)
    return value


def _reject_text(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Reject strings, which would otherwise be valid sequences of characters."""
    if isinstance(value, str | bytes):
        raise ValueError
    return validate(value)


def _resolve(annotation: str, namespace: dict[str, Any]) -> Any:
    """Evaluate an annotation given as a string; Any if it uses names that only type checkers import."""
    try:
        return eval(annotation, namespace)
    except Exception:
        return Any


@cache
def _namespace(target: Callable[..., Any]) -> dict[str, Any]:
    """The globals of the modules in which a callable's annotations are written."""
    target = inspect.unwrap(getattr(target, "func", target))
    if isinstance(target, type):
        names: dict[str, Any] = {}
        for cls in reversed(target.__mro__):  # fields and constructors may be inherited from other modules
            names |= vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
        return names
    return getattr(target, "__globals__", {})
