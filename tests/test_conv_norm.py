"""Folding norms into convolutions keeps outputs and gradients, for every backbone family with BatchNorm."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from backbone_referee import assert_close, randomize, slow, thin
from torch import Tensor, nn

from chordate.contracts import FeatureSpec
from chordate.necks import FPN
from chordate.ops.norms import ConvNorm, FrozenBatchNorm, conv_norm, make_norm
from chordate.registry import BACKBONES

FAMILIES = ["resnet18", "resnet50_caffe", "resnet50d", "resnext50_32x4d", "wide_resnet50_2", "seresnet18"]
FAMILIES += ["resnetrs50", "resnet20_cifar", "plain20_cifar", "preact_resnet50", "wrn16_4_cifar", "highway20_cifar"]
FAMILIES += ["densenet121", "densenet100_12_cifar"]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()


@contextmanager
def one_after_the_other(model: nn.Module) -> Iterator[None]:
    """A context manager that keeps norms from being folded, by a forward hook on every norm."""
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm | nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(lambda *_: None) for norm in norms]
    yield
    for hook in hooks:
        hook.remove()


def step(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The feature maps, and the gradients of the images and of every parameter."""
    images = images.detach().requires_grad_()
    model.zero_grad()
    maps = model(images)
    sum(x.square().mean() for x in maps.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**{name: x.detach() for name, x in maps.items()}, "images": images.grad, **gradients}


def calls_of_norms(model: nn.Module, run: Callable[[], object]) -> int:
    """The number of calls of norms during `run`; folded norms are not called."""
    called: list[str] = []
    forwards = [(m, type(m).forward) for m in model.modules() if isinstance(m, FrozenBatchNorm | nn.BatchNorm2d)]
    for module, forward in forwards:
        module.forward = lambda x, m=module, f=forward: called.append("norm") or f(m, x)
    run()
    for module, _ in forwards:
        del module.forward
    return len(called)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("name", FAMILIES)
def test_folded_networks_have_the_same_feature_maps_and_gradients(name, norm):
    """In float32 only feature maps are compared: in deep networks, rounding flips ReLUs, which changes gradients."""
    model = randomize(BACKBONES.build(thin({"type": name, "norm": norm, "out": ["c2", "c3"]}))).eval()
    images = torch.randn(1, 3, 32, 48)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        model, images = model.to(dtype), images.to(dtype)
        folded = step(model, images)
        with one_after_the_other(model):
            plain = step(model, images)
        assert folded.keys() == plain.keys() > {"images", *(key for key, _ in model.named_parameters())}
        for key in folded if dtype == torch.float64 else model.out_features:
            assert_close(folded[key], plain[key], key, tolerance)


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("resnet18", 0),
        ("resnet50d", 0),  # covers the deep stem and pooled shortcuts
        ("resnetrs50", 0),
        ("seresnet18", 0),
        ("resnet20_cifar", 0),
        ("highway20_cifar", 0),
        ("preact_resnet50", 16 + 1),  # each block's first norm and the network's last norm follow no convolution
        ("wrn16_4_cifar", 6 + 1),
        ("densenet121", 58 + 3 + 1),  # the first norm of each layer, the norms of the transitions, and the last norm
    ],
)
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@torch.no_grad()
def test_every_norm_directly_after_a_convolution_is_folded(name, alone, norm):
    model = BACKBONES.build(thin({"type": name, "norm": norm})).eval()
    assert calls_of_norms(model, lambda: model(torch.randn(1, 3, 64, 64))) == alone


def test_frozen_norms_are_folded_in_training_and_batch_norms_are_not():
    for norm, frozen_stages, alone in (("FrozenBN", -1, 0), ("BN", -1, 20), ("BN", 1, 15)):
        config = thin({"type": "resnet18", "norm": norm, "frozen_stages": frozen_stages})
        model = BACKBONES.build(config).train()
        assert calls_of_norms(model, lambda model=model: model(torch.randn(2, 3, 64, 64))) == alone


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", None])
def test_a_folded_fpn_has_the_same_feature_maps_and_gradients(norm):
    specs = {f"c{i}": FeatureSpec(4 * i, 2**i) for i in range(2, 6)}
    fpn = randomize(FPN(specs, 8, norm=norm)).double().eval()
    maps = {f"c{i}": torch.randn(2, 4 * i, 2 ** (7 - i), 2 ** (7 - i), dtype=torch.float64) for i in range(2, 6)}
    folded = fpn(maps)
    with one_after_the_other(fpn):
        plain = fpn(maps)
    for level in plain:
        assert_close(folded[level], plain[level], level, 1e-10)
    assert calls_of_norms(fpn, lambda: fpn(maps)) == 0


