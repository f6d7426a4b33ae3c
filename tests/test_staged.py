"""What every backbone of stages promises, held by the smallest of each family."""

import copy
import inspect
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from backbone_referee import assert_close, on_meta, randomise
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import chordate
from chordate.backbones.staged import StagedBackbone
from chordate.checkpoints.source import torchvision_url
from chordate.contracts import check_outputs
from chordate.errors import ConfigError
from chordate.registry import BACKBONES

FAMILIES = ["resnet18", "resnet18d", "resnext50_32x4d", "wide_resnet50_2", "seresnet18", "resnetrs50"]
FAMILIES += ["resnet20_cifar", "preact_resnet50", "wrn16_4_cifar", "highway20_cifar"]
FIRST = ("c2", "c3")  # two stages show what more would


def takes(option: str) -> list[str]:
    """The families that have a setting of this name."""
    BACKBONES.names()
    classes = {name: BACKBONES.module_dict[BACKBONES.expand(name)["type"]] for name in FAMILIES}
    return [name for name, cls in classes.items() if option in inspect.signature(cls).parameters]


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return randomise(BACKBONES.build({"type": name, "out": FIRST, **options}))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request) -> tuple[str, nn.Module]:
    """A family's name and its smallest network with every map it can give, in evaluation; not to be changed."""
    cls = BACKBONES.module_dict[BACKBONES.expand(request.param)["type"]]
    return request.param, build(request.param, out=cls.maps).eval()


def train_step(model: nn.Module, images: Tensor, run: Callable | None = None) -> dict[str, dict[str, Tensor]]:
    """What one training step leaves: outputs, gradients, buffers. The random numbers are the same in every call."""
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


def test_any_maps_asked_for_are_those_of_the_whole_network_and_nothing_more_is_built(whole):
    name, model = whole
    assert isinstance(model, StagedBackbone)
    images = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        full = model(images)
    assert list(full) == list(model.maps) == list(model.out_features)
    for out in [*([map_name] for map_name in model.maps), [model.maps[-1], model.maps[0]], list(model.maps[1:])]:
        part = on_meta(name, out=out).eval()
        part(images.to("meta"))[max(out)].sum().backward()
        idle = [key for key, parameter in part.named_parameters() if parameter.grad is None]
        assert not idle, f"{out} is given without {idle}"
        assert not part.load_state_dict(model.state_dict(), strict=False, assign=True).missing_keys
        with torch.no_grad():
            maps = part(images)
        assert list(maps) == sorted(out)  # fine to coarse, in whatever order they were asked for
        assert all(torch.equal(maps[key], full[key]) for key in maps)


def test_channels_last_images_give_the_same_maps_in_that_format(whole):
    _, model = whole
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain, last = model(images), model(images.contiguous(memory_format=torch.channels_last))
    for name in plain:
        assert last[name].is_contiguous(memory_format=torch.channels_last), name
        assert_close(last[name], plain[name], name, 1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_in_channels_last_keeps_the_format(name):
    model = build(name).to(memory_format=torch.channels_last).train()
    maps = model(torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    assert all(map_.is_contiguous(memory_format=torch.channels_last) for map_ in maps.values())


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_stages_have_no_gradients_and_still_statistics(name, stages):
    model = build(name, frozen_stages=stages).train()
    frozen = set(on_meta(name, out=[f"c{stages + 1}"]).state_dict())  # the stem and so many stages
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


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_keeps_less_and_changes_no_number(name, drop_path):
    options = {"drop_path": drop_path} if name in takes("drop_path") else {}
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
    assert_same_results(steps[1], steps[0])  # BatchNorms count one batch, though they saw it twice
    assert kept[1] < 0.8 * kept[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_training_with_checkpointing_and_stochastic_depth_compiles_as_one_graph(name):
    options = {"drop_path": 0.5} if name in takes("drop_path") else {}
    images = torch.randn(4, 3, 32, 32)
    plain = build(name, out=["c2"], **options).train()
    model = build(name, out=["c2"], checkpointing=True, **options).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_results(train_step(model, images, compiled), train_step(plain, images))


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_compiles_as_one_graph(name):
    model = build(name).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        compiled, plain = torch.compile(model, fullgraph=True, backend="aot_eager")(images), model(images)
    for key in plain:
        assert_close(compiled[key], plain[key], key, 1e-5)


@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize("name", FAMILIES)
def test_weights_for_rgb_are_adapted_to_other_images(name, channels):
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
    with torch.no_grad():  # a gray image is the same image, however many channels it is spread over
        maps = [m(image.expand(-1, count, -1, -1)) for m, count in ((model, channels), (rgb, 3))]
    if channels != 4:  # 3 does not go evenly into 4
        for key in maps[1]:
            assert_close(maps[0][key], maps[1][key], key, 1e-4)


@pytest.mark.parametrize("name", takes("drop_path"))
def test_stochastic_depth_grows_linearly_from_nothing_to_the_rate(name):
    """Huang et al. 2016, equation 4, with the first block counted as 0."""
    rates = [part.p for part in on_meta(name, drop_path=0.3).modules() if isinstance(part, StochasticDepth)]
    blocks = len(rates) + 1
    assert blocks > 4
    assert rates == pytest.approx([0.3 * i / (blocks - 1) for i in range(1, blocks)])
    fewer = [part.p for part in on_meta(name, drop_path=0.3, out=FIRST).modules() if isinstance(part, StochasticDepth)]
    assert fewer == rates[: len(fewer)]


def test_default_weights_are_on_offer():
    known = set(timm.list_pretrained())
    for name in BACKBONES.names():
        source = BACKBONES.expand(name).get("default_weights")
        scheme, _, rest = (source or "").partition("://")
        assert scheme in ("", "torchvision", "timm"), name
        if scheme == "torchvision":
            assert torchvision_url(rest).startswith("https://")
        elif scheme == "timm":
            assert rest in known, name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"out": ["c9"]}, 'map "c9"; '),
        ({"out": "c5"}, "at least one map"),
        ({"frozen_stages": 9}, "frozen_stages=9"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_wrong_setting_is_named_in_one_line(name, options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        on_meta(name, **options)
    assert "\n" not in str(caught.value)
