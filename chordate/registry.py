"""The registries of components (backbones, heads, datasets …), which build objects from a config's dicts.

The decorator `@BACKBONES.register_module()` registers a component when its module is imported. A config imports modules
with `custom_imports`; an installed package names its modules in entry points of the group `chordate.plugins`.
"""

from __future__ import annotations

import fnmatch
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol

from mmengine.registry import Registry

from chordate.allowed_values import format_value
from chordate.arguments import check_required, validate_arguments
from chordate.composition import Section, located
from chordate.errors import ChordateError, ConfigError, repr_name, unknown
from chordate.plugins import describe_module, load_plugins, was_plugin
from chordate.signatures import is_third_party, parameters_of

_registries: list[PlugRegistry] = []


class PlugRegistry(Registry):
    """mmengine's Registry, with named variants, inferred arguments, validated arguments, and errors that suggest names.

    Args:
        kind: the kind of component, for error messages: `backbone`, `neck` …
        location: the package that is imported at the first look-up, so that its modules register their components.
        extra_settings: mapping from name to annotation, for settings that a component's config may have in addition to
            the component's arguments; they become attributes of the built object.
    """

    def __init__(
        self, kind: str, location: str | None = None, extra_settings: Mapping[str, Any] = MappingProxyType({})
    ):
        super().__init__(kind, scope="chordate", locations=[location] if location else [])
        self.variants: dict[str, dict[str, Any]] = {}
        self.extra_settings = dict(extra_settings)
        self._modules: dict[str, str] = {}  # the module that registered each name
        self._clashes: dict[str, str] = {}  # error messages of names that a plug-in and another module registered
        _registries.append(self)

    def register_variants(self, variants: Mapping[str, Mapping[str, Any]]) -> None:
        """Register a name for each config, so that `"resnet50"` stands for `dict(type="ResNet", depth=50)`.

        Raises:
            ConfigError: another module has registered one of the names.
        """
        module = sys._getframe(1).f_globals.get("__name__", "")
        for name, config in variants.items():
            if self._modules.get(name) != module:
                self._claim(name, module)
            self.variants[name] = dict(config)

    def _register_module(self, module: Any, module_name: str | list[str] | None = None, force: bool = False) -> None:
        names = module_name if isinstance(module_name, list) else [module_name or module.__name__]
        for name in names:
            self._claim(name, module.__module__, force)
        super()._register_module(module, names, force=True)

    def _claim(self, name: str, module: str, force: bool = False) -> None:
        """Record that a module registers a name.

        Raises:
            ConfigError: the name is already registered, and `force` is false.
        """
        owner = self._modules.get(name)
        if owner and (name in self.module_dict or name in self.variants) and not force:
            owners = describe_module(owner) + ("" if owner == module else f" and {describe_module(module)}")
            message = f"{self.name} {repr_name(name)} is registered twice, by {owners}; rename one"
            if was_plugin(owner) and owner != module:
                message = self._clashes[name] = f"{message}, or uninstall its package"
            raise ConfigError(message)
        self._modules[name] = module

    def names(self, pattern: str = "*") -> list[str]:
        """Registered types and variants that match a shell pattern, sorted."""
        self.import_from_location()
        load_plugins()
        return sorted(fnmatch.filter({*self.module_dict, *self.variants}, pattern))

    def expand(self, config: Any) -> dict[str, Any]:
        """Replace the name of a variant by its config; keys in `config` override the keys of the variant.

        Raises:
            ConfigError: the type or variant does not exist, or the config is neither a name nor a dict with `type`.
        """
        if isinstance(config, str):
            config = {"type": config}
        if not isinstance(config, Mapping) or "type" not in config:
            message = f"the {self.name} must be a name, a dict with `type`, or a built object, got {config!r}"
            raise located(ConfigError(message), config)
        config = config.copy() if isinstance(config, Section) else dict(config)
        plug = config["type"]
        if not isinstance(plug, str):
            if not callable(plug):
                error = ConfigError(f"type must be the name of a registered {self.name}, got {format_value(plug)}")
                raise located(error, config, ["type"])
            return config
        self.import_from_location()
        if plug not in self.variants and super().get(plug) is None:
            load_plugins()
        if plug in self._clashes:
            raise located(ConfigError(self._clashes[plug]), config, ["type"])
        if plug in self.variants:
            variant = deepcopy(self.variants[plug])
            config |= {"type": variant.pop("type")} | {key: variant[key] for key in variant if key not in config}
        elif super().get(plug) is None:
            message = unknown(self.name, plug, self.names(), remedy="if custom, list its module in custom_imports")
            raise located(ConfigError(message), config, ["type"])
        return config

    def build(
        self, config: Any, *, facts: Mapping[str, Any] | None = None, contract: type | None = None, **wiring: Any
    ) -> Any:
        """Build a component from a config.

        Args:
            config: a variant's name, a dict with `type` and the component's arguments, or a built object, which
                is checked against the contract and returned unchanged.
            facts: values such as `num_classes` and `num_keypoints` (see `DatasetMeta.facts`); the component receives
                the values that it has parameters for.
            contract: a class or Protocol with the methods and attributes that the component must have.
            wiring: arguments that the component always receives, such as `in_features`. A config must not set facts or
                wiring.

        Raises:
            ConfigError: the type is unknown, arguments are unknown, missing or invalid, the component rejects them, or
                it does not fulfill the contract. The message names file and setting if the config is a `Section`.
        """
        if config is None or isinstance(config, bool | int | float | bytes | list | tuple | type):
            raise ConfigError(f"the {self.name} must be a name, a dict with `type`, or a built object, got {config!r}")
        try:
            is_config = isinstance(config, str | Mapping)
            built = self._build(self.expand(config), dict(facts or {}), wiring) if is_config else config
            if contract is not None:
                check_contract(built, contract)
            return built
        except ConfigError as error:
            raise located(error, config) from error

    def _build(self, arguments: dict[str, Any], facts: dict[str, Any], wiring: dict[str, Any]) -> Any:
        plug = arguments.pop("type")
        cls = super().get(plug) if isinstance(plug, str) else plug
        where = f"{self.name} {getattr(cls, '__name__', plug)}"
        accepted = parameters_of(cls).annotations
        # Facts may come from an untrusted checkpoint, so they are checked like a config, and cannot replace wiring.
        known = {name: value for name, value in facts.items() if name in accepted and name not in wiring}
        wiring |= validate_arguments(cls, known, where, values=not is_third_party(cls))
        clash = ", ".join(sorted(set(arguments) & set(wiring)))
        if clash:
            raise ConfigError(f"{where}: {clash} is set automatically; remove it from the config")
        names: dict[str, Any] = {"inferred": wiring, "extra_settings": self.extra_settings}
        checked = validate_arguments(cls, arguments, where, **names, values=not is_third_party(cls))
        extra_settings = {name: checked.pop(name) for name in self.extra_settings if name in checked}
        check_required(cls, checked | wiring, where)
        try:
            built = cls(**checked, **wiring)
        except ChordateError:
            raise
        except (TypeError, ValueError) as error:
            # Raises a clearer error if a value contradicts its annotation.
            validate_arguments(cls, arguments, where, **names)
            raise ConfigError(f"{where}: {error}") from error
        for name, value in extra_settings.items():
            setattr(built, name, value)
        return built


