"""The contract of every backbone, tested on the smallest backbone of each family, with fewer channels and layers."""

import copy
import inspect
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from backbone_referee import assert_close, randomize, slow, thin
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import chordate
from chordate.backbones import convnext, preact_resnet
from chordate.contracts import check_outputs
from chordate.errors import ConfigError
from chordate.ops.norms import FrozenBatchNorm
from chordate.registry import BACKBONES
from chordate.weights.checkpoint_sources import torchvision_url

FAMILIES = ["resnet18", "resnet18d", "resnext50_32x4d", "wide_resnet50_2", "seresnet18", "resnetrs50"]
FAMILIES += ["resnet20_cifar", "preact_resnet50", "wrn16_4_cifar", "highway20_cifar"]
FAMILIES += ["densenet121", "convnext_tiny", "torchvision", "timm"]
ADAPTED = {
    "torchvision": {"type": "TorchvisionBackbone", "model": "mobilenet_v3_small"},
    "timm": {"type": "TimmBackbone", "model": "test_efficientnet"},
}
SHALLOW = {
    "resnet20_cifar": {"depth": 14}, "highway20_cifar": {"depth": 11}, "densenet121": {"blocks": (2, 3, 2, 2)},
}  # fmt: skip
FIRST = ("c2", "c3")  # `out` unless a test sets it; two feature maps are enough for most tests
# The tests below take seconds per network, so these variants of ResNet are tested only with `-m slow`.
VARIANTS = {"resnet18d", "resnext50_32x4d", "wide_resnet50_2", "seresnet18"}
ARCHITECTURES = [pytest.param(name, marks=[pytest.mark.slow] * (name in VARIANTS)) for name in FAMILIES]
# Compiling takes seconds per network, so only three networks are always compiled: one with residual blocks, one with
# concatenated outputs, and one with layer norms.
COMPILED = ("resnet20_cifar", "densenet121", "convnext_tiny")
COMPILING = [pytest.param(name, marks=[pytest.mark.slow] * (name not in COMPILED)) for name in FAMILIES]


def cases(every: tuple[int, ...], one: tuple[int, ...]) -> list:
    """(family, value) pairs for `parametrize`. All values are tested with every family; those in `one` are marked slow
    except with ResNet-18, since the same code handles them in each family."""
    others = [name for name in FAMILIES if name != "resnet18"]
    slow_cases = [pytest.param(name, value, marks=pytest.mark.slow) for name in others for value in one]
    wide = [pytest.param(*param.values, value, marks=param.marks) for param in ARCHITECTURES for value in every]
    return [*wide, *(("resnet18", value) for value in one), *slow_cases]


def config(name: str, **options) -> dict:
    return {**ADAPTED.get(name, {"type": name}), **SHALLOW.get(name, {}), "out": FIRST, **options}


def takes(option: str) -> list[str]:
    """The names of the families whose backbones accept this option."""
    BACKBONES.names()
    classes = {name: BACKBONES.module_dict[BACKBONES.expand(config(name))["type"]] for name in FAMILIES}
    return [name for name, cls in classes.items() if option in inspect.signature(cls).parameters]


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    model = randomize(BACKBONES.build(thin(config(name, **options))))
    for part, value in model.named_parameters():
        if part.endswith("gamma"):
            nn.init.uniform_(value, 0.3, 1.0)  # with layer scale's initial 1e-6, blocks would hardly affect the output
    return model


