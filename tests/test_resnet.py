"""ResNet against torchvision's, the paper's table 1, and the definition of atrous convolution."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from chordate.backbones import ResNet
from chordate.contracts import FeatureSpec, check_outputs, offered
from chordate.errors import ConfigError
from chordate.ops.norms import FrozenBatchNorm
from chordate.registry import BACKBONES

DEPTHS = (18, 34, 50, 101, 152)
MAPS = {"relu": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random weights and BatchNorm statistics under which activations neither vanish nor explode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.0)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def pair(depth: int, **options) -> tuple[ResNet, nn.Module]:
    """Our ResNet and torchvision's, with the same random weights."""
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None, **options.pop("theirs", {}))
    randomise(theirs)
    ours = BACKBONES.build({"type": f"resnet{depth}", **options})
    left = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not left.missing_keys
    assert set(left.unexpected_keys) == {"fc.weight", "fc.bias"}
    return ours, theirs


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_map_equals_torchvisions_in_evaluation(depth):
    ours, theirs = pair(depth, out=list(MAPS.values()))
    images = torch.randn(2, 3, 65, 96)
    with torch.no_grad():
        expected = create_feature_extractor(theirs.eval(), MAPS)(images)
        maps = ours.eval()(images)
    assert list(maps) == list(MAPS.values())
    for name in maps:
        assert expected[name].abs().max() > 0.1
        assert (maps[name] - expected[name]).abs().max() <= 1e-5


@pytest.mark.parametrize("depth", DEPTHS)
def test_one_training_step_has_torchvisions_gradients_and_statistics(depth):
    ours, theirs = pair(depth, out=["c5"])
    theirs = create_feature_extractor(theirs, {"layer4": "c5"})
    images = torch.randn(2, 3, 64, 64)
    for model in (ours, theirs):
        model.train()(images)["c5"].square().mean().backward()
    theirs_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert len(theirs_gradients) == len(list(ours.parameters()))
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, theirs_gradients[name], msg=lambda m, n=name: f"{n}: {m}")
    theirs_state = theirs.state_dict()
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs_state[name])


@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilation_in_place_of_stride_is_torchvisions(output_stride):
    replaced = [False, output_stride == 8, True]
    ours, theirs = pair(50, output_stride=output_stride, theirs={"replace_stride_with_dilation": replaced})
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = create_feature_extractor(theirs.eval(), {"layer4": "c5"})(images)["c5"]
        assert (ours.eval()(images)["c5"] - expected).abs().max() <= 1e-5
    assert ours.out_features["c5"] == FeatureSpec(2048, output_stride)


@pytest.mark.parametrize("style", ["pytorch", "caffe"])
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_dilated_network_computes_the_strided_ones_values_on_a_finer_grid(depth, style, output_stride):
    """What atrous convolution promises (Chen et al. 2017, section 3.1); every cell of the coarse map is found again."""
    strided = ResNet(depth, style=style, out=["c5"]).eval()
    randomise(strided)
    dilated = ResNet(depth, style=style, out=["c5"], output_stride=output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 96, 128)
    step = 32 // output_stride
    with torch.no_grad():
        torch.testing.assert_close(
            dilated(images)["c5"][:, :, ::step, ::step], strided(images)["c5"], rtol=1e-4, atol=1e-5
        )


def test_dilations_of_a_stage_can_be_set():
    model = ResNet(50, dilations=(1, 1, 1, 2), output_stride=16)
    assert [block.conv2.dilation for block in model.layer4] == [(2, 2)] * 3
    check_outputs(model)


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_is_the_number_of_layers_on_the_way(depth):
    model = ResNet(depth)
    convs = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d) and "downsample" not in name]
    assert len(convs) + 1 == depth  # the classifier is the last layer


@pytest.mark.parametrize("name", sorted(BACKBONES.names("resnet*")))
def test_every_variant_keeps_its_promise(name):
    model = BACKBONES.build({"type": name, "out": ["c1", "c2", "c3", "c4", "c5"]})
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
def test_every_switch_keeps_the_promise(depth, options):
    check_outputs(ResNet(depth, **options), options.get("in_channels", 3))


