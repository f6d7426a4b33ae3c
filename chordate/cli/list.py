"""List models and backbones with their parameter counts and published metrics, and other components."""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

# The kinds that can be listed, and the registry of each; models are listed by their configs, not from a registry.
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
EXAMPLE = "chordate list models mask"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", help=f"what to list: {', '.join(KINDS)} (default: an overview of all kinds)")
    parser.add_argument("pattern", nargs="?", default="*", help="part of a name, or a shell pattern")


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from chordate.cli.summary import UNWRAPPED
    from chordate.errors import ConfigError, unknown

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, UNWRAPPED)
    kind, pattern = arguments.kind, arguments.pattern
    if kind is not None and kind not in KINDS:
        kind = f"{kind}s"  # the singular is accepted too: `chordate list model`
        if kind not in KINDS:
            raise ConfigError(unknown("kind", arguments.kind, KINDS))
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
    """All names of a kind, sorted. A class that has named variants is replaced by the names of the variants."""
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
    """The names of a kind that match a pattern, which may contain a backbone's short form (`r101`, `x101*`).

    If no listed model matches, returns composed names: `written` if it is one, or else those that match.

    Args:
        kind: one of KINDS.
        written: the pattern as it was typed.
        pattern: `written`, with `*` before and after it if it is only a part of a name.

    Raises:
        ConfigError: no name matches; the message has similar names.
    """
    from chordate.config import find_config
    from chordate.config_names import match_configs
    from chordate.config_templates import ALIASES
    from chordate.errors import ConfigError, unknown
    from chordate.text import by_number

    if kind == "models":
        chosen = match_configs(pattern)
        if not set(chosen) & set(names_of(kind)):
            try:
                find_config(written)
                return [written]
            except ConfigError:
                if not chosen:
                    raise
        return sorted(chosen, key=by_number)
    names = names_of(kind)
    short = {ALIASES[alias] for alias in ALIASES if fnmatch.fnmatchcase(alias, pattern.lower())}
    short &= set(names) if kind == "backbones" else set()
    chosen = [name for name in names if name in short or fnmatch.fnmatchcase(name.lower(), pattern.lower())]
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

    table = Table(caption=COMPOSE_NOTE, caption_justify="left")
    table.add_column("model", no_wrap=True)
    table.add_column("parameters / M", justify="right")
    table.add_column("published", no_wrap=True)
    table.add_column("source")
    for name, facts in counted(names, model_facts):
        table.add_row(name, *facts)
    return table


def backbone_table(names: list[str]) -> Table:
    from rich.table import Table

    from chordate.config_templates import ALIASES

    short = {backbone: alias for alias, backbone in reversed(ALIASES.items())}
    table = Table(caption="Published: the errors of a classifier with this backbone.", caption_justify="left")
    for column in ("backbone", "short form"):
        table.add_column(column, no_wrap=True)
    table.add_column("parameters / M", justify="right")
    table.add_column("maps: channels/stride")
    table.add_column("published", no_wrap=True)
    table.add_column("source")
    for name, (parameters, maps) in counted(names, backbone_facts):
        table.add_row(name, short.get(name, ""), parameters, maps, *backbone_figure(name))
    return table


def plug_table(kind: str, names: list[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    import chordate.registry

    registry = getattr(chordate.registry, KINDS[kind])
    table = Table()
    table.add_column(kind.removesuffix("s"), no_wrap=True)
    table.add_column("what it is")
    for name in names:
        lines = (inspect.getdoc(registry.get(registry.expand(name)["type"])) or "").split("\n\n")[0].split()
        table.add_row(name, Text(" ".join(lines).removeprefix("[BETA] ")))
    return table


def counted(names: list[str], count: Callable[[str], tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    """Pair each name with the result of `count(name)`, and show a progress bar."""
    from rich.console import Console

    from chordate.progress import ProgressBar

    bar = ProgressBar(Console(stderr=True))
    return [(name, count(name)) for name in bar.track(names, "counting parameters", len(names))]


def model_facts(name: str) -> tuple[str, str, str]:
    """The number of parameters of a model in millions, and its published metric with the source."""
    import torch

    from chordate.cli.summary import model_without_weights
    from chordate.config import load_config
    from chordate.contracts import CHECK_OUTPUTS
    from chordate.published import PUBLISHED

    config = load_config(name)
    checking = CHECK_OUTPUTS.set(False)
    try:
        with torch.device("meta"):
            parameters = millions(model_without_weights(config))
    finally:
        CHECK_OUTPUTS.reset(checking)
    row = PUBLISHED.get(Path(config.filename).stem)  # all spellings of the name have the same file
    return (parameters, row.figure, row.source) if row else (parameters, "", "")


def backbone_figure(name: str) -> tuple[str, str]:
    """The published top-1 error of a classifier with the backbone (at the smallest image size), and its source."""
    from chordate.published import PUBLISHED

    data = "cifar10" if name.endswith("_cifar") else "imagenet"
    of_backbone = re.compile(rf"{re.escape(name.removesuffix('_cifar'))}(?:_i(\d+))?_{data}")
    for key, row in PUBLISHED.items():
        match = of_backbone.fullmatch(key)
        if match and row.figure:
            return f"{row.figure} at {match[1]} px" if match[1] else row.figure, row.source
    return "", ""


def backbone_facts(name: str) -> tuple[str, str]:
    """A backbone's number of parameters in millions, and its feature maps.

    Both are empty strings for a class with required arguments.
    """
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
