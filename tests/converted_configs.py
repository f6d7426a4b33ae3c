"""Writes configs of other frameworks, converts them, and loads the results."""

import textwrap

import torch

import chordate
from chordate.config import load_config
from chordate.migration import convert_file
from chordate.migration.config_defaults import equal, without_defaults
from chordate.migration.nearest_config import KEPT


def write(folder, **files):
    """Write each keyword argument to a file (`base_yaml=…` writes base.yaml); returns the path of the last file."""
    for name, text in files.items():
        path = folder / name.replace("_py", ".py").replace("_yaml", ".yaml")
        path.write_text(textwrap.dedent(text))
    return path


class Result:
    """A converted config.

    Attributes:
        config: the config loaded from the converted file.
        lost: the effect of each setting that is not carried over, keyed by setting.
    """

    def __init__(self, path):
        self.text, self.conversion = convert_file(path)
        out = path.parent / "converted.py"
        out.write_text(self.text)
        self.config = load_config(out)
        self.lost = {lost.key: lost.effect for lost in self.conversion.not_carried}
        self.check_written()

    def check_written(self):
        """Check that the file, which has only the differences from a packaged config, loads as the complete config."""
        written, wanted = without_defaults(self.config.to_dict()), without_defaults(self.conversion.config)
        for section, key in KEPT:
            written.get(section, {}).pop(key, None)
            wanted.get(section, {}).pop(key, None)
        for section in {*written, *wanted}:
            assert equal(written.get(section) or {}, wanted.get(section) or {}), section

    def build(self):
        with torch.device("meta"):
            return chordate.build_model(self.config, pretrained=False)


def count_weights(model):
    """Number of weights and biases of convolutions and fully connected layers."""
    kinds = torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters(recurse=False))
