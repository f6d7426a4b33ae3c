"""Backbones of segmentation_models.pytorch and mmengine's registries: same feature maps, freezing, training, errors.

Backbones of Detectron2 are tested in tests/peers/.
"""

import sys

import pytest
import segmentation_models_pytorch as smp
import torch
from backbone_referee import assert_close, randomize
from mmengine.registry import MODELS, Registry
from safetensors.torch import save_file
from torch import Tensor, nn

import chordate
from chordate import BACKBONES
from chordate.errors import CheckpointError, ChordateError, ConfigError
from chordate.weights.loading import load_checkpoint


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# --- segmentation_models.pytorch --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("resnet18", {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}),
        ("mit_b0", {"c2": 4, "c3": 8, "c4": 16, "c5": 32}),  # feature 1 has no channels
        ("vgg11", {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}),  # feature 0 is a feature map, not the image
        ("tu-convnext_atto", {"c2": 4, "c3": 8, "c4": 16, "c5": 32}),
    ],
)
@torch.no_grad()
def test_smps_encoders_give_the_same_feature_maps_as_backbones(name, strides):
    large = name.startswith("vgg")  # on the meta device, to not initialize its classifier's 120 million parameters
    with torch.device("meta" if large else "cpu"):
        theirs = smp.encoders.get_encoder(name, weights=None)
        ours = BACKBONES.build({"type": "SmpBackbone", "model": name, "out": "all"}).eval()
    if large:
        theirs.to_empty(device="cpu"), ours.to_empty(device="cpu")
    theirs = randomize(theirs).eval()
    assert {key: spec.stride for key, spec in ours.out_features.items()} == strides
    report = load_checkpoint(ours, theirs.state_dict())
    assert not report.missing
    images = torch.randn(1, 3, 64, 96)
    maps, expected = ours(images), theirs(images)
    assert list(maps) == list(strides)
    for key, x in maps.items():
        assert_close(x, expected[int(key[1:])], key, 1e-5)
        assert x.shape[1] == ours.out_features[key].channels
    odd = ours(torch.randn(1, 3, 65, 97))
    assert all(odd[key].shape[-2:] == (-(-65 // stride), -(-97 // stride)) for key, stride in strides.items())


@pytest.mark.parametrize("name", ["resnet18", "mit_b0"])
@torch.no_grad()
def test_a_dilated_encoder_gives_smps_feature_maps(name):
    theirs = randomize(smp.encoders.get_encoder(name, weights=None, output_stride=16)).eval()
    ours = BACKBONES.build({"type": "SmpBackbone", "model": name, "out": ["c5"], "output_stride": 16}).eval()
    load_checkpoint(ours, theirs.state_dict())
    assert ours.out_features["c5"].stride == 16
    images = torch.randn(1, 3, 64, 96)
    x = ours(images)["c5"]
    assert x.shape[-2:] == (4, 6)
    assert_close(x, theirs(images)[5], "c5", 1e-5)


def test_smps_weights_are_loaded_by_their_name(tmp_path, monkeypatch):
    published = randomize(smp.encoders.get_encoder("resnet18", weights=None)).state_dict()
    save_file(published, tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "segmentation_models_pytorch.encoders.hf_hub_download", lambda repo, filename, revision: tmp_path / filename
    )
    config = {"type": "SmpBackbone", "model": "resnet18", "out": ["c3"]}
    for pretrained in (True, "smp://resnet18", "smp://resnet18/ssl"):
        backbone = chordate.build_backbone(config, pretrained=pretrained)
        assert torch.equal(backbone.net.network.layer2[1].conv2.weight, published["layer2.1.conv2.weight"])
    with pytest.raises(CheckpointError, match='unknown weights of smp\'s resnet18 "imagnet"; did you mean "imagenet"'):
        chordate.build_backbone(config, pretrained="smp://resnet18/imagnet")


def trained_parts(backbone: nn.Module) -> set[str]:
    sum(x.square().mean() for x in backbone.train()(torch.randn(2, 3, 64, 64)).values()).backward()
    return {name.split(".")[2] for name, p in backbone.named_parameters() if p.grad is not None and p.grad.any()}


def test_an_smp_encoder_is_frozen_up_to_a_feature_map():
    ours = BACKBONES.build({"type": "SmpBackbone", "model": "resnet18", "frozen_stages": 1})
    assert trained_parts(ours) == {"layer2", "layer3", "layer4"}
    assert not ours.net.network.layer1.training and ours.net.network.layer2.training
    # Not on the meta device, since building this encoder reads tensor values.
    mit = BACKBONES.build({"type": "SmpBackbone", "model": "mit_b0", "frozen_stages": 1})
    assert {"block1", "patch_embed1"}.isdisjoint(trained_parts(mit))


def test_a_semantic_segmenter_trains_on_an_smp_encoder():
    backbone = {"type": "SmpBackbone", "model": "mobilenet_v2"}
    config = {"type": "SemanticSegmenter", "backbone": backbone, "neck": "FPN", "head": "SemanticFPNHead"}
    model = chordate.build_model(config, num_classes=3)
    labels = torch.randint(3, (2, 64, 64), dtype=torch.int16)
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    infos = [chordate.structures.ImageInfo(n, f"{n}.png", 64, 64) for n in range(2)]
    batch = chordate.Batch(images, torch.tensor([[64, 64]] * 2), infos, chordate.SemanticTargets(labels))
    sum(model.train()(batch).values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


# --- mmengine's registries --------------------------------------------------------------------------------------------

LIBRARY = Registry("model", parent=MODELS, scope="mm_library")


@LIBRARY.register_module()
class Pyramid(nn.Module):
    """A backbone in MMDetection's style: `out_indices` selects the stages whose outputs are returned as a tuple, and
    `train` returns None."""

    def __init__(self, width: int, in_channels: int = 3, out_indices=(0, 1, 2)):
        super().__init__()
        channels = [in_channels, width, 2 * width, 4 * width]
        strides = (4, 2, 2)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, s, 1) for a, b, s in zip(channels, channels[1:], strides))
        self.out_indices = out_indices

    def train(self, mode: bool = True) -> None:
        super().train(mode)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[index] for index in self.out_indices)


@LIBRARY.register_module()
class Tokens(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x.flatten(2),)


def build(model: str = "mm_library.Pyramid", **settings):
    return BACKBONES.build({"type": "MMBackbone", "model": model, **settings})


@torch.no_grad()
def test_a_backbone_of_an_mm_library_gives_the_same_feature_maps():
    theirs = LIBRARY.build({"type": "Pyramid", "width": 8})
    ours = build(options={"width": 8}, out=["c2", "c4"])
    report = load_checkpoint(ours, theirs.state_dict())
    assert not report.missing and report.format == "mm_library"
    assert {key: (spec.channels, spec.stride) for key, spec in ours.out_features.items()} == {
        "c2": (8, 4),
        "c4": (32, 16),
    }
    images = torch.randn(1, 3, 64, 96)
    expected, maps = theirs(images), ours(images)
    assert torch.equal(maps["c2"], expected[0]) and torch.equal(maps["c4"], expected[2])


def test_its_options_image_channels_and_frozen_stages_apply():
    ours = build(options={"width": 4, "out_indices": (1, 2)}, in_channels=5, frozen_stages=2)
    assert list(ours.out_features) == ["c3", "c4"]
    ours(torch.randn(1, 5, 64, 64))["c4"].sum().backward()
    assert [stage.weight.requires_grad for stage in ours.net.network.stages] == [False, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "Pyramid"}, 'model must be "<package>.<name>", such as "mmdet.ResNet"; got "Pyramid"'),
        ({"model": "mm_library.Pyramids"}, 'unknown mm_library model "Pyramids"; did you mean "Pyramid"'),
        (
            {},
            "OpenMMLab's mm_library.Pyramid cannot be built or run: .*missing 1 required positional argument: 'width'",
        ),
        ({"options": {"widht": 1}}, "OpenMMLab's mm_library.Pyramid cannot be built or run: .*widht"),
        (
            {"model": "mm_library.Tokens"},
            r"must return a tuple of feature maps \[N, C, H, W\], but \[2, 3, 131072\] is one of its outputs",
        ),
        (
            {"options": {"width": 4}, "output_stride": 8},
            "cannot be dilated to output_stride 8 .its coarsest stride stays 16",
        ),
        ({"model": "mmdet.ResNet"}, "MMBackbone needs mmdet, which cannot be imported .*; pip install mmdet$"),
    ],
)
def test_a_wrong_setting_of_an_mm_backbone_is_a_one_line_error(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(**settings)
    assert "\n" not in str(caught.value)


# --- missing libraries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "library", "remedy"),
    [
        (
            {"type": "SmpBackbone", "model": "resnet18"},
            "segmentation_models_pytorch",
            "pip install segmentation-models",
        ),
        (
            {"type": "Detectron2Backbone", "model": "build_resnet_backbone"},
            "detectron2",
            "build it from https://github",
        ),
    ],
)
def test_a_missing_library_is_a_one_line_error(monkeypatch, config, library, remedy):
    for module in [name for name in sys.modules if name.partition(".")[0] == library] or [library]:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ChordateError, match=f"^{config['type']} needs {library}, which cannot be imported .*; {remedy}"
    ):
        BACKBONES.build(config)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smp/resnet34", 'dict(type="SmpBackbone", model="resnet34")'),
        ("mmdet/ResNet", 'dict(type="MMBackbone", model="mmdet.ResNet")'),
        ("detectron2/build_resnet_backbone", 'dict(type="Detectron2Backbone", model="build_resnet_backbone")'),
    ],
)
def test_a_librarys_name_as_type_is_an_error_that_names_its_adapter(name, hint):
    with pytest.raises(ConfigError) as caught:
        BACKBONES.build(name)
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet19"}, 'unknown smp encoder "resnet19"; did you mean "resnet18"'),
        ({"model": "tu-resnet19"}, 'unknown timm model "resnet19"; did you mean "resnet1'),
        ({"model": "vgg11", "output_stride": 16}, "smp's vgg11 cannot be dilated to output_stride 16"),
        ({"model": "resnet18", "out": ["c9"]}, 'unknown feature map of smp\'s resnet18 "c9"'),
    ],
)
def test_a_wrong_setting_of_an_smp_backbone_is_a_one_line_error(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        BACKBONES.build({"type": "SmpBackbone", **settings})
    assert "\n" not in str(caught.value)
