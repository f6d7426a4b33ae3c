"""Config inheritance: layers are merged in order; errors name the file or option that set the wrong value."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from chordate.arguments import Fraction, PositiveInt, validate_settings
from chordate.cli.main import main
from chordate.composition import Origin, Section, merge
from chordate.config import list_section, load_config, section
from chordate.data.loader import build_dataset
from chordate.errors import ConfigError
from chordate.registry import BACKBONES, HEADS, MODELS, PlugRegistry, settings_of
from chordate.training.optimizer import build_optimizer
from chordate.training.schedule import build_schedule
from chordate.training.settings import TrainSettings

R50 = "faster-rcnn_r50_fpn_1x_coco"
KEYS = st.sampled_from(["a", "b", "c", "type"])
LEAVES = st.integers(0, 3) | st.none() | st.lists(st.integers(0, 3), max_size=2) | st.sampled_from(["x", "y"])


def dicts(children: st.SearchStrategy) -> st.SearchStrategy:
    plain = st.dictionaries(KEYS, children, max_size=3)
    return plain | plain.map(lambda values: {**values, "_delete_": True})


LAYERS = st.lists(st.dictionaries(KEYS, st.recursive(LEAVES, dicts, max_leaves=8), max_size=3), max_size=5)


def merged(below: Any, above: Any) -> Any:
    """Merge the config value `above` into `below` as docs/configs.md says: dicts by key, other values are replaced."""
    if not isinstance(above, dict):
        return above
    if isinstance(below, str):
        below = {"type": below}
    if above.get("_delete_") or not isinstance(below, dict):
        below = {}
    above = {key: value for key, value in above.items() if key != "_delete_"}
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Any:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@given(LAYERS)
def test_merging_layers_equals_merging_dicts_in_order(layers: list[dict[str, Any]]) -> None:
    tree: dict[str, Any] = {}
    origins: dict[tuple[str, ...], Origin] = {}
    unmerged = copy.deepcopy(layers)
    wanted: Any = {}
    for rank, layer in enumerate(layers):
        merge(tree, layer, Origin(rank, str(rank)), origins)
        wanted = merged(wanted, layer)
    assert tree == wanted
    assert layers == unmerged
    for path, value in leaves(tree):
        written = layers[origins[path].rank]
        for key in path[:-1]:
            written = written[key] if isinstance(written, dict) else {"type": written}
        assert (written["type"] if path[-1] == "type" and isinstance(written, str) else written[path[-1]]) in (
            value,
            {"type": value},
        ) or written == value


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_delete_takes_effect_at_every_level_of_inheritance(written: Path) -> None:
    """The parent inherits by `base`, the others by `_base_`; the parent and the child delete inherited settings."""
    (written / "parent.py").write_text(
        f'base = "{R50}"\n'
        'optimizer = dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.05)\n'
        "model = dict(neck=dict(_delete_=True, type='FPN', channels=64))\n"
    )
    (written / "child.py").write_text(
        '_base_ = ["parent.py"]\noptimizer = dict(_delete_=True, type="SGD", lr=0.1)\n'
        'schedule = dict(_delete_=True, type="constant")\n'
    )
    (written / "grandchild.py").write_text('_base_ = ["child.py"]\noptimizer = dict(lr=0.2)\n')
    config = load_config("grandchild.py")
    assert config.optimizer == {"type": "SGD", "lr": 0.2}
    assert config.schedule == {"type": "constant"}
    assert config.model.neck == {"type": "FPN", "channels": 64}
    assert load_config("parent.py").optimizer == {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05}
    assert load_config("child.py", {"optimizer._delete_": True, "optimizer.lr": 1}).optimizer == {"lr": 1}


def test_later_bases_override_earlier_ones_and_a_shared_base_counts_once(written: Path) -> None:
    (written / "root.py").write_text("train = dict(epochs=1, seed=1, keep=1)\n")
    (written / "a.py").write_text('_base_ = ["root.py"]\ntrain = dict(epochs=2, seed=2)\n')
    (written / "b.py").write_text('_base_ = ["root.py"]\ntrain = dict(epochs=3)\n')
    (written / "c.py").write_text('_base_ = ["a.py", "b.py"]\ntrain = dict(log_every=_base_.train.epochs)\n')
    assert load_config("c.py").train == {"epochs": 3, "seed": 2, "keep": 1, "log_every": 3}


def test_files_that_inherit_from_each_other_are_refused(written: Path) -> None:
    (written / "a.py").write_text('_base_ = ["b.py"]\n')
    (written / "b.py").write_text('_base_ = "a.py"\n')
    with pytest.raises(ConfigError, match=r"^a\.py: the config inherits from itself$"):
        load_config("a.py")


@pytest.mark.parametrize("line", ['_base_ = ["nothing.py"]', 'base = "faster-rcnn_r50_fpn_1x"'])
def test_a_missing_base_names_the_file_that_inherits_from_it(written: Path, line: str) -> None:
    (written / "a.py").write_text(line)
    with pytest.raises(ConfigError, match=r"^a\.py: (nothing\.py: no such config file|unknown config)"):
        load_config("a.py")


def test_json_is_read_as_data_and_yaml_is_refused(written: Path) -> None:
    (written / "a.json").write_text(json.dumps({"base": R50, "train": {"epochs": 7}}))
    assert load_config("a.json").train.epochs == 7
    (written / "a.yaml").write_text("train: {epochs: 7}\n")
    with pytest.raises(ConfigError, match=r"^a\.yaml: configs are Python or JSON files"):
        load_config("a.yaml")


def test_mmengines_templates_are_refused_with_a_remedy(written: Path) -> None:
    (written / "a.py").write_text("train = dict(seed={{'$SEED:1'}})\n")
    with pytest.raises(ConfigError, match=r"^a\.py: .*os\.environ"):
        load_config("a.py")


def test_settings_merge_into_a_component_given_by_name() -> None:
    config = load_config({"model": {"backbone": "resnet50"}}, {"model.backbone.frozen_stages": 2})
    assert config.model.backbone == {"type": "resnet50", "frozen_stages": 2}


def test_options_reach_into_lists() -> None:
    config = load_config(R50, {"train_data.pipeline.0.size": 640})
    assert config.train_data.pipeline[0]["size"] == 640
    assert config.train_data.pipeline[1:] == load_config(R50).train_data.pipeline[1:]
    with pytest.raises(ConfigError, match=r"^--cfg-options: train_data\.pipeline has 2 items.*no item 5$"):
        load_config(R50, {"train_data.pipeline.5.size": 640})


@HEADS.register_module()
class RangedHead(nn.Module):
    """A head whose settings have annotated ranges."""

    def __init__(self, threshold: Fraction = 0.5, convs: PositiveInt = 1, inner: dict[str, Any] | None = None):
        super().__init__()
        if inner:
            validate_settings(RangedHead, inner, "inner")
        if convs > 9:
            raise ConfigError(f"RangedHead: convs={convs} is too deep")


@MODELS.register_module()
class HeadedModel(nn.Module):
    """A model whose constructor builds a head and a backbone."""

    def __init__(self, head: Any, backbone: Any = None):
        super().__init__()
        self.head = HEADS.build(HEADS.expand(head))
        self.backbone = None if backbone is None else BACKBONES.build(backbone)


HEAD = {"type": "RangedHead", "threshold": 0.5}
WRONG = [
    ({"threshold": 1.5}, "model.head.threshold must be ≥ 0 and ≤ 1, got 1.5"),
    ({"threshold": "x"}, 'model.head.threshold must be a number ≥ 0 and ≤ 1, got "x"'),
    ({"inner": {"convs": 0}}, "model.head.inner.convs must be ≥ 1, got 0"),
    ({"treshold": 1}, 'model.head: unknown setting of head RangedHead "treshold"; did you mean "threshold"?'),
    ({"type": "RangdHead"}, 'model.head: unknown head "RangdHead"; did you mean "RangedHead"'),
    ({"convs": 10}, "model.head: RangedHead: convs=10 is too deep"),
]
by_layer = pytest.mark.parametrize("layer", ["packaged", "_base_", "file", "base", "options", "dict", "config"])


def wrong_config(layer: str, head: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """A config with an invalid head in the given layer (a file, options or a dict), and the prefix of the error."""
    good, bad = f"model = dict(type='HeadedModel', head={HEAD})\n", f"model = dict(head={head})\n"
    (folder / "root.py").write_text(good)
    (folder / "bad.py").write_text('_base_ = ["root.py"]\n' + bad)
    (folder / "over.py").write_text('_base_ = ["bad.py"]\nmodel = dict(backbone=None)\ntrain = dict(epochs=1)\n')
    if layer == "packaged":
        for module in ("config_files", "config_names"):
            monkeypatch.setattr(f"chordate.{module}.package_root", lambda: folder)
        return load_config("over"), "configs/bad.py: "
    if layer == "_base_":
        return load_config("over.py"), "bad.py: "
    if layer == "file":
        return load_config("bad.py"), "bad.py: "
    if layer == "base":
        (folder / "user.py").write_text(f'base = "{folder / "over.py"}"\ntrain = dict(seed=2)\n')
        return load_config("user.py"), "bad.py: "
    options = {f"model.head.{key}": value for key, value in head.items()}
    if layer == "options":
        return load_config("root.py", options), "--cfg-options: "
    if layer == "config":
        return load_config(load_config("root.py").copy(), options, source="--head"), "--head: "
    return load_config({"model": {"type": "HeadedModel", "head": {**HEAD, **head}}}), "config: "


@by_layer
@pytest.mark.parametrize(("head", "message"), WRONG, ids=str)
def test_a_wrong_setting_names_its_file_path_value_and_what_is_allowed(
    layer: str, head: dict[str, Any], message: str, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, source = wrong_config(layer, head, written, monkeypatch)
    with pytest.raises(ConfigError) as error:
        MODELS.build(section(config, "model"))
    assert str(error.value).startswith(source + message)
    assert "\n" not in str(error.value)


def test_wrong_settings_of_two_layers_each_name_their_source(written: Path) -> None:
    (written / "a.py").write_text(f"model = dict(type='HeadedModel', head={ {**HEAD, 'threshold': 2} })\n")
    with pytest.raises(ConfigError) as error:
        MODELS.build(section(load_config("a.py", {"model.head.convs": 0}), "model"))
    assert str(error.value) == (
        "a.py: model.head.threshold must be ≥ 0 and ≤ 1, got 2; --cfg-options: model.head.convs must be ≥ 1, got 0"
    )


def test_a_setting_changed_after_loading_has_no_origin(written: Path) -> None:
    (written / "a.py").write_text(f"model = dict(type='HeadedModel', head={HEAD})\n")
    config = load_config("a.py")
    config.merge_from_dict({"model.head.threshold": 2})
    with pytest.raises(ConfigError, match=r"^model\.head\.threshold must be"):
        MODELS.build(section(config, "model"))


def test_a_section_keeps_its_origin_when_copied_or_pickled() -> None:
    config = section(load_config(R50), "model")
    for kept in (config.copy(), config | {"neck": None}, copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert isinstance(kept, Section)
        assert kept["rpn"].name("anchors") == "model.rpn.anchors"
        assert kept.source(["rpn"]) == "configs/_base_/models/faster-rcnn_fpn.py: "


def test_a_wrong_section_names_its_file(written: Path) -> None:
    (written / "a.py").write_text(f'base = "{R50}"\ntrain = 5\ncallbacks = [dict(type="X")]\n')
    config = load_config("a.py")
    with pytest.raises(ConfigError, match=r"^a\.py: section `train` is 5; write train = dict"):
        section(config, "train")
    assert list_section(config, "callbacks")[0].source(["type"]) == "a.py: "
    with pytest.raises(ConfigError, match=r"^--cfg-options: section `callbacks` is 5"):
        list_section(load_config(config, {"callbacks": 5}), "callbacks")
    assert list_section(load_config(R50), "callbacks") == []


def test_a_type_accepts_the_settings_of_its_class_and_variants() -> None:
    assert {"depth", "norm", "pretrained", "default_weights"} <= (settings_of("resnet50") or set())
    assert settings_of("NoSuchThing") is None
    assert settings_of(HeadedModel) == {"head", "backbone"}
    other = PlugRegistry("thing")
    other.register_module("OnlyHere", module=RangedHead)
    assert settings_of("OnlyHere") == {"threshold", "convs", "inner"}


def test_a_wrong_setting_on_the_command_line_is_a_one_line_error(written: Path, capsys: pytest.CaptureFixture) -> None:
    (written / "a.py").write_text(f'base = "{R50}"\nmodel = dict(neck=dict(extra="poool"))\n')
    assert main(["summary", "a.py"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("chordate summary: a.py: model.neck")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"train.epochs": 0}, "train.epochs must be ≥ 1 or None, got 0"),
        ({"optimizer.lr": -1}, "optimizer.lr must be ≥ 0, got -1"),
        ({"optimizer.momentum": "x"}, 'optimizer.momentum must be a number, got "x"'),
        ({"optimizer.type": "SDG"}, 'optimizer: unknown optimizer "SDG"; did you mean "SGD"'),
        ({"schedule.warmup": "liner"}, 'schedule.warmup must be one of "linear", "constant" (did you mean "linear"?)'),
        ({"train_data.batch_size": 0}, "train_data.batch_size must be ≥ 1, got 0"),
        ({"train_data.pipeline.1.p": "x"}, 'train_data.pipeline.1.p must be a number, got "x"'),
        ({"train_data.dataset.masks": 1}, "train_data.dataset.masks must be True or False, got 1"),
    ],
    ids=str,
)
def test_a_wrong_setting_of_a_section_names_its_option(option: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = load_config(R50, option)
    with pytest.raises(ConfigError) as error:
        TrainSettings.from_config(section(config, "train"))
        build_optimizer(nn.Linear(2, 2), section(config, "optimizer"), 16)
        build_schedule(section(config, "schedule"), 100, 10)
        build_dataset(section(config, "train_data"), data_root=tmp_path, training=True)
    assert str(error.value).startswith(f"--cfg-options: {message}")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("classes", 'unknown classes "imagnet"; did you mean "imagenet"?'),
        ("skeleton", 'unknown skeleton "imagnet". Known: coco'),
    ],
)
def test_unknown_fallback_meta_is_a_one_line_error(
    setting: str, message: str, written: Path, capsys: pytest.CaptureFixture
) -> None:
    (written / "a.py").write_text(f'base = "{R50}"\nfallback_meta = dict({setting}="imagnet")\n')
    assert main(["summary", "a.py"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"chordate summary: a.py: fallback_meta: {message}")