def check_contract(part: Any, contract: type) -> None:
    """Check that a component has the attributes and methods (with their arguments) that a class or Protocol declares.

    Raises:
        ConfigError: attributes or methods are missing, or the arguments of a method have other names.
    """
    missing: list[str] = []
    renamed: list[str] = []
    for cls in contract.__mro__:
        if cls in (Protocol, Generic, object):
            continue
        missing += [name for name in inspect.get_annotations(cls) if not hasattr(part, name)]
        for name, method in vars(cls).items():
            if inspect.isfunction(method) and (name == "__call__" or not name.startswith("_")):
                # nn.Module.__call__ accepts any arguments, so check forward instead.
                own = getattr(part, "forward" if name == "__call__" and hasattr(part, "forward") else name, None)
                if own is None or not _accepts(own, method):
                    names = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
                    title = f"{name.replace('__call__', 'forward')}({', '.join(names)})"
                    (missing if own is None or not _binds(own, names) else renamed).append(title)
    text = f"{repr_name(type(part).__name__)} does not implement {contract.__name__}: "
    if missing:
        raise ConfigError(f"{text}it has no {', no '.join(dict.fromkeys(missing))}; choose another type")
    if renamed:
        methods = ", ".join(dict.fromkeys(renamed))
        raise ConfigError(f"{text}arguments must be named as in {methods}; rename them, or choose another type")


