"""ResNet against torchvision's and timm's, and against the papers on its shortcuts, stochastic depth and multi-grid."""

import functools
import re

import pytest
import timm
import torch
import torchvision
from backbone_referee import (
    assert_same_maps,
    assert_same_step,
    extractor,
    on_meta,
    randomize,
    referee,
    size,
    slow,
    with_weights_of,
    without_init,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from chordate.backbones import ResNet
from chordate.backbones.layers import BasicBlock, Bottleneck
from chordate.backbones.resnet_variants import RESNET
from chordate.contracts import FeatureSpec, check_outputs
from chordate.errors import ConfigError
from chordate.ops.norms import FrozenBatchNorm, conv_norm
from chordate.registry import BACKBONES

DEPTHS = (18, 34, 50, 101, 152)
TORCHVISION = {"relu": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}
TIMM = {"act1": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}
MAPS = list(TIMM.values())
VARIANTS = [
    pytest.param(name, marks=[pytest.mark.slow] * bool(re.search("34|101|152", name))) for name in sorted(RESNET)
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@functools.cache
def weights(depth: int) -> dict[str, torch.Tensor]:
    """Random weights of torchvision's ResNet."""
    return referee(lambda: torchvision.models.get_model(f"resnet{depth}", weights=None)).state_dict()


def pair(depth: int, **options) -> tuple[ResNet, nn.Module]:
    """Our ResNet and torchvision's, with the same random weights."""
    changes = options.pop("theirs", {})
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}", weights=None, **changes)
    theirs.load_state_dict({name: tensor.clone() for name, tensor in weights(depth).items()}, assign=True)
    return with_weights_of(theirs, f"resnet{depth}", **options), theirs


@pytest.mark.parametrize("depth", [18, 50, *slow(34, 101, 152)])
def test_every_feature_map_equals_torchvisions_in_eval_mode(depth):
    ours, theirs = pair(depth, out=MAPS)
    assert_same_maps(ours, extractor(theirs, TORCHVISION), torch.randn(1, 3, 65, 96), tolerance=1e-5)


@pytest.mark.parametrize("depth", [18, 50, *slow(34, 101, 152)])
def test_one_training_step_has_torchvisions_gradients_and_statistics(depth):
    ours, theirs = pair(depth, out=["c5"])
    images = torch.randn(2, 3, 40, 40)  # c5 is 2×2; BatchNorm over two 1×1 maps would have almost no gradient
    # Both run the same operations, so float32 is precise enough.
    assert_same_step(ours, extractor(theirs, {"layer4": "c5"}), images, dtype=torch.float32)


@pytest.mark.parametrize("name", ["resnet18d", "resnet50d", "resnet50s", *slow("resnet50c")])
def test_deep_stems_and_pooled_shortcuts_are_timms(name):
    """Image sizes are not multiples of the stride, to compare how the pooling of shortcut D treats borders."""
    theirs = referee(lambda: timm.create_model(name))
    ours = with_weights_of(theirs, name, out=MAPS)
    assert_same_maps(ours, extractor(theirs, TIMM), torch.randn(1, 3, 75, 97), tolerance=1e-5)
    if name == "resnet50d":  # covers the deep stem and the pooled shortcuts of the other variants
        assert_same_step(ours, extractor(theirs, TIMM), torch.randn(2, 3, 40, 40), dtype=torch.float32)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilation_in_place_of_stride_is_torchvisions(output_stride):
    replaced = [False, output_stride == 8, True]
    ours, theirs = pair(50, output_stride=output_stride, theirs={"replace_stride_with_dilation": replaced})
    expected = extractor(theirs, {name: key for name, key in TORCHVISION.items() if key != "c1"})
    assert_same_maps(ours, expected, torch.randn(1, 3, 48, 64), tolerance=1e-5)
    assert ours.out_features["c5"] == FeatureSpec(2048, output_stride)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("resnet50d", 16), ("seresnet18", 16), ("seresnet18", 8), pytest.param("resnet50d", 8, marks=pytest.mark.slow)],
)
def test_dilation_in_place_of_stride_is_timms_with_pooled_shortcuts_or_squeeze_and_excitation(name, output_stride):
    theirs = referee(lambda: timm.create_model(name, output_stride=output_stride))
    ours = with_weights_of(theirs, name, out=MAPS, output_stride=output_stride)
    theirs.eval()

    def maps_of(images):
        return dict(zip(MAPS, theirs.forward_intermediates(images, intermediates_only=True)))

    assert_same_maps(ours, maps_of, torch.randn(1, 3, 75, 96), tolerance=1e-5)


