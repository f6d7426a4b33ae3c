"""Compares a backbone's feature maps and training step with those of a reference that has the same random weights."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from chordate.registry import BACKBONES


def slow(*values: Any) -> list[Any]:
    """Values for `parametrize` whose tests run only with `pytest -m slow`."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def thin(config: dict[str, Any]) -> dict[str, Any]:
    """The config with about a quarter of the backbone's usual channels, if the backbone has a setting for them."""
    accepted = inspect.signature(BACKBONES.get(BACKBONES.expand(config)["type"])).parameters
    settings = {"base_channels": 16, "growth": 8, "widen": 1}
    return {**{name: value for name, value in settings.items() if name in accepted}, **config}


@contextlib.contextmanager
def without_init() -> Iterator[None]:
    """A context in which random initialization writes zeros instead, which is faster."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("normal_", "uniform_"):
            patch.setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor.zero_())
        for name in ("erfinv_", "clamp_"):  # slow steps of `trunc_normal_`, skipped
            patch.setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor)
        yield


def on_meta(name: str, **options: Any) -> nn.Module:
    """A backbone on the meta device, for tests that need only shapes or that assign other tensors to it."""
    with torch.device("meta"):
        return BACKBONES.build({"type": name, **options})


@torch.no_grad()
def randomize(model: nn.Module) -> nn.Module:
    """Fill every parameter and running statistic with values under which activations neither vanish nor explode.

    BatchNorms get means and variances that differ from 0 and 1, as in trained networks, so that a wrong `eps`, a wrong
    order of layers or swapped norms change the result. `num_batches_tracked` is set to 0. Other integer buffers keep
    their values, so a model moved from the meta device must not have any.
    """
    for module in model.modules():
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if name == "running_var":
                value.uniform_(0.8, 1.5)
            elif name == "num_batches_tracked":
                value.zero_()
            elif not value.is_floating_point():  # keeps integer buffers, such as Swin's relative_position_index
                continue
            elif value.dim() >= 2:
                nn.init.kaiming_normal_(value)
            elif name == "weight":  # 1-D weights are those of norms
                value.uniform_(0.5, 1.0)
            else:
                value.normal_(0, 0.1)
    return model


def referee(build: Callable[[], nn.Module]) -> nn.Module:
    """The model that `build` returns, with random weights; built on the meta device to skip its initialization."""
    with torch.device("meta"):
        model = build()
    return randomize(model.to_empty(device="cpu"))


def timms(name: str) -> nn.Module:
    """The timm network `name` with random weights."""
    on_meta = not name.startswith(("swin", "vit"))
    if on_meta:
        whole = referee(lambda: timm.create_model(name))
    else:
        with without_init():
            whole = timm.create_model(name)
        randomize(whole)
    for part, value in whole.named_parameters():
        if part.endswith("gamma"):
            nn.init.uniform_(value, 0.3, 1.0)  # with layer scale's initial 1e-6, blocks would hardly affect the output
    return whole


def with_weights_of(theirs: nn.Module, name: str, classifier: Sequence[str] = ("fc.",), **options: Any) -> nn.Module:
    """Our backbone `name` with the weights of `theirs`; tensor names must be equal, except for the classifier's."""
    ours = on_meta(name, **options)
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    left = ours.load_state_dict(state, strict=False, assign=True)
    assert not left.missing_keys
    assert all(key.startswith(tuple(classifier)) for key in left.unexpected_keys), left.unexpected_keys
    return ours


def assert_same_names_and_shapes(ours: nn.Module, theirs: nn.Module, classifier: Sequence[str] = ("fc.",)) -> None:
    """Check that both state dicts have equal names and shapes, except for the classifier; works on the meta device."""
    shapes = [{name: tuple(value.shape) for name, value in m.state_dict().items()} for m in (ours, theirs)]
    shapes[1] = {name: shape for name, shape in shapes[1].items() if not name.startswith(tuple(classifier))}
    assert shapes[0] == shapes[1]


def extractor(theirs: nn.Module, nodes: Mapping[str, str]) -> nn.Module:
    """A feature extractor of `theirs`; `nodes` maps its module names to the names of our feature maps."""
    return create_feature_extractor(theirs, dict(nodes))


def assert_close(ours: Tensor, theirs: Tensor, what: str, tolerance: float) -> None:
    """Check that the largest difference is at most `tolerance` times the largest absolute value of `theirs`.

    This value must be finite and > 0.
    """
    assert ours.shape == theirs.shape, what
    scale = torch.linalg.vector_norm(theirs, torch.inf)
    assert 0 < scale < torch.inf, f"{what}: nothing to compare"
    difference = torch.dist(ours, theirs, torch.inf) / scale
    assert difference <= tolerance, f"{what}: {difference:.2e} of the largest value"


def assert_same_maps(
    ours: nn.Module, theirs_extractor: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor, tolerance: float = 1e-4
) -> None:
    """Check that both models return the same feature maps in eval mode, with the same names and order."""
    for model in (ours, theirs_extractor):
        if isinstance(model, nn.Module):
            model.eval()
    with torch.no_grad():
        maps, expected = ours(images), theirs_extractor(images)
    assert list(maps) == list(expected)
    for name in maps:
        assert_close(maps[name], expected[name], name, tolerance)


def assert_same_step(
    ours: nn.Module,
    theirs_extractor: nn.Module,
    images: Tensor,
    tolerance: float = 1e-4,
    *,
    last: str = "c5",
    dtype: torch.dtype = torch.float64,
) -> None:
    """Check that one training step yields the same gradients for every parameter and the same running statistics.

    Both models are converted to `dtype`. Float32 is faster, but deep networks amplify rounding, so use it only where
    both run exactly the same operations.
    """
    for model in (ours, theirs_extractor):
        model.to(dtype).train()(images.to(dtype))[last].square().mean().backward()
    theirs = dict(theirs_extractor.named_parameters())
    assert {name for name, _ in ours.named_parameters()} == set(theirs)
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, theirs[name].grad, name, tolerance)
    state = theirs_extractor.state_dict()
    for name, buffer in ours.named_buffers():
        assert_close(buffer.double(), state[name].double(), name, tolerance)


def size(name: str, image_size: int = 224, classes: int = 1000, **options: Any) -> tuple[float, float]:
    """Parameters in millions and multiply-adds in billions, counted with a linear classifier as in the papers."""
    backbone = on_meta(name, out=["c5"], **options).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.empty(1, 3, image_size, image_size, device="meta"))
    classifier = backbone.out_features["c5"].channels * classes
    parameters = sum(p.numel() for p in backbone.parameters()) + classifier + classes
    return parameters / 1e6, (counter.get_total_flops() / 2 + classifier) / 1e9
