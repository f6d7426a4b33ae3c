"""Torchvision and timm networks as backbones: feature maps equal the original network's, and timm is optional."""

import sys

import pytest
import timm
import torch
import torchvision
from backbone_referee import assert_close, randomize, referee, slow, timms, without_init
from torch import Tensor, nn

import chordate
from chordate.backbones.adapters import DILATED
from chordate.errors import ChordateError, ConfigError
from chordate.registry import BACKBONES
from chordate.weights.loading import load_checkpoint

# For each torchvision network, the modules whose outputs are the feature maps, by feature-map name.
TORCHVISION = {
    "vgg16": {"c1": "features.8", "c2": "features.15", "c3": "features.22", "c4": "features.29", "c5": "features.30"},
    "alexnet": {"c2": "features.1", "c3": "features.4", "c4": "features.11", "c5": "features.12"},
    "googlenet": {"c1": "conv1", "c2": "conv3", "c3": "inception3b", "c4": "inception4e", "c5": "inception5b"},
    "inception_v3": {
        "c1": "Conv2d_2b_3x3", "c2": "Conv2d_4a_3x3", "c3": "Mixed_5d", "c4": "Mixed_6e", "c5": "Mixed_7c",
    },
    "resnet18": {"c1": "relu", "c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"},
    "mobilenet_v3_small": {
        "c1": "features.0", "c2": "features.1", "c3": "features.3", "c4": "features.8", "c5": "features.12",
    },
    "efficientnet_b0": {
        "c1": "features.1", "c2": "features.2", "c3": "features.3", "c4": "features.5", "c5": "features.8",
    },
    "regnet_y_400mf": {"c1": "stem", **{f"c{i + 1}": f"trunk_output.block{i}" for i in range(1, 5)}},
    "swin_t": {"c2": "features.1", "c3": "features.3", "c4": "features.5", "c5": "permute"},
}  # fmt: skip
# Tested only with `-m slow`. AlexNet, GoogLeNet and MobileNet, which are similar to the first three, are always tested.
LARGE = ("vgg16", "inception_v3", "efficientnet_b0", "resnet18", "regnet_y_400mf")
SMALLEST_SIDE = {"inception_v3": 160}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def torchvisions(name: str) -> nn.Module:
    """A torchvision network with random weights; the large classifiers of VGG and AlexNet are removed."""

    def build() -> nn.Module:
        inception = {"aux_logits": False, "init_weights": False, "transform_input": True}
        options = inception if name in ("googlenet", "inception_v3") else {}
        whole = torchvision.models.get_model(name, weights=None, **options)
        if name in ("vgg16", "alexnet"):
            whole.classifier = nn.Identity()
        return whole

    if not name.startswith(("swin", "regnet")):
        return referee(build).eval()
    with without_init():  # not on the meta device, since Swin and RegNet read tensor values in __init__
        net = build()
    return randomize(net).eval()