@pytest.mark.parametrize(("output_stride", "dilation"), [(16, 2), (8, 4)])
def test_multi_grid_multiplies_the_dilation_of_c5(output_stride, dilation):
    """Chen et al. 2017, section 3.2.1: at output stride 16, multi-grid (1, 2, 4) has dilations 2 · (1, 2, 4).

    As in Detectron2, the 3×3 convolutions of all blocks of the stage are dilated, including the first.
    """
    ours, theirs = pair(
        50,
        output_stride=output_stride,
        multi_grid=(1, 2, 4),
        theirs={"replace_stride_with_dilation": [False, output_stride == 8, True]},
    )
    for block, factor in zip(theirs.layer4, (1, 2, 4)):
        block.conv2.dilation = block.conv2.padding = (dilation * factor, dilation * factor)
    if output_stride == 8:  # torchvision does not dilate the first block of layer3
        theirs.layer3[0].conv2.dilation = theirs.layer3[0].conv2.padding = (2, 2)
    expected = extractor(theirs, {name: key for name, key in TORCHVISION.items() if key != "c1"})
    assert_same_maps(ours, expected, torch.randn(1, 3, 96, 96), tolerance=1e-5)


def test_dilations_of_a_stage_can_be_set():
    model = on_meta("resnet50", dilations=(1, 1, 1, 2), output_stride=16)
    assert [block.conv2.dilation for block in model.layer4] == [(2, 2)] * 3
    check_outputs(model)


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_counts_convolutions_and_the_classifier(depth):
    model = on_meta(f"resnet{depth}")
    convs = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d) and "downsample" not in name]
    assert len(convs) + 1 == depth  # + 1 for the classifier


