"""Registries: building from names, variants and dicts, inferred arguments, plug-ins, and error messages."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import torch
from torch import nn

from chordate import BACKBONES, HEADS, NECKS, Backbone, FeatureSpec, build_backbone, build_model, load_config
from chordate.arguments import PositiveFloat
from chordate.contracts import Neck, check_outputs, offered, select
from chordate.errors import ConfigError, near_names
from chordate.models import OneStageDetector
from chordate.plugins import describe_module
from chordate.registry import PlugRegistry
from chordate.structures import DatasetMeta


class Stem(Backbone):
    def __init__(self, width: int = 8, declared: int | None = None):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 4, 1)
        self.out_features = {"c2": FeatureSpec(declared or width, 4)}

    def forward(self, images):
        return {"c2": self.conv(images)}


@pytest.fixture
def registry():
    parts = PlugRegistry("backbone")
    parts.register_module("Stem", module=Stem)
    parts.register_variants({"stem16": {"type": "Stem", "width": 16}})
    return parts


def test_builds_from_dict_name_and_variant(registry):
    assert registry.build({"type": "Stem", "width": 4}).out_features["c2"].channels == 4
    assert registry.build("Stem").out_features["c2"].channels == 8
    assert registry.build("stem16").out_features["c2"].channels == 16


def test_a_name_that_is_already_registered_is_an_error_unless_forced(registry):
    message = f'^backbone "Stem" is registered twice, by {Stem.__module__}; rename one$'
    with pytest.raises(ConfigError, match=message):
        registry.register_module(module=Stem)
    registry.register_module(module=Stem, force=True)
    registry.register_variants({"stem16": {"type": "Stem", "width": 8}})  # the same module may replace its variant
    assert registry.build("stem16").out_features["c2"].channels == 8


def test_settings_in_a_config_override_the_variants(registry):
    assert registry.build({"type": "stem16", "width": 5}).out_features["c2"].channels == 5
    assert registry.build("stem16").out_features["c2"].channels == 16  # the variant itself is unchanged


def test_built_objects_pass_through(registry):
    stem = Stem()
    assert registry.build(stem) is stem


def test_built_objects_are_checked_against_the_contract():
    class Pooled(Protocol):
        out_channels: int

        def __call__(self, x: torch.Tensor, /) -> torch.Tensor: ...

    class TwoInputs(nn.Module):
        def forward(self, x, y): ...

    trunk = nn.Sequential(nn.Flatten())  # its `forward` names the argument `input`
    trunk.out_channels = 4
    assert HEADS.build(trunk, contract=Pooled) is trunk
    with pytest.raises(
        ConfigError, match='^"Flatten" does not implement Pooled: it has no out_channels; choose another'
    ):
        HEADS.build(nn.Flatten(), contract=Pooled)
    part = TwoInputs()
    part.out_channels = 4
    with pytest.raises(ConfigError, match=r"does not implement Pooled: it has no forward\(x\)"):
        HEADS.build(part, contract=Pooled)


def test_the_error_for_a_misspelled_type_suggests_the_nearest_name():
    with pytest.raises(ConfigError, match='unknown backbone "Resnet50"; did you mean "resnet50"'):
        BACKBONES.build("Resnet50")
    with pytest.raises(ConfigError, match='unknown neck "FPNN"; did you mean "FPN"'):
        NECKS.build({"type": "FPNN"}, in_features={})


def test_the_error_for_an_unknown_argument_names_the_class(registry):
    with pytest.raises(ConfigError, match='unknown setting of backbone Stem "widht"; did you mean "width"'):
        registry.build({"type": "Stem", "widht": 4})


def test_inferred_settings_may_not_be_set_in_a_config(registry):
    with pytest.raises(ConfigError, match="width is set automatically"):
        registry.build({"type": "Stem", "width": 4}, width=8)


@pytest.mark.parametrize("config", [5, {"depth": 50}, None])
def test_a_value_that_is_not_a_config_is_refused(registry, config):
    if isinstance(config, dict):
        with pytest.raises(ConfigError, match="a dict with `type`"):
            registry.build(config)
    else:
        with pytest.raises(ConfigError, match="a dict with `type`"):
            registry.expand(config)


def test_near_names_ignore_case():
    assert near_names("RESNET50", ["resnet50", "resnext50", "vgg"])[0] == "resnet50"


def test_the_error_for_a_missing_feature_map_names_both_parts():
    stem = Stem()
    stem.name = "Stem-8"
    with pytest.raises(ConfigError) as caught:
        select(offered(stem), ["c2", "c6"], "FPN")
    assert (
        str(caught.value)
        == 'FPN needs feature maps "c2", "c6", but Stem-8 offers c2 (8 ch, stride 4); there is no "c6"'
    )


def test_a_backbone_without_out_features_is_an_error_with_the_remedy():
    with pytest.raises(ConfigError, match="set self.out_features"):
        offered(nn.Identity())


def test_a_backbone_whose_feature_maps_differ_from_out_features_is_refused():
    check_outputs(Stem())
    with pytest.raises(ConfigError, match=r"declares c2 \(99 ch, stride 4\).*returned \[2, 8, 32, 32\]"):
        check_outputs(Stem(declared=99))


class ReadsAValue(Stem):
    def forward(self, images):
        return super().forward(images * images.abs().max().item())


class HoldsAPlainTensor(Stem):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.mean = torch.zeros(3, 1, 1)

    def forward(self, images):
        return super().forward(images - self.mean)


class ReadsAnArray(Stem):
    def forward(self, images):
        return super().forward(images * float(images.numpy().max()))


@pytest.mark.parametrize("kind", [ReadsAValue, HoldsAPlainTensor, ReadsAnArray])
def test_a_backbone_whose_forward_reads_tensor_values_is_accepted(kind):
    assert build_backbone({"type": kind})(torch.ones(1, 3, 8, 8))["c2"].shape == (1, 8, 2, 2)


def test_a_forward_that_fails_is_a_one_line_error():
    stem = Stem()
    stem.conv = nn.Conv2d(5, 8, 3, 4, 1)
    with pytest.raises(ConfigError, match=r"Stem: forward fails for images \[2, 3, 128, 128\]: "):
        check_outputs(stem)


def test_images_of_other_channels_than_the_backbones_name_both_settings():
    stem = Stem()
    stem.conv, stem.in_channels = nn.Conv2d(5, 8, 3, 4, 1), 5
    check_outputs(stem)
    with pytest.raises(ConfigError, match=r"preprocess\.mean has 3 channels, and backbone\.in_channels is 5; set both"):
        check_outputs(stem, in_channels=3)


class Halved(Neck):
    """A neck with one feature map, p3, of half the height and width of c2."""

    def __init__(self, in_features, declared: FeatureSpec, input: str = "c2"):
        super().__init__()
        self.input = input
        self.conv = nn.Conv2d(in_features["c2"].channels, 6, 3, 2, 1)
        self.out_features = {"p3": declared}

    def forward(self, features):
        return {"p3": self.conv(features[self.input])}


@pytest.mark.parametrize(
    ("declared", "input", "message"),
    [
        (FeatureSpec(6, 8), "c2", None),
        (FeatureSpec(7, 8), "c2", r"^Halved declares p3 \(7 ch, stride 8\), .*returned \[2, 6, 16, 16\]$"),
        (FeatureSpec(6, 4), "c2", r"^Halved declares p3 \(6 ch, stride 4\), .*returned \[2, 6, 16, 16\]$"),
        (FeatureSpec(6, 8), "c9", "^Halved: forward fails for the feature maps of Stem: 'c9'$"),
    ],
    ids=str,
)
def test_a_neck_whose_feature_maps_differ_from_out_features_is_refused(declared, input, message):
    def build():
        return OneStageDetector(
            DatasetMeta(classes=("a",)),
            Stem(),
            "RetinaHead",
            neck={"type": Halved, "declared": declared, "input": input},
        )

    if message is None:
        assert build().head_features == {"p3": declared}
    else:
        with pytest.raises(ConfigError, match=message):
            build()


def test_check_outputs_restores_the_mode_of_every_module():
    stem = Stem()
    stem.frozen, stem.free = nn.BatchNorm2d(8).eval(), nn.BatchNorm2d(8)
    check_outputs(stem)
    assert (stem.training, stem.frozen.training, stem.free.training) == (True, False, True)


def test_check_outputs_changes_neither_mode_nor_state_dict():
    stem = nn.Sequential(Stem(), nn.BatchNorm2d(8))
    before = {k: v.clone() for k, v in stem.state_dict().items()}
    check_outputs(stem[0])
    assert stem.training
    assert all(torch.equal(v, before[k]) for k, v in stem.state_dict().items())


@pytest.fixture
def plugins(tmp_path, monkeypatch) -> Iterator[None]:
    """Installed packages with plug-ins that are not loaded yet; only one of them can be imported."""
    (tmp_path / "spine.py").write_text(
        "from torch import nn\n"
        "from chordate import BACKBONES, Backbone, FeatureSpec\n"
        "@BACKBONES.register_module()\n"
        "class Spine(Backbone):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 8, 3, 4, 1)\n"
        "        self.out_features = {'c2': FeatureSpec(8, 4)}\n"
        "    def forward(self, images):\n"
        "        return {'c2': self.conv(images)}\n"
    )
    (tmp_path / "broken_spine.py").write_text("raise RuntimeError('no such luck')\n")
    (tmp_path / "quitting_spine.py").write_text("raise SystemExit('not today')\n")
    entries = {"spine": "spine", "broken": "broken_spine", "quitting": "quitting_spine", "misspelled": "not a-module!"}
    for name, value in entries.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[chordate.plugins]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("chordate.plugins.loaded", False)
    yield
    sys.modules.pop("spine", None)
    BACKBONES.module_dict.pop("Spine", None)


def test_installed_plugins_are_registered_and_broken_ones_are_skipped_with_a_warning(plugins):
    """A package with an entry point needs no explicit import."""
    with pytest.warns(UserWarning, match="plug-in") as warned:
        backbone = build_backbone("Spine")
    assert sorted(str(warning.message) for warning in warned) == [
        "plug-in broken (broken_spine) could not be imported: no such luck",
        "plug-in misspelled (not a-module!) could not be imported: its entry point must be the name of a module",
        "plug-in quitting (quitting_spine) could not be imported: not today",
    ]
    assert describe_module("spine") == "spine 1.0 (spine)"
    assert type(backbone).__name__ == "Spine" and BACKBONES.names("resnet50") == ["resnet50"]


def test_damaged_metadata_of_a_package_do_not_stop_a_run(plugins, tmp_path):
    (tmp_path / "broken-1.0.dist-info" / "entry_points.txt").write_text("[console_scripts]\nno equals sign\n")
    with pytest.warns(UserWarning, match="plug-ins could not be listed, since a package has damaged metadata"):
        assert "resnet50" in BACKBONES.names("resnet50")


def test_importing_chordate_does_not_import_torch():
    code = "import chordate, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.strip() == "False"


def test_a_subclass_that_passes_settings_on_inherits_the_base_configs_values(tmp_path):
    """The subclass passes `**settings` on to its base class; in a config, it inherits the base config's values."""
    from chordate.heads.box import BoxHead

    class FocalBox(BoxHead):
        def __init__(self, in_features, num_classes, gamma: PositiveFloat = 2.0, **settings):
            super().__init__(in_features, num_classes, **settings)
            self.gamma = gamma

    HEADS.register_module(name="FocalBox", module=FocalBox)
    try:
        (tmp_path / "mine.py").write_text(
            'base = "faster-rcnn_r50_fpn_torchvision"\nmodel = dict(box=dict(type="FocalBox", gamma=1.5))\n'
        )
        with torch.device("meta"):
            box = build_model(tmp_path / "mine.py", num_classes=3, pretrained=False).box
        assert (box.gamma, box.num_classes, box.pooler.sampling_ratio, box.pooler.aligned) == (1.5, 3, 2, False)
        with pytest.raises(ConfigError, match=r"model\.box\.nms_threshold must be ≥ 0 and ≤ 1, got 2"):
            build_model(load_config(tmp_path / "mine.py", {"model.box.nms_threshold": 2}), num_classes=3)
    finally:
        HEADS.module_dict.pop("FocalBox")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("efficientnet_b0", 'in timm and torchvision: use dict(type="TimmBackbone", model="efficientnet_b0")'),
        ("timm/resnet50.a1_in1k", 'in timm: use dict(type="TimmBackbone", model="resnet50.a1_in1k")'),
        ("vit_base_patch16_224", 'in timm: use dict(type="TimmBackbone", model="vit_base_patch16_224")'),
        ("swin_t", 'in torchvision: use dict(type="TorchvisionBackbone", model="swin_t")'),
    ],
)
def test_the_error_for_a_librarys_network_as_a_type_names_its_adapter(name, hint):
    with pytest.raises(ConfigError) as caught:
        BACKBONES.build(name)
    assert str(caught.value).endswith(hint)
    with torch.device("meta"):
        assert BACKBONES.build(eval(hint.partition("use ")[2])).out_features


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"type": "TimmBackbone", "name": "resnet18"}, "model"),
        ({"type": "TorchvisionBackbone", "model": "resnet18", "out_indices": (1, 2)}, "out"),
        ({"type": "resnet18", "out_indices": (1, 2)}, "out"),
        ({"type": "resnet18", "name": "x"}, None),  # the error must not suggest `model`, which resnet18 lacks
    ],
)
def test_the_error_for_another_librarys_setting_names_ours(settings, wanted):
    with pytest.raises(ConfigError, match="unknown setting of backbone") as caught:
        BACKBONES.build(settings)
    assert (f'did you mean "{wanted}"?' in str(caught.value)) == (wanted is not None)