@torch.no_grad()
def seen(net: nn.Module, modules: dict[str, str], images: Tensor) -> dict[str, Tensor]:
    """Run the whole network; returns the outputs of `modules`, keyed by feature-map name."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        net.get_submodule(module).register_forward_hook(
            lambda module, args, result, name=name: outputs.setdefault(name, result.clone())
        )
        for name, module in modules.items()
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("name", [*(name for name in TORCHVISION if name not in LARGE), *slow(*LARGE)])
def test_adapted_torchvision_networks_give_torchvisions_maps(name):
    theirs = torchvisions(name)
    with without_init():
        ours = BACKBONES.build({"type": "TorchvisionBackbone", "model": name, "out": list(TORCHVISION[name])}).eval()
    report = load_checkpoint(ours, theirs.state_dict())
    assert report.format == "torchvision" and not report.missing
    side = SMALLEST_SIDE.get(name, 96)
    for images in (torch.randn(1, 3, side, side + 32), torch.randn(1, 3, side + 5, side + 13)):
        wanted = seen(theirs, TORCHVISION[name], images)
        with torch.no_grad():
            maps = ours(images)
        assert list(maps) == list(ours.out_features) == list(TORCHVISION[name])
        for key, map_ in maps.items():
            expected = wanted[key]
            if name == "swin_t" and key != "c5":
                expected = expected.permute(0, 3, 1, 2)
            assert_same_cells(map_, expected, images, ours.out_features[key].stride, key)


def assert_same_cells(ours: Tensor, theirs: Tensor, images: Tensor, stride: int, what: str) -> None:
    """Check that our map has `ceil(side / stride)` cells per side and that their map, maybe smaller, is its center."""
    cells = [-(-side // stride) for side in images.shape[-2:]]
    assert list(ours.shape[-2:]) == cells
    top, left = ((mine - their) // 2 for mine, their in zip(cells, theirs.shape[-2:]))
    inner = ours[:, :, top : top + theirs.shape[2], left : left + theirs.shape[3]]
    assert_close(inner, theirs, what, 1e-5)


TIMM = ["efficientnet_b0", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", [*TIMM, *slow("resnetv2_50")])
def test_adapted_timm_networks_give_timms_maps(name):
    whole = timms(name)
    state = {key: value.clone() for key, value in whole.state_dict().items()}
    # Passing the weights here loads them before timm removes the layers that feature extraction does not use.
    with without_init():
        theirs = timm.create_model(
            name, features_only=True, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)}
        ).eval()
    # A ViT's feature maps all have the same stride; without `out`, only the last one is returned.
    out = {"out": ["c4", "c5", "c6"]} if name.startswith("vit") else {}
    with without_init():
        ours = BACKBONES.build({"type": "TimmBackbone", "model": name, **out}).eval()
    report = load_checkpoint(ours, state)
    assert not report.missing and report.format == "timm"
    assert {key.split(".")[0] for key in report.skipped} <= {
        "conv_head",
        "bn2",
        "classifier",
        "fc_norm",
        "head",
        "norm",
    }
    side = 224 if "224" in name else 97
    images = torch.randn(1, 3, side, side)
    strides = [stride for stride in theirs.feature_info.reduction() if stride >= 4]
    with torch.no_grad():
        expected, maps = theirs(images)[-len(strides) :], ours(images)
    assert [spec.stride for spec in ours.out_features.values()] == strides
    assert [spec.channels for spec in ours.out_features.values()] == theirs.feature_info.channels()[-len(strides) :]
    for (key, map_), wanted, stride in zip(maps.items(), expected, strides, strict=True):
        assert_same_cells(map_, wanted.permute(0, 3, 1, 2) if "swin" in name else wanted, images, stride, key)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_timms_transformers_take_images_of_any_size(name):
    with without_init():
        model = BACKBONES.build({"type": "TimmBackbone", "model": name})
    randomize(model).eval()
    images = torch.randn(1, 3, 65, 98)
    multiple = list(model.out_features.values())[-1].stride
    with torch.no_grad():
        maps, padded = model(images), model(nn.functional.pad(images, (0, -98 % multiple, 0, -65 % multiple)))
    for key, spec in model.out_features.items():
        rows, columns = -(-65 // spec.stride), -(-98 // spec.stride)
        assert maps[key].shape == (1, spec.channels, rows, columns)
        assert torch.equal(maps[key], padded[key][:, :, :rows, :columns])


def test_the_librarys_own_arguments_are_handed_on():
    with without_init(), torch.device("meta"):
        dilated = chordate.build_backbone(
            {"type": "TimmBackbone", "model": "resnet18"}, options={"output_stride": 16, "drop_path_rate": 0.1}
        )
        deep = chordate.build_backbone(
            {"type": "TorchvisionBackbone", "model": "convnext_tiny"}, options={"stochastic_depth_prob": 0.5}
        )
    # Without `out`, only the last of the feature maps with the same stride is returned.
    assert [spec.stride for spec in dilated.out_features.values()] == [4, 8, 16]
    assert max(getattr(part, "drop_prob", None) or 0 for part in dilated.modules()) == pytest.approx(0.1)
    assert max(part.p for part in deep.modules() if isinstance(part, torchvision.ops.StochasticDepth)) == 0.5


@pytest.mark.parametrize("name", ["efficientnet_b0", *slow("convnext_atto")])
def test_dilated_timm_networks_give_timms_maps(name):
    whole = timm.create_model(name, output_stride=16).eval()
    with without_init():
        ours = BACKBONES.build({"type": "TimmBackbone", "model": name, "out": ["c4", "c5"], "output_stride": 16}).eval()
    load_checkpoint(ours, whole.state_dict())
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        expected, maps = whole.forward_intermediates(images, indices=2, intermediates_only=True), ours(images)
    assert [spec.stride for spec in ours.out_features.values()] == [16, 16]
    for (key, map_), wanted in zip(maps.items(), expected, strict=True):
        assert_same_cells(map_, wanted, images, 16, key)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("mobilenetv3_small_050", 16), ("mobilenetv4_conv_small_035", 8), ("lcnet_035", 16), ("hardcorenas_a", 32)],
)
def test_networks_whose_classifier_timm_does_not_dilate_give_timms_maps(name, output_stride):
    """In timm, only the feature extractor of MobileNetV3 and its relatives has `output_stride`."""
    whole = timm.create_model(name)
    theirs = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    theirs.load_state_dict(whole.state_dict(), strict=False)
    with without_init():
        ours = BACKBONES.build(
            {"type": "TimmBackbone", "model": name, "out": ["c1", "c2", "c5"], "output_stride": output_stride}
        ).eval()
    assert load_checkpoint(ours, whole.state_dict()).missing == []
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        maps, expected = ours(images), theirs(images)
    assert [spec.stride for spec in ours.out_features.values()] == [2, 4, output_stride]
    for key, wanted in zip(maps, (expected[0], expected[1], expected[4]), strict=True):
        assert_same_cells(maps[key], wanted, images, ours.out_features[key].stride, key)


def test_an_invalid_option_is_not_reported_as_a_network_that_cannot_be_dilated():
    with torch.device("meta"), pytest.raises(ConfigError, match="resnet18 cannot be built: .*'widths'"):
        BACKBONES.build({"type": "TimmBackbone", "model": "resnet18", "output_stride": 16, "options": {"widths": 1}})


def test_the_timm_networks_that_messages_recommend_can_be_dilated():
    families = {"ResNet": "resnet10t", "RegNet": "regnetx_002", "EfficientNet": "efficientnet_lite0"}
    families |= {"MobileNetV1": "mobilenetv1_100", "ConvNeXt": "convnext_atto", "V4": "mobilenetv4_conv_small_035"}
    for family, name in families.items():
        assert family in DILATED.partition("timm's")[2]
        with without_init(), torch.device("meta"):
            backbone = BACKBONES.build({"type": "TimmBackbone", "model": name, "output_stride": 8})
        assert [spec.stride for spec in backbone.out_features.values()] == [4, 8]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TimmBackbone", "vgg16"),
        ("TimmBackbone", "swin_tiny_patch4_window7_224"),
        ("TimmBackbone", "maxvit_tiny_tf_224"),
        ("TorchvisionBackbone", "vgg16"),
    ],
)
def test_a_network_that_cannot_be_dilated_is_a_line_with_those_that_can(kind, name, output_stride):
    says = rf"'s {name} cannot be dilated to output_stride {output_stride} .*remove output_stride, or use .*ConvNeXt"
    with torch.device("meta"), pytest.raises(ConfigError, match=says):
        BACKBONES.build({"type": kind, "model": name, "output_stride": output_stride})


def test_timms_feature_maps_are_named_after_their_stride():
    names = {
        "efficientnet_b0": ["c2", "c3", "c4", "c5"],
        "vgg11": ["c2", "c3", "c4", "c5"],  # timm's feature map of stride 1 has no name
        "convnext_atto": ["c2", "c3", "c4", "c5"],
        "efficientvit_m0": ["c4", "c5", "c6"],
    }
    for model, maps in names.items():
        with without_init(), torch.device("meta"):
            backbone = BACKBONES.build({"type": "TimmBackbone", "model": model})
        assert list(backbone.out_features) == maps
        assert all(spec.stride == 2 ** int(name[1:]) for name, spec in backbone.out_features.items())


# --- mistakes, and an installation without timm -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("Torchvision", {"model": "vgg61"}, 'unknown torchvision model "vgg61"; did you mean "vgg'),
        ("Torchvision", {"model": "squeezenet1_1", "out": ["c5"]}, "unknown feature map of torchvision's squeezenet"),
        ("Torchvision", {"model": "resnet18", "out": []}, "at least 1 item"),
        ("Torchvision", {"model": "resnet18", "depth": 3}, "unknown setting of backbone TorchvisionBackbone"),
        ("Torchvision", {"model": "resnet18", "options": {"widht": 2}}, "resnet18 cannot be built: .*'widht'"),
        ("Torchvision", {"model": "vit_b_16"}, "vit_b_16 does not accept images of 256×512 px"),
        ("Torchvision", {"model": "swin_t", "frozen_stages": 0}, "-1 [(]none[)], 1 [(]up to c2[)]"),
        ("Timm", {"model": "efficientnet_b9"}, 'unknown timm model "efficientnet_b9"; did you mean "efficientnet_b'),
        ("Timm", {"model": "resnet18.nobody"}, "unknown weights of timm's resnet18"),
        ("Timm", {"model": "resnet18", "out": ["c9"]}, "unknown feature map of timm's resnet18"),
        ("Timm", {"model": "resnet18", "options": {"widht": 2}}, "timm's resnet18 cannot be built: .*'widht'"),
    ],
)
def test_a_wrong_setting_of_an_adapter_is_a_one_line_error(kind, settings, says):
    with without_init(), pytest.raises(ConfigError, match=says) as caught:
        BACKBONES.build({"type": f"{kind}Backbone", **settings})
    assert "\n" not in str(caught.value)


def test_a_timm_network_with_a_fixed_image_size_is_refused():
    message = r"timm's maxvit_tiny_rw_224: forward fails .* must be divisible by window"
    with without_init(), pytest.raises(ConfigError, match=message):
        chordate.build_backbone({"type": "TimmBackbone", "model": "maxvit_tiny_rw_224"})


def test_without_timm_only_its_networks_and_weights_are_refused(monkeypatch):
    """test_packaging.py checks that all backbones can be imported without timm."""
    for module in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with without_init():
        chordate.build_backbone("resnet18")
    for config, pretrained, network in (
        ({"type": "TimmBackbone", "model": "resnet18"}, None, "TimmBackbone"),
        ("resnet50d", True, "timm://resnet50d.ra2_in1k"),
    ):
        with pytest.raises(ChordateError, match=f"^{network} needs timm.*pip install timm$"):
            chordate.build_backbone(config, pretrained=pretrained)
