"""Names of the backbones without required arguments: other libraries' registries build them by name alone."""

from chordate.registry import BACKBONES
from chordate.signatures import parameters_of


def backbone_names() -> list[str]:
    """Names of the variants and types, of Chordate and of plug-ins, that can be built without further arguments.

    `BACKBONES.register_variants` adds more: `{"effnet": dict(type="TimmBackbone", model="efficientnet_b0")}`.
    """
    return [name for name in BACKBONES.names() if not _required(name)]


def _required(name: str) -> set[str]:
    config = BACKBONES.expand(name)
    parameters = parameters_of(BACKBONES.get(config["type"]))
    return parameters.annotations.keys() - parameters.defaults.keys() - config.keys()
