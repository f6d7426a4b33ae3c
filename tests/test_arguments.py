"""Arguments and settings are validated by their annotations; invalid values raise one-line errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from chordate.arguments import (
    Ascending,
    Fraction,
    NonEmpty,
    NotDescending,
    PositiveFloat,
    PositiveInt,
    ProperFraction,
    validate_arguments,
    validate_settings,
    validate_value,
)
from chordate.errors import ConfigError

if TYPE_CHECKING:
    from nowhere import Unknown


def plug(
    in_features: Mapping[str, Any],
    convs: PositiveInt = 1,
    threshold: Fraction = 0.5,
    warmup: Literal["linear", "constant"] = "linear",
    channels_last: bool | Literal["auto"] = False,
    size: int | Sequence[int] = 1,
    topk: tuple[PositiveInt, PositiveInt] = (2, 1),
    clip_norm: PositiveFloat | None = None,
    parts: Mapping[str, Mapping[str, PositiveFloat]] | None = None,
    names: Sequence[str] = (),
    file: str | Path | None = None,
    sizes: Annotated[Sequence[PositiveInt], NonEmpty] = (1,),
    weight: torch.Tensor | None = None,
    layer: type[nn.Module] = nn.Identity,
    stranger: Unknown = None,
    bare=None,
    wrong: int = None,  # type: ignore[assignment]  # noqa: RUF013
) -> None: ...


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("convs", 4),
        ("convs", np.int64(4)),
        ("threshold", 1),
        ("threshold", 0.0),
        ("threshold", np.float32(0.5)),
        ("warmup", "constant"),
        ("channels_last", True),
        ("channels_last", "auto"),
        ("size", 3),
        ("size", [3, 4]),
        ("size", range(3)),
        ("size", np.array([3, 4])),
        ("topk", [3, 4]),
        ("clip_norm", None),
        ("parts", {"backbone": {"lr_mult": 0.1}}),
        ("names", ("a", "b")),
        ("file", "a/b"),
        ("file", Path("a/b")),
        ("weight", "anything"),
        ("layer", nn.Conv2d),
        ("stranger", 5),
        ("bare", object),
        ("wrong", None),
    ],
    ids=str,
)
def test_arguments_that_fit_their_annotations_pass(name, value):
    checked = validate_arguments(plug, {name: value}, "head Plug")[name]
    assert np.all(np.asarray(checked) == np.asarray(value)) if isinstance(value, np.ndarray) else True


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("convs", 0, "convs must be ≥ 1, got 0"),
        ("convs", "4", 'convs must be an integer ≥ 1, got "4"'),
        ("convs", True, "convs must be an integer ≥ 1, got True"),
        ("convs", 1.0, "convs must be an integer ≥ 1, got 1.0"),
        ("threshold", -1, "threshold must be ≥ 0 and ≤ 1, got -1"),
        ("threshold", float("nan"), "threshold must be ≥ 0 and ≤ 1, got nan"),
        ("threshold", "half", 'threshold must be a number ≥ 0 and ≤ 1, got "half"'),
        ("warmup", "liner", 'warmup must be one of "linear", "constant" (did you mean "linear"?), got "liner"'),
        ("channels_last", 1, 'channels_last must be "auto" or True or False, got 1'),
        ("size", "3", 'size must be an integer or a list of integers, got "3"'),
        ("size", [3, "4"], 'size.1 must be an integer, got "4"'),
        ("topk", [3], "topk must be a list of 2 integers ≥ 1, got [3]"),
        ("topk", [3, 0], "topk.1 must be ≥ 1, got 0"),
        ("clip_norm", 0, "clip_norm must be > 0 or None, got 0"),
        ("clip_norm", float("inf"), "clip_norm must be > 0 and finite or None, got inf"),
        ("parts", {"backbone": {"lr_mult": "x"}}, 'parts.backbone.lr_mult must be a number > 0, got "x"'),
        ("parts", {"backbone": "x"}, 'parts.backbone must be a dict, got "x"'),
        ("names", "norm", 'names must be a list of strings, got "norm"'),
        ("file", 3, "file must be a string or a path or None, got 3"),
        ("sizes", [], "sizes must be a list of integers ≥ 1 with at least 1 item, got []"),
        ("cons", 1, 'unknown setting of head Plug "cons"; did you mean "convs"'),
    ],
    ids=str,
)
def test_an_argument_that_does_not_fit_its_annotation_is_a_one_line_error(name, value, message):
    with pytest.raises(ConfigError) as error:
        validate_arguments(plug, {name: value}, "head Plug")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_several_wrong_arguments_are_all_named():
    with pytest.raises(ConfigError, match=r"^head Plug: convs must be ≥ 1, got 0; head Plug: threshold must be"):
        validate_arguments(plug, {"convs": 0, "threshold": 2}, "head Plug")


def test_numbers_and_lists_are_converted_to_the_annotated_type_and_mappings_are_kept():
    class Weights(dict):
        pass

    weights = Weights(a={"b": 1.0})
    checked = validate_arguments(plug, {"threshold": 1, "topk": [2, 1], "parts": weights}, "head Plug")
    assert type(checked["threshold"]) is float
    assert checked["topk"] == (2, 1)
    assert checked["parts"] is weights


@dataclass(frozen=True)
class Base:
    batch_size: PositiveInt = 1


@dataclass(frozen=True)
class Training(Base):
    epochs: PositiveInt | None = None
    ema: ProperFraction | None = None
    name: str = "x"

    def __post_init__(self) -> None:
        if self.epochs is None:
            raise ConfigError("set epochs")


def test_settings_become_the_fields_of_a_dataclass():
    assert validate_settings(Training, {"epochs": 2, "batch_size": 3}, "train") == Training(3, 2)
    for section, message in [
        ({"epochs": 1, "batch_size": 0}, "train.batch_size must be ≥ 1, got 0"),
        ({"epochs": 1, "ema": 1}, "train.ema must be ≥ 0 and < 1 or None, got 1"),
        ({"epoch": 1}, 'unknown setting of train "epoch"; did you mean "epochs"'),
        (None, "train: set epochs"),
        ("x", 'train must be a dict of settings, got "x"'),
    ]:
        with pytest.raises(ConfigError) as error:
            validate_settings(Training, section, "train")
        assert str(error.value).startswith(message)


def test_a_missing_required_setting_is_an_error():
    with pytest.raises(ConfigError, match=r"^val_data needs in_features$"):
        validate_settings(plug, {"convs": 1}, "val_data")


def test_a_single_value_is_validated_by_an_annotation():
    assert validate_value(Fraction, 1, "--score-threshold") == 1.0
    with pytest.raises(ConfigError, match=r"^--score-threshold must be ≥ 0 and ≤ 1, got 2$"):
        validate_value(Fraction, 2, "--score-threshold")


@pytest.mark.parametrize("values", [[], [1], [1, 2], [2, 2], [1, 3, 3], [3, 1], [1, 3, 2]], ids=str)
def test_ascending_lists_are_those_that_sorting_does_not_change(values):
    for order, fits in ((NotDescending, values == sorted(values)), (Ascending, values == sorted(set(values)))):
        annotation = Annotated[Sequence[PositiveInt], order]
        if fits:
            assert validate_value(annotation, values, "it") == values
        else:
            with pytest.raises(ConfigError, match=r"^it must be a list of (strictly in|non-de)creasing numbers"):
                validate_value(annotation, values, "it")
    with pytest.raises(ConfigError, match=r"^it.1 must be ≥ 1, got 0"):
        validate_value(Annotated[Sequence[PositiveInt], Ascending], [1, 0], "it")


def test_a_dataclass_as_an_annotation_accepts_its_instances():
    training = Training(epochs=2)
    assert validate_value(Training, training, "it") is training
    with pytest.raises(ConfigError, match="^it must be a Training, got Base"):
        validate_value(Training, Base(), "it")