def test_caffe_style_strides_in_the_first_convolution():
    for style, expected in (("pytorch", [(1, 1), (2, 2)]), ("caffe", [(2, 2), (1, 1)])):
        block = ResNet(50, style=style).layer2[0]
        assert [block.conv1.stride, block.conv2.stride] == expected


def test_option_a_pads_with_zeros_and_has_no_parameters():
    block = ResNet(18, shortcut="A").layer2[0]
    x = torch.randn(1, 64, 9, 9)
    y = block.downsample(x)
    assert torch.equal(y[:, :64], x[:, :, ::2, ::2])
    assert y.shape[1] == 128
    assert not y[:, 64:].any()
    assert not list(block.downsample.parameters())


def test_option_c_projects_every_shortcut_and_b_only_where_the_shape_changes():
    projections = {
        option: sum(isinstance(block.downsample, nn.Sequential) for block in ResNet(34, shortcut=option).layer1)
        for option in "BC"
    }
    assert projections == {"B": 0, "C": 3}


def test_only_what_is_asked_for_is_given_and_nothing_after_it_is_built():
    model = ResNet(18, out=["c4", "c2"])
    assert list(model(torch.randn(1, 3, 64, 64))) == ["c2", "c4"]  # fine to coarse
    assert list(offered(model)) == ["c2", "c4"]
    assert not hasattr(model, "layer4")


@pytest.mark.parametrize(
    ("frozen_stages", "trained"),
    [
        (-1, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
        (0, {"layer1", "layer2", "layer3", "layer4"}),
        (1, {"layer2", "layer3", "layer4"}),
        (4, set()),
    ],
)
def test_frozen_stages_counts_from_the_stem(frozen_stages, trained):
    model = ResNet(18, frozen_stages=frozen_stages).train()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == trained
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(2, 3, 64, 64))
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == trained - {"conv1"}  # the running statistics of what is trained, and of nothing else


@pytest.mark.parametrize("trainable_layers", range(6))
def test_torchvisions_trainable_layers_is_four_minus_frozen_stages(trainable_layers):
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    theirs = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=trainable_layers
    ).body
    ours = ResNet(18, frozen_stages=4 - trainable_layers)
    trained = [[name for name, p in model.named_parameters() if p.requires_grad] for model in (ours, theirs)]
    assert trained[0] == trained[1]


def test_freezing_survives_the_conversion_to_sync_batch_norm():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(ResNet(18, frozen_stages=1)).train()
    assert not model.bn1.training
    assert not any(m.training for m in model.layer1.modules())
    assert model.layer2[0].bn1.training


def test_frozen_norm_has_nothing_to_learn_or_to_drift():
    model = ResNet(18, norm="FrozenBN").train()
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
    model = ResNet(depth, zero_init_last=True).eval()
    block = model.layer1[1]
    x = torch.rand(1, block.conv1.in_channels, 8, 8)
    assert torch.equal(block(x), x)
    assert not torch.equal(ResNet(depth).eval().layer1[1](x), x)


@pytest.mark.parametrize(
    "options",
    [{}, {"norm": "FrozenBN", "style": "caffe", "frozen_stages": 1}, {"shortcut": "A", "stem": "deep"}],
    ids=str,
)
def test_traces_as_one_graph(options):
    model = ResNet(50 if "style" in options else 18, **options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 64, 64)
    weight = model.layer4[0].conv2.weight
    losses = [f(images)["c5"].square().mean() for f in (compiled.train(), model.train())]  # batch statistics
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, weight)[0] for loss in losses))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"depth": 51}, "18, 34, 50, 101, 152"),
        ({"depth": 50, "style": "tensorflow"}, 'unknown ResNet style "tensorflow"'),
        ({"depth": 50, "shortcut": "E"}, "unknown shortcut option"),
        ({"depth": 50, "out": ["c6"]}, 'unknown ResNet-50 map "c6"'),
        ({"depth": 50, "out": []}, "at least one map"),
        ({"depth": 50, "frozen_stages": 5}, "frozen_stages=5"),
        ({"depth": 50, "output_stride": 4}, "32, 16 or 8"),
        ({"depth": 50, "dilations": (2,)}, "four numbers"),
        ({"depth": 50, "norm": "FrozenBN", "zero_init_last": True}, "needs a norm that learns"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_in_one_line(options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        BACKBONES.build({"type": "ResNet", **options})
    assert "\n" not in str(caught.value)