def shapes_of(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return BACKBONES.build(thin(config(name, **options)))


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Shrink the networks whose channels or depths are not settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(convnext.SIZES, "tiny", {"blocks": (2, 2, 3, 2), "widths": (24, 48, 96, 192)})
        patch.setitem(preact_resnet.DEPTHS, 50, (2, 1, 1, 1))
        yield


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield


@pytest.fixture(scope="module", params=ARCHITECTURES)
def whole(request) -> tuple[str, nn.Module]:
    """A family's name and its smallest network in eval mode with all feature maps; tests must not modify it."""
    maps = ["c1", *FIRST, "c4", "c5"] if request.param in ADAPTED else shapes_of(request.param).maps
    return request.param, build(request.param, out=maps).eval()


def train_step(model: nn.Module, images: Tensor, run: Callable | None = None) -> dict[str, dict[str, Tensor]]:
    """Run forward and backward; returns outputs, gradients and buffers. Every call uses the same random numbers."""
    torch.manual_seed(1)
    outputs = model(images) if run is None else run(images)
    sum(map_.square().mean() for map_ in outputs.values()).backward()
    return {
        "outputs": {name: map_.detach() for name, map_ in outputs.items()},
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "buffers": dict(model.named_buffers()),
    }


def assert_same_results(step: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> None:
    for kind, tensors in expected.items():
        assert step[kind].keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(step[kind][name], tensor, msg=lambda m, n=name, k=kind: f"{k} {n}: {m}")


def test_selected_feature_maps_equal_the_full_networks_and_later_stages_are_not_built(whole):
    name, model = whole
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        full = model(images)
    maps = list(model.out_features)
    assert list(full) == maps
    selections = [[maps[0]], [maps[-1], maps[1]], [maps[-1]], maps[1:-1]]
    for out in selections[: 2 if name in ADAPTED else None]:  # building a library's network takes seconds
        part = shapes_of(name, out=out).eval()
        assert not part.load_state_dict(model.state_dict(), strict=False, assign=True).missing_keys
        subset = part(images)
        subset[max(out)].sum().backward()
        idle = [key for key, parameter in part.named_parameters() if parameter.grad is None]
        assert not idle, f"{out} does not need {idle}"
        assert list(subset) == sorted(out)  # ordered from fine to coarse, for any order of `out`
        assert all(torch.equal(subset[key], full[key]) for key in subset)


def test_channels_last_images_have_the_same_feature_maps_in_that_format(whole):
    _, model = whole
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain, last = model(images), model(images.contiguous(memory_format=torch.channels_last))
    for name in plain:
        assert last[name].is_contiguous(memory_format=torch.channels_last), name
        assert_close(last[name], plain[name], name, 1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_in_channels_last_keeps_the_format(name):
    model = build(name).to(memory_format=torch.channels_last).train()
    maps = model(torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    assert all(map_.is_contiguous(memory_format=torch.channels_last) for map_ in maps.values())


@pytest.mark.parametrize(("name", "stages"), cases((1,), (2,)))
def test_frozen_stages_have_no_gradients_and_constant_statistics(name, stages):
    model = build(name, frozen_stages=stages).train()
    frozen = set(shapes_of(name, out=[f"c{stages + 1}"]).state_dict())  # the stem and `stages` stages
    assert {key for key, p in model.named_parameters() if not p.requires_grad} == {
        key for key, _ in model.named_parameters() if key in frozen
    }
    before = copy.deepcopy(model.state_dict())
    maps = model(torch.randn(2, 3, 64, 64))
    assert maps["c3"].requires_grad == (stages < 2)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key, _ in model.named_buffers() if key not in frozen}
    assert model.train() is model
    assert not any(part.training for key, part in model.named_modules() if f"{key}.weight" in frozen)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_activation_checkpointing_saves_fewer_activations_and_changes_no_result(name):
    options = {"drop_path": 0.5} if name in takes("drop_path") else {}
    images = torch.randn(4, 3, 64, 64)
    steps, kept = [], []
    for checkpointing in (False, True):
        saved: dict[int, int] = {}
        model = build(name, checkpointing=checkpointing, **options).train()

        def run(images, model=model, saved=saved):
            def keep(tensor):
                saved[tensor.data_ptr()] = tensor.nbytes
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                return model(images)

        steps.append(train_step(model, images, run))
        kept.append(sum(saved.values()))
    assert_same_results(steps[1], steps[0])  # the recomputation must not update BatchNorm again
    assert kept[1] < 0.8 * kept[0]


@pytest.mark.parametrize("name", [param for param in ARCHITECTURES if param.values[0] not in ADAPTED])
def test_all_feature_maps_train_with_activation_checkpointing(name):
    """Some networks end with an in-place ReLU; the hooks of the previous test disable autograd's check for it."""
    images, maps = torch.randn(2, 3, 40, 40), shapes_of(name).maps
    steps = [
        train_step(build(name, out=maps, checkpointing=on).double().train(), images.double()) for on in (False, True)
    ]
    assert_same_results(steps[1], steps[0])


# DenseNet is marked slow, since it has no stochastic depth, and its checkpointing code is that of other families.
@pytest.mark.parametrize(
    "name", [param for param in COMPILING if param.values[0] != "densenet121"] + slow("densenet121")
)
def test_training_with_checkpointing_and_stochastic_depth_compiles_as_one_graph(name):
    options = {"drop_path": 0.5} if name in takes("drop_path") else {}
    images = torch.randn(4, 3, 32, 32)
    plain = build(name, out=["c2"], **options).train()
    model = build(name, out=["c2"], checkpointing=True, **options).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_results(train_step(model, images, compiled), train_step(plain, images))


@pytest.mark.parametrize("name", COMPILING)
def test_evaluation_compiles_as_one_graph(name):
    model = build(name, out=["c2"]).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        compiled, plain = torch.compile(model, fullgraph=True, backend="aot_eager")(images), model(images)
    for key in plain:
        assert_close(compiled[key], plain[key], key, 1e-5)


@pytest.mark.parametrize(("name", "channels"), cases((6,), (1, 4)))
def test_pretrained_stems_are_adapted_to_other_input_channels(name, channels):
    rgb, model = (build(name, out=["c2"], in_channels=count).eval() for count in (3, channels))
    report = chordate.load_checkpoint(model, rgb.state_dict())
    (stem,) = report.adapted
    assert model.state_dict()[stem].shape[1] == channels
    assert not report.missing
    assert not report.skipped
    theirs = timm.models.adapt_input_conv(channels, rgb.state_dict()[stem])
    torch.testing.assert_close(model.state_dict()[stem], theirs)
    check_outputs(model, channels)
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():  # a gray image has the same output with 1, 3 and 6 channels
        maps = [m(image.expand(-1, count, -1, -1)) for m, count in ((model, channels), (rgb, 3))]
    if channels != 4:  # 4 channels repeat only a part of RGB
        for key in maps[1]:
            assert_close(maps[0][key], maps[1][key], key, 1e-4)


@pytest.mark.parametrize("name", takes("drop_path"))
def test_stochastic_depth_grows_linearly_from_zero_to_the_rate(name):
    """Huang et al. 2016, equation 4, with blocks numbered from 0."""
    last = shapes_of(name).maps[-1:]
    rates = [part.p for part in shapes_of(name, out=last, drop_path=0.3).modules() if isinstance(part, StochasticDepth)]
    blocks = len(rates) + 1
    assert blocks > 4
    assert rates == pytest.approx([0.3 * i / (blocks - 1) for i in range(1, blocks)])
    fewer = [part.p for part in shapes_of(name, drop_path=0.3).modules() if isinstance(part, StochasticDepth)]
    assert fewer == rates[: len(fewer)]


def test_every_backbone_with_published_weights_offers_default_weights():
    known = set(timm.list_pretrained())
    for name in BACKBONES.names():
        source = BACKBONES.expand(name).get("default_weights")
        scheme, _, rest = (source or "").partition("://")
        assert scheme in ("", "torchvision", "timm"), name
        if scheme == "torchvision":
            assert torchvision_url(rest).startswith("https://")
        elif scheme == "timm":
            assert rest in known, name


@torch.no_grad()
@pytest.mark.parametrize("name", takes("drop_path"))
def test_stochastic_depth_drops_branches_per_image_in_training_and_none_in_evaluation(name):
    """Huang et al. 2016, equation 2; kept residual branches are divided by the survival probability."""
    model = build(name, out=["c2"], drop_path=0.9)
    seen = []
    for part in model.modules():
        if isinstance(part, StochasticDepth):
            part.p = 0.5
            part.register_forward_hook(lambda module, args, result: seen.append((args[0], result)))
    images = torch.randn(32, 3, 32, 32)
    model.train()(images)
    assert seen
    for branch, kept in seen:
        gone = (kept == 0).flatten(1).all(1)
        assert 0 < gone.sum() < 32
        torch.testing.assert_close(kept[~gone], branch[~gone] / 0.5)
    plain = build(name, out=["c2"]).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images[:1])["c2"], plain(images[:1])["c2"])


@pytest.mark.parametrize("norm", [{"type": "GN", "groups": 4}, "FrozenBN", "SyncBN"], ids=str)
@pytest.mark.parametrize("name", takes("norm"))
def test_the_norm_setting_replaces_every_norm(name, norm):
    def norms(model: nn.Module) -> dict[str, type[nn.Module]]:
        kinds = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, FrozenBatchNorm)
        return {key: type(part) for key, part in model.named_modules() if isinstance(part, kinds)}

    model = shapes_of(name, norm=norm)
    wanted = {"GN": nn.GroupNorm, "FrozenBN": FrozenBatchNorm, "SyncBN": nn.SyncBatchNorm}
    kind = wanted[norm if isinstance(norm, str) else norm["type"]]
    assert norms(model) == dict.fromkeys(norms(shapes_of(name)), kind)
    check_outputs(model)