@pytest.mark.parametrize(("depth", "billions"), [(18, 1.8), pytest.param(34, 3.6, marks=pytest.mark.slow)])
def test_shortcuts_of_option_a_have_no_parameters_and_flops(depth, billions):
    """He et al. 2016, table 1 and figure 3: residual and plain networks have the same FLOPs."""
    parameters, multiply_adds = size(f"resnet{depth}", shortcut="A")
    assert multiply_adds == pytest.approx(billions, abs=0.07)
    assert (parameters, multiply_adds) == size(f"plain{depth}")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_resnet_variant_has_the_declared_channels_and_strides(name):
    model = on_meta(name, out=MAPS)
    check_outputs(model)
    assert [spec.stride for spec in model.out_features.values()] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    "options",
    [
        {"shortcut": "A"},
        {"shortcut": "C"},
        {"stem": "deep"},
        {"in_channels": 5},
        {"norm": "GN"},
        {"norm": None},
        {"style": "caffe", "output_stride": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("depth", [18, 50])
def test_every_resnet_option_keeps_the_declared_channels_and_strides(depth, options):
    check_outputs(on_meta(f"resnet{depth}", **options), options.get("in_channels", 3))


def test_caffe_style_has_the_stride_in_the_first_convolution():
    for style, expected in (("pytorch", [(1, 1), (2, 2)]), ("caffe", [(2, 2), (1, 1)])):
        block = on_meta("resnet50", style=style).layer2[0]
        assert [block.conv1.stride, block.conv2.stride] == expected


def test_option_a_pads_with_zeros_and_has_no_parameters():
    block = ResNet(18, shortcut="A", out=["c3"]).layer2[0]
    x = torch.randn(1, 64, 9, 9)
    y = block.downsample(x)
    assert torch.equal(y[:, :64], x[:, :, ::2, ::2])
    assert y.shape[1] == 128
    assert not y[:, 64:].any()
    assert not list(block.downsample.parameters())


def test_option_c_projects_every_shortcut_and_b_only_where_the_shape_changes():
    projections = {
        option: sum(
            isinstance(block.downsample, nn.Sequential) for block in on_meta("resnet34", shortcut=option).layer1
        )
        for option in "BC"
    }
    assert projections == {"B": 0, "C": 3}


@pytest.mark.parametrize("name", ["plain18", *slow("plain34")])
def test_a_plain_network_has_no_shortcuts(name):
    """A plain network has the layers of a residual network, without shortcuts (He et al. 2016, figure 3, middle)."""

    class NoAddition(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            added = func.overloadpacket in (torch.ops.aten.add, torch.ops.aten.add_) and args[0].dim() == 4
            assert not added  # no feature maps are added (a norm may add eps to the variance)
            return func(*args, **(kwargs or {}))

    model = referee(lambda: BACKBONES.build({"type": name, "out": ["c5"]})).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        with NoAddition():
            x, c5 = images, model(images)["c5"]
        x = model.maxpool(conv_norm(model.conv1, model.bn1, x).relu())
        for block in [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]:
            x = conv_norm(block.conv1, block.bn1, x).relu()
            x = conv_norm(block.conv2, block.bn2, x).relu()
    assert torch.equal(x, c5)
    assert set(model.state_dict()) < set(on_meta(name.replace("plain", "resnet")).state_dict())


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_stochastic_depth_drops_branches_per_image_and_rescales_the_kept_ones(block):
    """Stochastic depth (Huang et al. 2016), per image; kept branches are divided by the survival probability."""
    width = 64 // block.expansion
    always, sometimes = (block(64, width, norm="FrozenBN", drop=drop) for drop in (0.0, 0.25))
    randomize(always)
    sometimes.load_state_dict(always.state_dict())
    x = torch.randn(200, 64, 4, 4).relu()
    branch = []
    always.se.register_forward_hook(lambda module, args, result: branch.append(result))
    with torch.no_grad():
        always(x)
        y = sometimes.train()(x)
        dropped = (y == x).flatten(1).all(1)  # x ≥ 0, so the last ReLU keeps it
        torch.testing.assert_close(y[~dropped], (x + branch[0] / 0.75).relu()[~dropped])
        assert 30 <= dropped.sum() <= 70  # of 200 images with probability 0.25: within 3.3 standard deviations
        assert torch.equal(sometimes.eval()(x), always.eval()(x))


@pytest.mark.parametrize("trainable_layers", range(6))
def test_torchvisions_trainable_layers_is_four_minus_frozen_stages(trainable_layers):
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    with torch.device("meta"):
        theirs = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=trainable_layers
        ).body
    ours = on_meta("resnet18", frozen_stages=4 - trainable_layers)
    trained = [[name for name, p in model.named_parameters() if p.requires_grad] for model in (ours, theirs)]
    assert trained[0] == trained[1]


def test_freezing_survives_the_conversion_to_sync_batch_norm():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(on_meta("resnet18", frozen_stages=1)).train()
    assert not model.bn1.training
    assert not any(m.training for m in model.layer1.modules())
    assert model.layer2[0].bn1.training


def test_a_frozen_norm_has_no_parameters_and_constant_statistics():
    model = on_meta("resnet18", norm="FrozenBN").train()
    assert all(p.dim() == 4 for p in model.parameters())
    assert any(isinstance(m, FrozenBatchNorm) for m in model.modules())


def test_convolutions_start_with_hes_variance():
    """He et al. 2015, equation 14: the standard deviation is sqrt(2 / (k² · output channels))."""
    for name, module in ResNet(50).named_modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_makes_blocks_identities(depth):
    model = ResNet(depth, zero_init_last=True, out=["c2"]).eval()
    block = model.layer1[1]
    x = torch.rand(1, block.conv1.in_channels, 8, 8)
    assert torch.equal(block(x), x)
    assert not torch.equal(ResNet(depth, out=["c2"]).eval().layer1[1](x), x)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"norm": "FrozenBN", "frozen_stages": 1, "shortcut": "A"}),
        ("resnet18d", {"output_stride": 8, "out": ["c4"]}),
    ],
    ids=str,
)
@pytest.mark.slow  # test_backbones.py and test_conv_norm.py always compile small ResNets
def test_resnet_traces_as_one_graph(name, options):
    torch._dynamo.reset()
    model = BACKBONES.build({"type": name, "out": ["c3"], **options}).train()
    (last,) = model.out
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 32, 32)
    losses = [f(images)[last].square().mean() for f in (compiled, model)]  # in training mode, so with batch statistics
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, model.layer2[0].conv2.weight)[0] for loss in losses))


