"""DenseNet and ConvNeXt equal torchvision's networks after loading their state dicts."""

import pytest
import timm
import torch
import torchvision
from backbone_referee import assert_close, assert_same_maps, extractor, on_meta, randomize, referee, slow, without_init
from torch import nn

import chordate
from chordate.contracts import check_outputs
from chordate.errors import ConfigError
from chordate.registry import BACKBONES
from chordate.weights.candidates import formats
from chordate.weights.loading import load_checkpoint


def in_our_names(state):
    """Converts torchvision's state dict to our parameter names."""
    (format,) = [one for one in formats() if one.library == "torchvision" and one.recognizes(state)]
    return format.convert(state, None)


DENSE_NODES = {
    "features.relu0": "c1",
    "features.denseblock1.cat": "c2",
    "features.denseblock2.cat": "c3",
    "features.denseblock3.cat": "c4",
    "relu": "c5",
}
CONVNEXT_NODES = {f"features.{2 * i + 1}": f"c{i + 2}" for i in range(4)}


def pair(name: str, nodes: dict[str, str], **options) -> tuple[nn.Module, nn.Module]:
    theirs = referee(lambda: torchvision.models.get_model(name, weights=None))
    for part, value in theirs.named_parameters():
        if part.endswith("layer_scale"):
            nn.init.uniform_(value, 0.3, 1.0)  # with layer scale's initial 1e-6, blocks would hardly affect the output
    with without_init():
        ours = BACKBONES.build({"type": name, "out": list(nodes.values()), **options})
    report = load_checkpoint(ours, theirs.state_dict())
    assert report.format == "torchvision" and not report.missing
    assert all(part.startswith("classifier") for part in report.skipped)
    if "densenet" in name:  # the wrapper `Dense` makes tracing the model unnecessary
        return ours, Dense(theirs)
    return ours, extractor(theirs, nodes)


class Dense(nn.Module):
    """Wraps torchvision's DenseNet to return the feature maps that ours returns."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images):
        maps, x = {}, images
        for name, part in self.net.features.named_children():
            x = part(x)
            if name == "relu0" or name.startswith("denseblock"):
                maps[f"c{len(maps) + 1}"] = x.clone()
        maps["c5"] = x.relu()
        return maps


@pytest.mark.parametrize("name", ["densenet121", *slow("densenet161", "densenet169", "densenet201")])
def test_every_feature_map_of_densenet_equals_torchvisions(name):
    assert_same_maps(*pair(name, DENSE_NODES), torch.randn(1, 3, 64, 96))


@pytest.mark.parametrize("name", ["convnext_tiny", *slow("convnext_base", "convnext_small", "convnext_large")])
def test_every_feature_map_of_convnext_equals_torchvisions(name):
    assert_same_maps(*pair(name, CONVNEXT_NODES), torch.randn(1, 3, 64, 96))


def test_convnext_at_output_stride_16_equals_timms():
    """At output stride 8, timm's last 2×2 convolution samples other positions, so `test_backbones.py` compares our
    dilated network with our strided one."""
    theirs = referee(lambda: timm.create_model("convnext_tiny", output_stride=16)).eval()
    for part, value in theirs.named_parameters():
        if part.endswith("gamma"):
            nn.init.uniform_(value, 0.3, 1.0)
    with without_init():
        ours = BACKBONES.build({"type": "convnext_tiny", "output_stride": 16}).eval()
    assert load_checkpoint(ours, theirs.state_dict()).format == "timm"
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, intermediates_only=True)
        for map_, wanted in zip(ours(images).values(), expected, strict=True):
            assert_close(map_, wanted, "map", 1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "densenet121", "convnext_tiny",
        *slow("densenet161", "densenet169", "densenet201", "convnext_small", "convnext_base", "convnext_large"),
    ],
)  # fmt: skip
def test_a_densenet_or_convnext_training_step_equals_torchvisions(name):
    ours, theirs = pair(name, DENSE_NODES if "densenet" in name else CONVNEXT_NODES)
    images = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    state = {}
    for model in (ours, theirs):
        if model is theirs and "convnext" in name:
            for part in model.modules():
                if isinstance(part, torchvision.ops.StochasticDepth):
                    part.p = 0.0
        model.double().train()(images)["c5"].square().mean().backward()
        named = {key.removeprefix("net."): p.grad for key, p in model.named_parameters() if p.grad is not None}
        state[model is ours] = named if model is ours else in_our_names(named)
    for key, gradient in state[True].items():
        assert_close(gradient, state[False][key], key, 1e-4)
    assert len(state[True]) == len(list(ours.parameters()))
    if "densenet" in name:
        theirs_state = theirs.net.state_dict()
        for key, buffer in ours.named_buffers():
            torch.testing.assert_close(buffer, theirs_state[f"features.{key}"])


@pytest.mark.parametrize("name", ["densenet121", "convnext_tiny"])
def test_densenet_and_convnext_classifiers_with_torchvisions_weights_have_its_scores(name):
    theirs = referee(lambda: torchvision.models.get_model(name, weights=None))
    for part, value in theirs.named_parameters():
        if part.endswith("layer_scale"):
            nn.init.uniform_(value, 0.3, 1.0)
    head = {"type": "ClassificationHead", "norm": "LN" if "convnext" in name else None}
    config = {"type": "ImageClassifier", "backbone": name, "head": head}
    with without_init():
        model = chordate.build_model(config, num_classes=1000, pretrained=False)
    report = load_checkpoint(model, theirs.state_dict())
    assert not report.skipped and not report.missing
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(model.eval().logits(images), theirs.eval()(images), "scores", 1e-4)


def test_densenet_files_with_older_tensor_names_load():
    ours = on_meta("densenet121")
    with torch.device("meta"):
        theirs = torchvision.models.densenet121(weights=None).state_dict()
    old = {
        name.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.")
        if "denselayer" in name
        else name: value
        for name, value in theirs.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    converted = in_our_names(old)
    assert set(ours.state_dict()) <= set(converted)


def test_cifars_densenet_has_strides_1_2_and_4():
    model = on_meta("densenet100_12_cifar", out=["c1", "c2", "c3", "c4"])
    check_outputs(model)
    assert [spec.stride for spec in model.out_features.values()] == [1, 1, 2, 4]


def test_detectors_get_a_norm_on_every_feature_map():
    model = randomize(BACKBONES.build({"type": "convnext_tiny", "out": ["c2", "c3"], "out_norm": True})).eval()
    bare = BACKBONES.build({"type": "convnext_tiny", "out": ["c2", "c3"]}).eval()
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("out_norm")})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for name, x in bare(images).items():
            norm = model.out_norm[name]
            y = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
            y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
            torch.testing.assert_close(model(images)[name], y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "ConvNeXt", "size": "tini"}, 'did you mean "tiny"'),
        ({"type": "DenseNet", "blocks": []}, "at least 1 item"),
        ({"type": "densenet121", "compression": 0}, "> 0"),
        ({"type": "convnext_tiny", "out": ["c1"]}, 'unknown ConvNeXt-tiny feature map "c1"'),
    ],
)
def test_a_wrong_setting_of_densenet_or_convnext_is_a_one_line_error(options, message):
    with pytest.raises(ConfigError, match=message):
        BACKBONES.build(options)