def _binds(method: Callable[..., Any], names: Sequence[str]) -> bool:
    """Whether a method accepts as many positional arguments as there are `names`."""
    try:
        inspect.signature(method).bind(*names)
    except TypeError:
        return False
    return True


def _accepts(method: Callable[..., Any], contract: Callable[..., Any]) -> bool:
    """Whether a method can be called like the contract's method: it has the same parameters at the same positions (with
    the same names unless they are positional-only), and no further required parameters."""
    signature = inspect.signature(method)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        return True
    wanted = [parameter for name, parameter in inspect.signature(contract).parameters.items() if name != "self"]
    own = list(signature.parameters.values())
    return (
        len(own) >= len(wanted)
        and all(mine.name == its.name or its.kind is its.POSITIONAL_ONLY for mine, its in zip(own, wanted))
        and all(
            parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD
            for parameter in own[len(wanted) :]
        )
    )


def settings_of(plug: Any) -> set[str] | None:
    """The names of the settings that a type accepts from an inherited config of another type; None if no
    registry has the type. Settings in the type's `not_inherited` are left out."""
    if not isinstance(plug, str):
        return set(parameters_of(plug).annotations) if callable(plug) else None
    classes = _classes_of(plug)
    names = {name for registry, cls in classes for name in (*parameters_of(cls).annotations, *registry.extra_settings)}
    return names - not_inherited(plug) or None


def not_inherited(plug: Any) -> set[str]:
    """The names of the settings that a type never accepts from an inherited config of another type, see
    `Dataset.not_inherited`."""
    return {name for _, cls in _classes_of(plug) for name in getattr(cls, "not_inherited", ())}


def _classes_of(plug: Any) -> list[tuple[PlugRegistry, Any]]:
    """The registries that have a type or variant of this name, each with its class."""
    if not isinstance(plug, str):
        return []
    holders = [registry for registry in _registries if plug in registry.variants or plug in registry.module_dict]
    if not holders:
        holders = [registry for registry in _registries if plug in registry.names()]
    return [(registry, registry.get(registry.expand(plug)["type"])) for registry in holders]


# These are not arguments of a backbone's class: `load_pretrained` reads them from the built backbone.
WEIGHTS = {"pretrained": str | Path | bool | None, "default_weights": str | None}
BACKBONES = PlugRegistry("backbone", "chordate.backbones", extra_settings=WEIGHTS)
NECKS = PlugRegistry("neck", "chordate.necks")
HEADS = PlugRegistry("head", "chordate.heads")
LOSSES = PlugRegistry("loss", "chordate.ops.pixel_losses")
MODELS = PlugRegistry("model", "chordate.models")
DATASETS = PlugRegistry("dataset", "chordate.data")
TRANSFORMS = PlugRegistry("transform", "chordate.data.transforms")
METRICS = PlugRegistry("metric", "chordate.evaluation")
CALLBACKS = PlugRegistry("callback", "chordate.training.callbacks")
OPTIMIZERS = PlugRegistry(
    "optimizer",
    "chordate.training.optimizer",
    # Any, because OptimizerSettings checks the values.
    extra_settings=dict.fromkeys(("base_batch_size", "no_decay", "parts", "layer_decay", "layer_blocks"), Any),
)
SCHEDULES = PlugRegistry("schedule", "chordate.training.schedule")
FORMATS = PlugRegistry("checkpoint format", "chordate.weights.formats")
