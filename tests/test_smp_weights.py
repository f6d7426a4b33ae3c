"""Loads checkpoints of segmentation_models.pytorch (smp) and folders of its `save_pretrained`; logits equal smp's."""

import copy
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from backbone_referee import without_init
from test_semantic_smp import randomize_norms

import chordate
from chordate.config import load_config
from chordate.errors import CheckpointError, ConfigError
from chordate.weights.checkpoint_conversion import recognized_config, restored
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.find_weights import find_weights

NETWORKS = ["Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "Linknet", "MAnet"]


def their_model(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    theirs = getattr(smp, name)("resnet18", encoder_weights=None, classes=3)
    randomize_norms(theirs)
    return theirs.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_save_pretrained_gives_smps_logits_and_is_written_back(name, tmp_path):
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path)
    contents = read_state(tmp_path)
    with without_init():
        ours = chordate.build_model(load_config(*recognized_config(find_weights(contents))), checkpoint=contents)
    report = ours.load_report
    assert report.format == "smp" and not report.skipped and not report.missing
    again = copy.deepcopy(theirs)
    for parameter in again.parameters():
        torch.nn.init.zeros_(parameter)
    again.load_state_dict(restored(ours, "smp"))  # strict
    images, sizes = torch.rand(1, 3, 96, 64, dtype=torch.float64) * 255, torch.tensor([[96, 64]])
    with torch.no_grad():
        normalized = ours.double().preprocess(images, sizes)
        expected = theirs.double()(normalized)
        assert expected.std() > 1e-4
        torch.testing.assert_close(ours.logits(images, sizes).double(), expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(again.double()(normalized), expected, atol=0, rtol=0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> dict[str, Any]:
    """The contents of a folder that `save_pretrained` wrote for smp's Unet."""
    folder = tmp_path_factory.mktemp("unet")
    their_model("Unet").save_pretrained(folder)
    return dict(read_state(folder))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"decoder_channels": "abc"}, "config.json: "),
        ({"decoder_channels": [3, 3]}, "config.json: "),
        ({"decoder_channels": [10**6] * 5}, "config.json describes another network"),
        ({"decoder_channels": [10**18] * 5}, "config.json: "),
        ({"decoder_attention_type": "nonsense"}, "config.json: "),
        ({"decoder_use_norm": {"type": "nonsense"}}, "config.json: "),
        ({"decoder_use_batchnorm": False}, "config.json describes another network"),
        ({"encoder_depth": 3}, "config.json: "),
        ({"encoder_depth": None}, "config.json: "),
        ({"activation": "nonsense"}, "config.json: "),
        ({"encoder_name": "resnet18/../x"}, 'the encoder "resnet18/../x" has no counterpart in Chordate'),
        ({"encoder_name": "resnet34"}, "config.json describes another network"),
        ({"_model_class": "Unet" * 3}, "config.json: smp cannot build the network: unknown architecture"),
        ({"_model_class": ["Unet"]}, "config.json: smp cannot build the network: unknown architecture"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The usage of decoder_use_batchnorm")
def test_a_config_that_does_not_fit_the_weights_is_one_line(pretrained, changed, message):
    contents = {**pretrained, "config": pretrained["config"] | changed}
    with pytest.raises(CheckpointError) as caught:
        recognized_config(find_weights(contents))
    error = str(caught.value)
    assert f"tensor names of smp, but its architecture cannot be determined ({message}" in error and "\n" not in error


def test_only_the_arguments_of_the_network_are_in_the_config(pretrained):
    code = "a=__import__('pathlib').Path('executed').touch(), b"
    contents = {**pretrained, "config": pretrained["config"] | {"foo": 1, code: 1, "self": 2, "kwargs": {}}}
    assert recognized_config(find_weights(contents)) == recognized_config(find_weights(pretrained))


def test_a_bare_state_dict_loads_into_the_same_model(tmp_path):
    theirs = their_model("Unet")
    backbone = {"type": "resnet18", "out": "all"}
    head = {"type": "SmpDecoder", "architecture": "unet", "encoder": "resnet18"}
    model = {"type": "SemanticSegmenter", "backbone": backbone, "head": head, "size_divisor": 32}
    torch.save({f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}, tmp_path / "unet.pth")
    ours = chordate.build_model({"model": model}, num_classes=3, checkpoint=tmp_path / "unet.pth")
    assert torch.equal(ours.head.logits[0].weight, theirs.segmentation_head[0].weight)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "unett"}, 'did you mean "unet"'),
        ({"encoder": "resnet50"}, "has .64, 256, 512, 1024, 2048. channels, but the backbone's c1, c2, c3, c4, c5"),
        ({"encoder": "resnet17"}, "unknown encoder"),
    ],
)
def test_what_does_not_fit_smp_is_one_line(changed, message):
    head = {"type": "SmpDecoder", "architecture": "unet", "encoder": "resnet18"} | changed
    model = {"type": "SemanticSegmenter", "backbone": {"type": "resnet18", "out": "all"}, "head": head}
    with pytest.raises(ConfigError, match=message):
        chordate.build_model({"model": model}, num_classes=3, pretrained=False)