@pytest.mark.parametrize(
    "norm",
    ["FrozenBN", {"type": "FrozenBN", "eps": 0.0}, "BN", "SyncBN", {"type": "BN", "affine": False}, "GN", None],
    ids=str,
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "options", [{"groups": 4}, {"dilation": 2, "padding": 2}, {"stride": 2, "padding_mode": "reflect", "padding": 1}]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=str)
def test_a_folded_pair_equals_the_convolution_followed_by_the_norm(norm, bias, options, dtype, tolerance):
    conv = nn.Conv2d(8, 32, 3, bias=bias, **options)
    pair = randomize(ConvNorm(conv, make_norm(norm, 32))).to(dtype).eval()
    x = torch.randn(2, 8, 9, 11, dtype=dtype, requires_grad=True)
    y, expected = pair(x), pair[1](pair[0](x))
    assert_close(y, expected, "output", tolerance)
    variables = {"input": x, **dict(pair.named_parameters())}
    gradients = [torch.autograd.grad(z.square().sum(), list(variables.values())) for z in (y, expected)]
    for name, ours, theirs in zip(variables, *gradients, strict=True):
        assert_close(ours, theirs, name, tolerance)


def test_the_state_dict_equals_that_of_nn_sequential():
    layers = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
    assert ConvNorm(*layers).state_dict().keys() == nn.Sequential(*layers).state_dict().keys()


def test_a_changed_statistic_changes_the_output_at_once():
    pair = ConvNorm(nn.Conv2d(3, 4, 1), FrozenBatchNorm(4))
    x = torch.randn(1, 3, 5, 5)
    before = pair(x)
    pair[1].bias.add_(1)
    torch.testing.assert_close(pair(x), before + 1)


def test_batch_norms_without_statistics_normalize_each_batch():
    pair = ConvNorm(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    y = pair(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_of_both_modules_are_called(place, kind):
    pair, called = ConvNorm(nn.Conv2d(3, 4, 1), FrozenBatchNorm(4)), []
    x = torch.randn(1, 3, 5, 5)
    expected = pair(x)
    getattr(pair[place], f"register_{kind}")(lambda *_: called.append(kind))
    y = pair(x.requires_grad_())
    y.sum().backward()
    assert called == [kind]
    torch.testing.assert_close(y, expected)


def test_subclasses_of_conv2d_keep_their_forward():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    conv, norm, x = Doubled(3, 4, 1), randomize(FrozenBatchNorm(4)), torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(conv_norm(conv, norm, x), norm(conv(x)))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_output_has_autocasts_dtype(requires_grad):
    pair = randomize(ConvNorm(nn.Conv2d(3, 4, 3, bias=False), FrozenBatchNorm(4)))
    x = torch.randn(2, 3, 9, 9, requires_grad=requires_grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = pair(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), pair(x), rtol=0.02, atol=0.05)
    if requires_grad:
        y.float().sum().backward()
        assert pair[0].weight.grad.dtype == torch.float32


def test_half_precision_weights_keep_their_dtype():
    pair = randomize(ConvNorm(nn.Conv2d(3, 4, 3, bias=False).bfloat16(), FrozenBatchNorm(4)))
    assert pair(torch.randn(2, 3, 9, 9, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_convolution_and_norm_keep_channels_last(norm):
    pair = ConvNorm(nn.Conv2d(3, 4, 3), make_norm(norm, 4)).eval().to(memory_format=torch.channels_last)
    y = pair(torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["resnet50d", *slow("preact_resnet50", "densenet121")])
def test_frozen_networks_compile_as_one_graph_and_are_exported(name):
    config = thin({"type": name, "norm": "FrozenBN", "out": ["c2"], "frozen_stages": 0})
    model = randomize(BACKBONES.build(config)).train()
    images = torch.randn(2, 3, 64, 64)
    plain = model(images)["c2"]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (model, compiled):
        y = run(images)["c2"]
        assert_close(y, plain, "c2", 1e-5)
        model.zero_grad()
        y.square().mean().backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    for key in gradients[0]:
        assert_close(gradients[1][key], gradients[0][key], key, 1e-4)
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(model.eval(), (images,), dynamic_shapes={"images": {0: batch}})
    with torch.no_grad():
        assert_close(exported.module()(images[:1])["c2"], plain[:1], "exported", 1e-5)


@torch.no_grad()
def test_eight_threads_compute_the_feature_maps_of_one():
    model = randomize(BACKBONES.build({"type": "resnet18", "out": ["c2"]})).eval()
    images = torch.randn(16, 1, 3, 32, 32)
    expected = [model(image)["c2"] for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(torch.equal, pool.map(lambda image: model(image)["c2"], images), expected))


def test_folded_frozen_norms_save_no_activation_for_the_backward_pass():
    pair = ConvNorm(nn.Conv2d(4, 4, 1), randomize(FrozenBatchNorm(4)))
    x = torch.randn(2, 4, 32, 32)
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pair(x)
    assert [count for count in kept.values() if count >= x.numel()] == [x.numel()]  # only the convolution's input