@pytest.mark.parametrize(
    ("name", "options", "output_strides"),
    [
        ("resnet18", {}, (16, 8)),
        ("resnet50", {}, (16, 8)),
        ("resnet50_caffe", {}, (16, 8)),
        ("resnet18", {"shortcut": "A"}, (16, 8)),
        ("resnet18", {"shortcut": "C"}, (16, 8)),
        ("plain18", {}, (16, 8)),
        ("resnet50c", {}, (16, 8)),
        ("resnext50_32x4d", {}, (16, 8)),
        # The average pool of shortcut D is not dilated, so values differ once two stages are dilated.
        ("resnet50d", {}, (16,)),
        ("preact_resnet50", {}, (16, 8)),
        ("densenet121", {}, (16, 8)),
        ("convnext_tiny", {}, (16, 8)),
    ],
    ids=str,
)
def test_a_dilated_network_equals_the_strided_one_on_a_finer_grid(name, options, output_strides):
    """Atrous convolution (Chen et al. 2017, section 3.1): the fine feature map, subsampled, equals the coarse one."""
    strided = build(name, out=["c5"], **options).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        coarse = strided(images)["c5"]
        for output_stride in output_strides:
            dilated = shapes_of(name, out=["c5"], output_stride=output_stride, **options).eval()
            dilated.load_state_dict(strided.state_dict(), assign=True)
            fine, step = dilated(images)["c5"], 32 // output_stride
            assert dilated.out_features["c5"].stride == output_stride
            assert fine.shape[-2:] == (step * coarse.shape[-2], step * coarse.shape[-1])
            assert_close(fine[:, :, ::step, ::step], coarse, f"output_stride={output_stride}", 1e-4)


@pytest.mark.parametrize("name", takes("output_stride"))
@pytest.mark.parametrize("output_stride", [4, 64, "16"])
def test_an_output_stride_that_a_backbone_does_not_have_is_refused(name, output_stride):
    says = "output_stride must be one of 8, 16, 32, got|output_stride must be 32 with small_stem"
    with pytest.raises(ConfigError, match=says):
        shapes_of(name, output_stride=output_stride)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"out": ["c9"]}, '"c9"; did you mean "c'),
        ({"out": "c5"}, 'out must be "all" or a list of strings .*got "c5"'),
        ({"frozen_stages": 9}, "frozen_stages must be -1 .* got 9"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_wrong_setting_of_a_backbone_is_a_one_line_error(name, options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        shapes_of(name, **options)
    assert "\n" not in str(caught.value)
