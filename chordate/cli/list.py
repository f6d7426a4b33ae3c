"""List models, backbones and other components, with their parameters and published figures."""

from __future__ import annotations

import argparse
import fnmatch
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

# What can be listed, and the registry of each.
KINDS = {
    "models": "",
    "backbones": "BACKBONES",
    "necks": "NECKS",
    "heads": "HEADS",
    "architectures": "MODELS",
    "datasets": "DATASETS",
    "transforms": "TRANSFORMS",
    "metrics": "METRICS",
    "callbacks": "CALLBACKS",
    "optimizers": "OPTIMIZERS",
    "schedules": "SCHEDULES",
    "formats": "FORMATS",
}
COMPOSE_NOTE = (
    "Each name also works with any other backbone: mask-rcnn_r50_fpn_1x_coco, mask-rcnn_convnext_tiny_fpn_1x_coco. "
    "Published figures are from the source, not measured here."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=KINDS, help="what to list (default: the number of each kind)")
    parser.add_argument("pattern", nargs="?", default="*", help="a part of the names, or a shell pattern")


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from chordate.cli.summary import UNWRAPPED

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, UNWRAPPED)
    kind, pattern = arguments.kind, arguments.pattern
    if not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    tables = {"models": model_table, "backbones": backbone_table}
    if kind is None:
        console.print(overview())
    elif kind in tables:
        console.print(tables[kind](matching(kind, arguments.pattern, pattern)))
    else:
        console.print(plug_table(kind, matching(kind, arguments.pattern, pattern)))


def names_of(kind: str) -> list[str]:
    """All names of a kind, sorted; a class that has named variants is replaced by their names."""
    import chordate.registry
    from chordate.config import list_configs
    from chordate.text import by_number

    if kind == "models":
        return sorted(list_configs(), key=by_number)
    registry = getattr(chordate.registry, KINDS[kind])
    names = registry.names()
    with_variants = {variant["type"] for variant in registry.variants.values()}
    return sorted((name for name in names if name not in with_variants), key=by_number)


def matching(kind: str, written: str, pattern: str) -> list[str]:
    """The names of a kind that match a pattern, or an unlisted model name that composes (`find_config` finds it).

    Raises:
        ConfigError: no name matches; the message has similar names.
    """
    from chordate.config import find_config
    from chordate.errors import ConfigError, unknown

    names = names_of(kind)
    chosen = [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
    if not chosen and kind == "models":
        find_config(written)
        return [written]
    if not chosen:
        raise ConfigError(unknown(kind.removesuffix("s"), written, names))
    return chosen


def overview() -> Table:
    from rich.table import Table

    table = Table(title_justify="left", caption_justify="left", caption="chordate list KIND [PATTERN] shows one kind.")
    table.add_column("kind", no_wrap=True)
    table.add_column("number", justify="right")
    table.add_column("for example")
    for kind in KINDS:
        names = names_of(kind)
        table.add_row(kind, str(len(names)), ", ".join(names[:: max(1, len(names) // 3)][:3]))
    return table


def model_table(names: list[str]) -> Table:
    from rich.table import Table

    from chordate.published import PUBLISHED

    table = Table(caption=COMPOSE_NOTE, caption_justify="left")
    table.add_column("model", no_wrap=True)
    table.add_column("parameters / M", justify="right")
    table.add_column("published", no_wrap=True)
    table.add_column("source")
    for name, parameters in counted(names, model_parameters):
        published = PUBLISHED.get(name)
        table.add_row(name, parameters, published.figure if published else "", published.source if published else "")
    return table


def backbone_table(names: list[str]) -> Table:
    from rich.table import Table

    from chordate.config_templates import ALIASES
    from chordate.published import PUBLISHED

    short = {backbone: alias for alias, backbone in reversed(ALIASES.items())}
    table = Table(caption="Published: the errors of a classifier with this backbone.", caption_justify="left")
    for column in ("backbone", "short form"):
        table.add_column(column, no_wrap=True)
    table.add_column("parameters / M", justify="right")
    table.add_column("maps: channels/stride")
    table.add_column("published", no_wrap=True)
    table.add_column("source")
    for name, (parameters, maps) in counted(names, backbone_facts):
        stem = name.removesuffix("_cifar")
        rows = [row for key, row in PUBLISHED.items() if key.startswith(f"{stem}_") and not key.endswith("_coco")]
        published = rows[0] if rows else None
        cells = [published.figure, published.source] if published and published.figure else ["", ""]
        table.add_row(name, short.get(name, ""), parameters, maps, *cells)
    return table


def plug_table(kind: str, names: list[str]) -> Table:
    from rich.table import Table

    import chordate.registry

    registry = getattr(chordate.registry, KINDS[kind])
    table = Table()
    table.add_column(kind.removesuffix("s"), no_wrap=True)
    table.add_column("what it is")
    for name in names:
        lines = (inspect.getdoc(registry.get(registry.expand(name)["type"])) or "").split("\n\n")[0].split()
        table.add_row(name, " ".join(lines).removeprefix("[BETA] "))
    return table


def counted(names: list[str], count: Any) -> Any:
    """Yield each name with the result of `count(name)`, with a progress bar."""
    from rich.console import Console

    from chordate.progress import ProgressBar

    bar = ProgressBar(Console(stderr=True))
    return [(name, count(name)) for name in bar.track(names, "counting parameters", len(names))]


def model_parameters(name: str) -> str:
    """The number of parameters of a model in millions, counted on the meta device."""
    import torch

    from chordate.cli.summary import model_without_weights
    from chordate.config import load_config

    with torch.device("meta"):
        return millions(model_without_weights(load_config(name)))


def backbone_facts(name: str) -> tuple[str, str]:
    """Number of parameters of a backbone in millions, and its maps; empty for a class with required arguments."""
    import torch

    from chordate.errors import ConfigError
    from chordate.registry import BACKBONES

    try:
        with torch.device("meta"):
            backbone = BACKBONES.build(name)
    except ConfigError:
        return "", ""
    maps = " ".join(f"{key}:{spec.channels}/{spec.stride}" for key, spec in backbone.out_features.items())
    return millions(backbone), maps


def millions(module: Any) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f}"
