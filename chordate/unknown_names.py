"""Error messages for unknown config names: which part of the name is unknown, and similar names that exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from chordate.config_templates import ALIASES, NameParts, Templates, family, splits
from chordate.errors import near_names, repr_name, unknown
from chordate.registry import BACKBONES


def unknown_config(name: str, templates: Templates, listed: Sequence[str], same: Mapping[str, str]) -> str:
    """Make the error message for an unknown config name.

    Args:
        name: the name as it was written.
        templates: the packaged configs.
        listed: the names that `chordate list models` shows.
        same: dict from a word to the word whose configs it uses: `cifar100` uses the configs of `cifar10`,
            `3x` those of `1x`.
    """
    what = f"unknown config {repr_name(name)}"
    backbones = BACKBONES.names()
    # Per prefix: known suffix -> suffix of the packaged configs behind it (`_fpn_3x_coco` -> `_fpn_1x_coco`).
    tails: dict[str, dict[str, str]] = {}
    for head, tail in templates.recipes:
        tails.setdefault(head, {})[tail] = tail
        tails[head] |= {_replaced(tail, other, word): tail for word, other in same.items()}
    readings = sorted(splits(name, backbones), key=lambda parts: not (parts.head and parts.head in tails))
    middle = None if any(parts.tail in tails.get(parts.head, ()) for parts in readings) else _between(name, tails)
    if f"{(middle or name).replace('-', '_')}_cifar" in backbones:
        word = middle or name
        return f"{what}: {repr_name(word)} is for CIFAR; did you mean {repr_name(f'{word}_cifar10')}?"
    if middle:
        names = {*ALIASES, *(backbone.removesuffix("_cifar") for backbone in BACKBONES.variants)}
        remedy = "`chordate list backbones` lists all backbones"
        return f"{what}: {unknown('backbone', middle, names, listed=False, remedy=remedy)}"
    for parts in readings:
        head, _, tail = parts
        others = [other for other in tails if tail in tails[other]]
        if head not in tails and others:
            rest = name.removeprefix(head)
            close = [other + rest for other in near_names(head, others)]
            guess = f"did you mean {either(close)}?" if close else f"see `chordate list models {rest}`"
            return f"{what}: unknown family {repr_name(head.strip('_'))}; {guess}"
        if head == "" and others and tail not in tails[head]:
            return f"{what}: the family is missing; did you mean {either(other + name for other in others)}?"
        if head in tails:
            return f"{what}: {_wrong_tail(name, parts, tails[head], templates, listed)}"
    close = near_names(name, listed, cutoff=0.75)
    look = "`chordate list models` lists all models, and `chordate list models PATTERN` the models that match"
    return f"{what}; {f'did you mean {either(close)}?' if close else look}"


def _replaced(tail: str, word: str, other: str) -> str:
    return "_".join(other if part == word else part for part in tail.split("_"))


def either(names: Iterable[str]) -> str:
    return " or ".join(repr_name(name) for name in names)


def _between(name: str, tails: Mapping[str, Iterable[str]]) -> str | None:
    """The part of a name between a known prefix and suffix, where a backbone is expected; None if no pair matches."""
    pairs = [(head, tail) for head in tails for tail in tails[head] if name.startswith(head) and name.endswith(tail)]
    # The empty prefix would match any text as the backbone, so use it only if no other prefix occurs with this suffix.
    pairs = [(head, tail) for head, tail in pairs if head or not any(tail in tails[other] for other in tails if other)]
    head, tail = max(pairs, key=lambda pair: len("".join(pair)), default=("", ""))
    return name[len(head) : len(name) - len(tail)] if tail else None


def _wrong_tail(
    name: str, parts: NameParts, tails: Mapping[str, str], templates: Templates, listed: Sequence[str]
) -> str:
    """Describe the error after the backbone: a word that no config has there, or a suffix that only configs of
    other families have."""
    start = name.removesuffix(parts.tail).removesuffix("_cifar")
    ranks: dict[str, tuple[bool, bool, bool, str]] = {}
    for tail, of_recipe in tails.items():
        if parts.backbone.endswith("_cifar") and "_cifar" not in tail:
            continue
        wanted = parts._replace(tail=of_recipe)
        if templates.recipe(templates.with_image_size(wanted) or wanted):
            families = map(family, templates.recipes[parts.head, of_recipe])
            new = family(parts.stem) not in families
            ranks[start + tail] = (start + tail not in listed, new, "_cifar" in tail, tail)
    known = sorted(ranks, key=lambda other: ranks[other])
    if parts.tail in tails:
        stems = templates.recipes[parts.head, tails[parts.tail]]
        owners = " and ".join(sorted({family(stem) for stem in stems}))
        close = [*near_names(name, known)[:1], f"{parts.head}{next(iter(stems))}{parts.tail}"]
        return f"only {owners} has {repr_name(parts.tail.strip('_'))}; did you mean {either(close)}?"
    close = near_names(name, known) if parts.tail else []
    return f"{_wrong_word(parts.tail, tails)}; did you mean {either(close[:3] or known[:3])}?"


def _wrong_word(tail: str, known: Iterable[str]) -> str:
    """Describe the first word at which the suffix `tail` differs from all known suffixes."""
    words, others = tail.split("_")[1:], [other.split("_")[1:] for other in known]
    for index, word in enumerate(words):
        if not any(other[: index + 1] == words[: index + 1] for other in others):
            return f"no config has {repr_name(word)} there"
    return "the name is incomplete"
