"""Draw training samples as the model sees them, on a web page."""

from __future__ import annotations

import argparse
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_config_arguments, data_root
from chordate.text import pluralize

if TYPE_CHECKING:
    from mmengine.config import Config

HOST = "127.0.0.1"  # reachable only from this machine
EXAMPLE = "chordate browse faster-rcnn_r50_fpn_1x_coco --data-root /data/coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--count", type=int, default=16, metavar="N", help="number of images (default %(default)s)")
    parser.add_argument("--out", metavar="DIR", help="folder to write to (default: work_dirs/<config's name>/browse)")
    parser.add_argument(
        "--serve", type=int, metavar="PORT", help=f"then serve the folder at http://{HOST}:PORT; 0 for any free port"
    )


def run(arguments: argparse.Namespace) -> None:
    from chordate.config import load_config
    from chordate.errors import ConfigError

    if arguments.count < 1:
        raise ConfigError(f"--count must be ≥ 1, got {arguments.count}")
    cfg = load_config(arguments.config, arguments.cfg_options)
    out = Path(arguments.out or Path("work_dirs") / Path(cfg.filename).stem / "browse")
    out.mkdir(parents=True, exist_ok=True)
    server = None if arguments.serve is None else open_server(out, arguments.serve)
    count = write_page(cfg, data_root(arguments), out, arguments.count)
    print(f"{pluralize(count, 'image')}: {out / 'index.html'}")
    if server is not None:
        print(f"http://{HOST}:{server.server_port} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()


def write_page(cfg: Config, root: Path, out: Path, count: int) -> int:
    """Write pictures of the first `count` training samples, and a page `index.html` that shows them, to `out`.

    Returns:
        Number of pictures: `count`, or the number of samples in an epoch if it is smaller.
    """
    from chordate.config import section
    from chordate.data.loader import build_dataset, build_loader
    from chordate.data.seeding import seeded
    from chordate.models.build import build_model, image_channels
    from chordate.training.settings import TrainSettings
    from chordate.visualization import describe_image, draw_batch, write_image
    from chordate.visualization.contact_sheet import Group, Thumbnail, contact_sheet, remove_earlier_sheet

    seed = TrainSettings.from_config(section(cfg, "train")).seed
    # Samples do not depend on the number of workers; without workers, only the samples to draw are loaded.
    data = section(cfg, "train_data") | {"workers": 0}
    dataset: Any = build_dataset(data, data_root=root, training=True, seed=seed, channels=image_channels(cfg))
    model: Any = build_model(cfg, meta=dataset.meta, pretrained=False)
    loader = build_loader(dataset, data, training=True, seed=seed, size_divisor=model.size_divisor)
    remove_earlier_sheet(out)
    groups: list[Group] = []
    written = 0
    for number, batch in enumerate(loader, start=1):
        with seeded(seed, number):
            batch = model.augment_batch(batch)
        thumbnails = []
        for index, picture in enumerate(draw_batch(batch, dataset.meta)[: count - written]):
            file = f"{written:03}.jpg"
            write_image(out / file, picture)
            height, width = picture.shape[:2]
            name = Path(batch.infos[index].path).name
            thumbnails.append(Thumbnail(file, width, height, name, describe_image(batch, index)))
            written += 1
        height, width = batch.images.shape[-2:]
        title = f"{pluralize(len(batch), 'image')}, {height}×{width} with padding"
        groups.append(Group(f"Batch {number}", title, thumbnails))
        if written == count:
            break
    legend = dataset.target_type.legend if dataset.target_type is not None else ""
    note = (
        f"The first {written} of {len(dataset)} training images, seed {seed}, as the model receives them. "
        f"Sizes are height×width. Padding is striped{legend and ', '}{legend}."
    )
    (out / "index.html").write_text(contact_sheet(Path(cfg.filename).stem, note, groups), encoding="utf-8")
    return written


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Create an HTTP server for the folder's files, reachable only from this machine.

    Raises:
        ConfigError: the port is in use, forbidden or out of range.
    """
    from chordate.errors import ConfigError

    class QuietHandler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        return ThreadingHTTPServer((HOST, port), partial(QuietHandler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        message = error.strerror if isinstance(error, OSError) else "ports are 0 … 65535"
        raise ConfigError(f"--serve {port}: {message}; choose another port, or 0 for any free one") from error
