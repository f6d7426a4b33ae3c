"""The registries that plugs enter, and how a config's dict becomes an object.

A plug is registered in one of three ways: the decorator `@BACKBONES.register_module()`, a config's
`custom_imports`, or an installed package's entry point in the group `chordate.plugins`.
"""

import fnmatch
import inspect
import warnings
from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import entry_points
from typing import Any

from mmengine.registry import Registry

from chordate.errors import ChordateError, ConfigError, unknown

PLUGIN_GROUP = "chordate.plugins"
_plugins_loaded = False


def load_plugins() -> None:
    """Import every installed plug-in once; one that fails is named in a warning and left out."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for entry in entry_points(group=PLUGIN_GROUP):
        try:
            entry.load()
        except Exception as error:  # a stranger's package must not stop the run
            warnings.warn(f"plug-in {entry.name} ({entry.value}) could not be imported: {error}", stacklevel=2)


class PlugRegistry(Registry):
    """mmengine's registry with named variants, wiring, and errors that name what was probably meant.

    Args:
        kind: what it holds, as error messages say it: `backbone`, `neck` …
        location: the package imported at the first look-up, so that its modules register themselves.
    """

    def __init__(self, kind: str, location: str | None = None):
        super().__init__(kind, scope="chordate", locations=[location] if location else [])
        self.variants: dict[str, dict[str, Any]] = {}

    def register_variants(self, variants: Mapping[str, Mapping[str, Any]]) -> None:
        """Name ready-made configs, so that `"resnet50"` stands wherever `dict(type="ResNet", depth=50)` does."""
        self.variants.update({name: dict(config) for name, config in variants.items()})

    def names(self, pattern: str = "*") -> list[str]:
        """Registered types and variants that match a shell pattern, sorted."""
        self.import_from_location()
        load_plugins()
        return sorted(fnmatch.filter({*self.module_dict, *self.variants}, pattern))

    def expand(self, config: Any) -> dict[str, Any]:
        """The dict that a named variant stands for; a dict's own keys override its variant's.

        Raises:
            ConfigError: no such type or variant, or the config is neither a name nor a dict with `type`.
        """
        if isinstance(config, str):
            config = {"type": config}
        if not isinstance(config, Mapping) or "type" not in config:
            raise ConfigError(f"a {self.name} is a name, a dict with `type`, or a built object; got {config!r}")
        config = dict(config)
        plug = config["type"]
        if not isinstance(plug, str):
            return config
        self.import_from_location()
        if plug not in self.variants and super().get(plug) is None:
            load_plugins()
        if plug in self.variants:
            config = {**deepcopy(self.variants[plug]), **{k: v for k, v in config.items() if k != "type"}}
        elif super().get(plug) is None:
            raise ConfigError(unknown(self.name, plug, self.names()))
        return config

    def build(self, config: Any, *, facts: Mapping[str, Any] | None = None, **wiring: Any) -> Any:
        """Build a plug from a config.

        Args:
            config: a variant's name, a dict with `type` and the plug's arguments, or a built object, which
                is returned as it is.
            facts: what the plug may ask for by argument name (`num_classes`, `num_keypoints` …, see
                `DatasetMeta.facts`); it receives those that its signature names.
            wiring: what the plug receives in any case (`in_features` …). A config may set neither.

        Raises:
            ConfigError: unknown type, unknown or missing arguments, or arguments that the plug rejects.
        """
        if not isinstance(config, str | Mapping):
            return config
        arguments = self.expand(config)
        plug = arguments.pop("type")
        cls = super().get(plug) if isinstance(plug, str) else plug
        accepted = inspect.signature(cls).parameters
        wiring |= {name: value for name, value in (facts or {}).items() if name in accepted}
        clash = sorted(set(arguments) & set(wiring))
        if clash:
            raise ConfigError(f"{plug}: {', '.join(clash)} is inferred from the other parts; remove it from the config")
        # Where weights come from is no business of the class: the loader reads it from the built backbone.
        keys = ("pretrained", "default_weights") if self is BACKBONES else ()
        weights = {key: arguments.pop(key) for key in keys if key in arguments}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in accepted.values()):
            for key in arguments:
                if key not in accepted:
                    free = [name for name in accepted if name not in wiring]
                    raise ConfigError(unknown(f"setting of {self.name} {cls.__name__}", key, free))
        try:
            built = cls(**arguments, **wiring)
        except ChordateError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.name} {getattr(cls, '__name__', plug)}: {error}") from error
        for key, value in weights.items():
            setattr(built, key, value)
        return built


BACKBONES = PlugRegistry("backbone", "chordate.backbones")
NECKS = PlugRegistry("neck", "chordate.necks")
HEADS = PlugRegistry("head", "chordate.heads")
MODELS = PlugRegistry("model", "chordate.models")
DATASETS = PlugRegistry("dataset", "chordate.data")
TRANSFORMS = PlugRegistry("transform", "chordate.data.transforms")
METRICS = PlugRegistry("metric", "chordate.evaluation")
FORMATS = PlugRegistry("checkpoint format", "chordate.weights.formats")
