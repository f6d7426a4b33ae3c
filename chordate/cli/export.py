"""Export a trained model to ONNX, torch.export or TorchScript, and compare the file with the model on images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_options, check_out, nonempty
from chordate.text import pluralize

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLE = "chordate export faster-rcnn_r50_fpn_1x_coco best_bbox_AP.pt --format onnx --size 800 1344"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a packaged config's name, or a config file")
    parser.add_argument("checkpoint", type=nonempty, help="path or URL of a checkpoint of Chordate or another library")
    parser.add_argument("--format", choices=["onnx", "torch-export", "torchscript"], default="onnx")
    parser.add_argument(
        "--out", type=nonempty, metavar="FILE", help="the file to write (default: the checkpoint's name)"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="size of the images in pixels (default: that of the test pipeline, else 800 1344 for detectors)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="number of images (default: 1)")
    parser.add_argument("--dynamic", action="store_true", help="images of any size, and any number of images")
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="IMAGE",
        help="images on which the file is compared with the model (default: a photo that Matplotlib brings along)",
    )  # fmt: skip
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from chordate.arguments import PositiveInt, validate_value
    from chordate.cli.common import load_trained
    from chordate.cli.predict import image_files
    from chordate.cli.summary import pipeline_size
    from chordate.config import load_config
    from chordate.data.image_io import read_image
    from chordate.deployment.exportable import Exportable
    from chordate.deployment.formats import FORMATS
    from chordate.deployment.parity import compare, fit_images

    for name, value in (("--batch", arguments.batch), *(("--size", side) for side in arguments.size or ())):
        validate_value(PositiveInt, value, name)
    kind = FORMATS[arguments.format]
    out = Path(arguments.out or Path(Path(arguments.checkpoint).name or "model").with_suffix(kind.suffix))
    check_out(out, arguments.checkpoint)
    model: Any = load_trained(load_config(arguments.config, arguments.cfg_options), arguments.checkpoint).cpu()
    size = tuple(arguments.size or pipeline_size(model.pipeline, model.size_divisor) or model.example_size)
    channels = model.input_shape(*size)[0]
    files = [path for path, _ in image_files(arguments.images or [example_photo()], out)]
    images: list[Tensor] = [read_image(path, channels=channels) for path in files]
    exportable = Exportable(model, size, arguments.batch, arguments.dynamic)
    sizes = [(size, arguments.batch)]
    if arguments.dynamic:  # also compare a smaller size and a larger batch
        divisor = model.size_divisor
        smaller = [max(exportable.smallest, side * 3 // 4 // divisor * divisor) for side in size]
        sizes.append(((smaller[0], smaller[1]), arguments.batch + 1))
    batches = [
        fit_images([images[(first + number) % len(images)] for number in range(batch)], sides, model.exports_sizes)
        for sides, batch in sizes
        for first in range(0, len(images), batch)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as folder:  # a failed export leaves no file
        temporary = Path(folder) / out.name
        kind.save(exportable, temporary)
        parity = compare(model, kind.open(temporary, exportable), batches)
        temporary.replace(out)
    shape = "any size" if arguments.dynamic else f"{arguments.batch} × {channels} × {size[0]} × {size[1]}"
    print(
        f"{out}: {arguments.format}, {shape}, {out.stat().st_size / 1e6:.1f} MB; largest differences from the model on "
        f"{pluralize(len(images), 'image')}: {parity}"
    )
    if parity.agrees:
        return 0
    print(f"chordate export: {out} does not predict like the model: {parity}", file=sys.stderr)
    return 1


def example_photo() -> str:
    """The path of a photo of a person, 600 pixels high and 512 wide."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg")
