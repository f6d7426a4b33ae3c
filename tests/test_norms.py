"""Normalization layers against torch's layers and torchvision's FrozenBatchNorm2d."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.norms import ConvNorm, FrozenBatchNorm, conv_norm, make_norm
from chordate.registry import HEADS


def randomized(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, tensor in norm.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + (0.5 if name == "running_var" else -0.5))
    return norm


def test_config_names_build_torchs_norm_layers():
    assert type(make_norm("BN", 8)) is nn.BatchNorm2d
    assert type(make_norm("SyncBN", 8)) is nn.SyncBatchNorm
    assert type(make_norm("FrozenBN", 8)) is FrozenBatchNorm
    assert make_norm("GN", 64).num_groups == 32
    assert type(make_norm(None, 8)) is nn.Identity


def test_a_dict_sets_the_arguments_of_the_norm_layer_and_is_not_modified():
    config = {"type": "GN", "groups": 4}
    assert make_norm(config, 8).num_groups == 4
    assert make_norm({"type": "FrozenBN", "eps": 0.0}, 8).eps == 0.0
    assert make_norm({"type": "BN", "momentum": 0.01}, 8).momentum == 0.01
    assert config == {"type": "GN", "groups": 4}


@pytest.mark.parametrize(
    ("norm", "message"),
    [("BatchNorm", "unknown norm"), ("GN", "divisible"), ({"type": "BN", "gamma": 1}, "gamma"), ({}, "unknown norm")],
)
def test_an_invalid_norm_is_a_config_error(norm, message):
    with pytest.raises(ConfigError, match=message):
        make_norm(norm, 30)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels", [32, 64])
def test_group_norm_of_one_value_per_channel_is_that_of_each_image_in_a_larger_batch(channels, training):
    """torch refuses GroupNorm of one image with one value per group. GroupNorm does not mix images, so a batch of two
    gives the reference."""
    layers = ConvNorm(nn.Conv2d(3, channels, 1), randomized(make_norm("GN", channels)), nn.ReLU()).train(training)
    x = torch.randn(2, 3, 1, 1)
    torch.testing.assert_close(layers(x[:1]), nn.Sequential(*layers)(x)[:1])
    torch.testing.assert_close(conv_norm(layers[0], layers[1], x[:1]), layers[1](layers[0](x))[:1])


@pytest.mark.parametrize("training", [False, True])
def test_a_semantic_fpn_with_as_many_channels_as_groups_runs_on_a_small_image(training):
    maps = {f"c{level}": torch.randn(1, 8, 2 ** (5 - level), 2 ** (5 - level)) for level in (4, 5)}
    specs = {name: FeatureSpec(8, 32 // x.shape[-1]) for name, x in maps.items()}
    head = HEADS.build({"type": "SemanticFPNHead", "in_features": specs, "num_classes": 3, "channels": 32})
    assert head.train(training)(maps).shape == (1, 3, 2, 2)


@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("with_grad", [False, True], ids=["inference", "training"])
def test_frozen_batch_norm_equals_torchvisions(eps, with_grad):
    theirs = randomized(FrozenBatchNorm2d(6, eps=eps)).double()
    ours = FrozenBatchNorm(6, eps=eps).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64, requires_grad=with_grad)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    if with_grad:
        grads = [torch.autograd.grad(norm(x).square().sum(), x)[0] for norm in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_frozen_batch_norm_equals_batch_norm_in_eval_mode_and_loads_its_state_dict():
    theirs = randomized(nn.BatchNorm2d(6)).eval()
    ours = FrozenBatchNorm(6).train()
    assert ours.load_state_dict(theirs.state_dict()).unexpected_keys == []
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x))
    assert not list(ours.parameters())


def test_frozen_batch_norm_keeps_the_dtype_under_autocast():
    norm = randomized(FrozenBatchNorm(6))
    for requires_grad in (False, True):
        x = torch.randn(2, 6, 5, 7, dtype=torch.bfloat16, requires_grad=requires_grad)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = norm(x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), norm(x.float().detach()), rtol=0.02, atol=0.02)


def test_frozen_batch_norm_saves_no_activation_for_the_backward_pass():
    norm = randomized(FrozenBatchNorm(6))
    x = torch.randn(2, 6, 32, 32, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        norm(x)
    assert max(saved, default=0) <= 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_folded_norms_in_bfloat16_on_the_gpu_match_float32_outputs_and_gradients(kernel, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, kernel, stride, padding=kernel // 2, bias=False).cuda()
    norm = FrozenBatchNorm(32).cuda()
    norm.weight.uniform_(0.5, 2), norm.bias.normal_(), norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 16, 9, 11, device="cuda").bfloat16().contiguous(memory_format=torch.channels_last)
    results = []
    for half in (True, False):
        inputs = (x if half else x.float()).clone().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            out = conv_norm(conv, norm, inputs) if half else norm(conv(inputs))
        out.float().square().mean().backward()
        results.append([out.float(), inputs.grad.float(), conv.weight.grad])
        conv.weight.grad = None
    for folded, plain in zip(*results):
        assert (folded - plain).abs().max() <= 0.02 * plain.abs().max()


@pytest.mark.parametrize("folded", [False, True])
def test_a_trainable_frozen_norm_has_the_gradients_of_a_batch_norm_in_eval_mode(folded):
    conv = nn.Conv2d(3, 8, 3)
    ours, theirs = FrozenBatchNorm(8, trainable=True), nn.BatchNorm2d(8).eval()
    theirs.load_state_dict(randomized(ours).state_dict(), strict=False)
    x = torch.randn(2, 3, 6, 6)
    (conv_norm(conv, ours, x) if folded else ours(conv(x))).square().sum().backward()
    theirs(conv(x)).square().sum().backward()
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(ours, name).grad, getattr(theirs, name).grad, rtol=1e-4, atol=1e-4)
    assert not [*FrozenBatchNorm(8).parameters()]
