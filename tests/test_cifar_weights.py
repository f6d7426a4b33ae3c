"""CIFAR ResNets of four repositories: tensor names, zero padding of option A, mean and std; published accuracy."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from backbone_referee import randomize

import chordate
from chordate.backbones.layers import ZeroPadShortcut
from chordate.cli.main import main
from chordate.config import load_config
from chordate.errors import CheckpointError
from chordate.weights.checkpoint_conversion import recognized_config, restored
from chordate.weights.find_weights import find_weights
from chordate.weights.loading import load_checkpoint

REPOSITORY = "pytorch_resnet_cifar10"
SHARED = Path(os.environ.get("CHORDATE_TEST_DATA", "../shared/data"))
NETWORKS, IMAGES = SHARED.parent / "weights", SHARED / "cifar10.zip"
needs_networks = pytest.mark.skipif(not (NETWORKS.is_dir() and IMAGES.is_file()), reason=f"no {NETWORKS} or {IMAGES}")
# For each file of weights, the config of its repository, and its top-1 accuracy (%) in the folder's README.
REAL = {
    "resnet20-12fca82f.th": ("resnet20_cifar10-akamaster", 81.0),
    "resnet56-4bfd9763.th": ("resnet56_cifar10-akamaster", 83.2),
    "distiller-resnet20-dense.pth.tar": ("resnet20_cifar10-distiller", 80.75),
}


def test_centered_zeros_are_half_before_and_half_after():
    """github.com/akamaster/pytorch_resnet_cifar10, resnet.py: planes // 4 zeros on each side."""
    x = torch.rand(2, 16, 8, 8)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 32 // 4, 32 // 4))
    assert torch.equal(ZeroPadShortcut(16, 32, 2, centered=True)(x), expected)
    assert torch.equal(ZeroPadShortcut(16, 32, 2)(x)[:, :16], x[:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("library", "shortcut", "names"),
    [
        ("pytorch_resnet_cifar10", "A-centered", {"conv1.weight", "layer2.0.bn1.bias", "linear.bias"}),
        ("pytorch_resnet_cifar10", "B", {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.bias", "linear.weight"}),
        ("distiller", "B", {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias", "fc.weight"}),
        ("pytorch-cifar-models", "B", {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias", "fc.weight"}),
        ("ResNeXt-DenseNet", "A", {"conv_1_3x3.weight", "bn_1.bias", "stage_3.2.conv_b.weight", "classifier.bias"}),
    ],
)
def test_each_repositorys_names_load_and_are_written(library, shortcut, names):
    options = {"type": "ImageClassifier", "backbone": {"type": "resnet20_cifar", "shortcut": shortcut}}
    ours, fresh = (chordate.build_model(options, num_classes=10, pretrained=False) for _ in range(2))
    randomize(ours)
    weights = find_weights(restored(ours, library))
    theirs = weights.state
    assert names <= theirs.keys() and not any(name.startswith(("backbone.", "head.")) for name in theirs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* was trained with other settings")
        prefixed = {f"module.{name}": tensor for name, tensor in theirs.items()}
        report = load_checkpoint(fresh, {**weights.contents, "state_dict": prefixed})
    assert report.format == library and not report.skipped
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_zeros_in_another_place_are_told_although_every_shape_fits():
    centered = {"type": "resnet20_cifar", "shortcut": "A-centered"}
    theirs = restored(
        chordate.build_model({"type": "ImageClassifier", "backbone": centered}, num_classes=10), REPOSITORY
    )
    for model in (chordate.build_model("resnet20_cifar10"), chordate.build_backbone("resnet20_cifar")):
        with pytest.warns(UserWarning, match=r"--cfg-options model\.backbone\.shortcut=A-centered"):
            load_checkpoint(model, theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(chordate.build_model("resnet20_cifar10-akamaster"), theirs)


def test_projections_in_a_model_without_them_are_refused_with_the_override():
    options = {"type": "ImageClassifier", "backbone": {"type": "resnet20_cifar", "shortcut": "B"}}
    theirs = restored(chordate.build_model(options, num_classes=10), "distiller")
    with pytest.raises(CheckpointError, match=r"model\.backbone\.shortcut=B model\.preprocess\.mean=\[127\.5,"):
        load_checkpoint(chordate.build_model("resnet20_cifar10"), theirs)


@pytest.mark.parametrize(
    ("library", "shortcut", "classes", "config"),
    [
        ("pytorch_resnet_cifar10", "A-centered", 10, "resnet20_cifar10-akamaster"),
        ("distiller", "B", 10, "resnet20_cifar10-distiller"),
        ("pytorch-cifar-models", "B", 10, "resnet20_cifar10"),
        ("pytorch-cifar-models", "B", 100, "resnet20_cifar100"),
        ("ResNeXt-DenseNet", "A", 7, "resnet20_cifar10"),
    ],
)
def test_each_repositorys_weights_tell_their_config(library, shortcut, classes, config):
    options = {"type": "ImageClassifier", "backbone": {"type": "resnet20_cifar", "shortcut": shortcut}}
    contents = restored(chordate.build_model(options, num_classes=classes, pretrained=False), library)
    name, overrides = recognized_config(find_weights(contents))
    assert name == config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = chordate.build_model(load_config(name, overrides), checkpoint=contents)
    assert len(model.classes) == classes and model.backbone.shortcut == shortcut
    if library == "pytorch-cifar-models":  # std in logs/cifar10/resnet20/default.log, logs/cifar100/…
        std = {10: [0.2023, 0.1994, 0.201], 100: [0.2673, 0.2564, 0.2761]}[classes]
        torch.testing.assert_close(model.preprocess.std.flatten() / 255, torch.tensor(std), rtol=0, atol=1e-5)


@needs_networks
@pytest.mark.slow
@pytest.mark.parametrize("file", REAL)
def test_real_networks_give_their_figures(file, tmp_path, capsys):
    config, figure = REAL[file]
    out = tmp_path / "numbers.json"
    assert main(["test", config, str(NETWORKS / file), "--data-root", str(IMAGES), "--out", str(out)]) == 0
    numbers = json.loads(out.read_text()).values()
    assert any(abs(100 * value - figure) < 0.05 or abs(value - figure) < 0.05 for value in numbers)


@needs_networks
def test_real_networks_recognize_the_first_images_of_each_class():
    """Published networks on 10 images per class; with option A's zero channels misplaced, accuracy is near chance."""
    import io
    import zipfile

    import numpy as np
    from PIL import Image

    from chordate.structures import Batch, ImageInfo

    with zipfile.ZipFile(IMAGES) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("test/") and "/000" in name)
        pixels = [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    batch = Batch(
        images, torch.tensor([[32, 32]] * len(names)), [ImageInfo(n, name, 32, 32) for n, name in enumerate(names)]
    )
    for file, (config, _) in REAL.items():
        model = chordate.build_model(config, checkpoint=NETWORKS / file)
        predicted = [model.classes[int(one.scores.argmax())] for one in model.predict(batch)]
        assert sum(name.split("/")[1] == label for name, label in zip(names, predicted)) >= 0.7 * len(names)


@needs_networks
def test_a_pickled_optimizer_does_not_hide_the_weights():
    """distiller saves a `torch.optim.SGD`, which is left out without importing or running anything."""
    file = NETWORKS / "distiller-resnet20-with-optimizer.pth.tar"
    model = chordate.build_model("resnet20_cifar10-distiller", checkpoint=file)
    assert model.load_report.format == "distiller" and not model.load_report.missing