@pytest.mark.parametrize(
    ("depth", "stem", "shortcut"), [(18, "7x7", "B"), (50, "deep", "D"), (50, "deep-strided", "C")]
)
def test_a_thin_network_equals_the_full_one_with_the_additional_weights_at_zero(depth, stem, shortcut):
    options = {"stem": stem, "shortcut": shortcut, "out": MAPS}
    thin = randomize(ResNet(depth, base_channels=16, **options)).eval()
    with without_init():
        whole = ResNet(depth, **options).eval()
    weights = {key: torch.zeros_like(value) for key, value in whole.state_dict().items()}
    for key, value in thin.state_dict().items():
        weights[key][tuple(slice(side) for side in value.shape)] = value
        if key.endswith("running_var"):
            weights[key][len(value) :] = 1
    whole.load_state_dict(weights)
    images = torch.randn(1, 3, 65, 96)
    with torch.no_grad():
        maps, found = whole(images), thin(images)
    for name, expected in maps.items():
        x = found[name]
        assert thin.out_features[name].channels == x.shape[1] == expected.shape[1] // 4
        torch.testing.assert_close(x, expected[:, : x.shape[1]])
        assert x.std() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 51}, "one of 18, 34, 50, 101, 152, .* got 51"),
        ({"depth": 50, "style": "tensorflow"}, 'style must be one of "pytorch", "caffe", got "tensorflow"'),
        ({"depth": 50, "shortcut": "E"}, "shortcut must be one of"),
        ({"depth": 50, "out": ["c6"]}, 'unknown ResNet-50 feature map "c6"'),
        ({"depth": 50, "out": []}, 'out must be "all" or a list of strings with at least 1 item'),
        ({"depth": 50, "frozen_stages": 5}, "frozen_stages must be -1 .* got 5"),
        ({"depth": 50, "output_stride": 4}, "output_stride must be one of 8, 16, 32, got 4"),
        ({"depth": 50, "dilations": (2,)}, "dilations must be a list of 4 integers ≥ 1 or None"),
        ({"depth": 50, "multi_grid": (1, 2)}, "must be 3 numbers"),
        ({"depth": 18, "groups": 32, "group_width": 4}, "groups must be 1 .* without bottlenecks"),
        ({"depth": 50, "drop_path": 1.0}, "drop_path must be ≥ 0 and < 1, got 1.0"),
        ({"depth": 34, "drop_path": 0.1, "shortcut": "none"}, "plain-34: drop_path must be 0 with shortcut=.none."),
        ({"depth": 50, "base_channels": 0}, "base_channels must be ≥ 1"),
        ({"depth": 50, "stem": "9x9"}, "stem must be one of"),
        ({"depth": 50, "norm": "FrozenBN", "zero_init_last": True}, 'zero_init_last needs norm "BN", "SyncBN" or "GN"'),
    ],
    ids=str,
)
def test_an_invalid_setting_of_a_resnet_is_a_one_line_error(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        BACKBONES.build({"type": "ResNet", **options})
    assert "\n" not in str(caught.value)
