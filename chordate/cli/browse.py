"""Draw training samples as the model sees them, on a web page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_config_arguments, data_root

if TYPE_CHECKING:
    from mmengine.config import Config

    from chordate.structures import Batch

HOST = "127.0.0.1"  # this machine only


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--count", type=int, default=16, metavar="N", help="how many pictures (default %(default)s)")
    parser.add_argument("--out", metavar="DIR", help="folder to write to (default: work_dirs/<config's name>/browse)")
    parser.add_argument(
        "--serve", type=int, metavar="PORT", help=f"then serve the folder at http://{HOST}:PORT; 0 finds a free port"
    )


def run(arguments: argparse.Namespace) -> None:
    from chordate import checks
    from chordate.config import load_config

    checks.number("--count", arguments.count, least=1, whole=True)
    cfg = load_config(arguments.config, arguments.cfg_options)
    out = Path(arguments.out or Path("work_dirs") / Path(cfg.filename).stem / "browse")
    out.mkdir(parents=True, exist_ok=True)
    server = None if arguments.serve is None else open_server(out, arguments.serve)
    count = write_pages(cfg, data_root(arguments), out, arguments.count)
    print(f"{count} picture(s): {out / 'index.html'}")
    if server is not None:
        print(f"http://{HOST}:{server.server_port} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()


def write_pages(cfg: Config, root: Path, out: Path, count: int) -> int:
    """Write the first `count` training samples to `out` as pictures, and `index.html`; gives how many there were."""
    from chordate.config import section
    from chordate.data.loader import build_loader
    from chordate.data.seeding import seeded
    from chordate.training.settings import TrainSettings
    from chordate.visualization import draw_batch, write_image
    from chordate.visualization.batches import describe
    from chordate.visualization.contact_sheet import Group, Shown, contact_sheet

    seed = TrainSettings.from_config(section(cfg, "train")).seed
    # They are the same with any number of workers; without, none reads ahead in vain.
    loader: Any = build_loader({**section(cfg, "train_data"), "workers": 0}, data_root=root, training=True, seed=seed)
    classes, groups, written = loader.dataset.classes, [], 0
    skeleton = getattr(loader.dataset, "skeleton", None)
    mix = _mixer(cfg, classes)
    for number, batch in enumerate(loader, start=1):
        shown = []
        with seeded(seed, number):
            batch = mix(batch)
        for index, picture in enumerate(draw_batch(batch, classes, skeleton=skeleton)[: count - written]):
            file = f"{written:03}.jpg"
            write_image(out / file, picture)
            height, width = picture.shape[:2]
            shown.append(Shown(file, width, height, Path(batch.infos[index].path).name, describe(batch, index)))
            written += 1
        height, width = batch.images.shape[-2:]
        groups.append(Group(f"Batch {number}", f"{len(batch)} pictures, {height}×{width} with padding", shown))
        if written == count:
            break
    note = (
        f"The first {written} pictures of {len(loader.dataset)} in training, seed {seed}, as they reach the model. "
        "Sizes are height×width. Padding is striped, crowds are dashed, every instance has a colour of its own."
    )
    (out / "index.html").write_text(contact_sheet(Path(cfg.filename).stem, note, groups), encoding="utf-8")
    return written


def _mixer(cfg: Config, classes: Sequence[str]) -> Callable[[Batch], Batch]:
    """What a classifier's training does to a batch first, where the config has a `mix`."""
    import torch

    from chordate.api import build_model
    from chordate.structures import ClassTargets

    if not (cfg.get("model") or {}).get("mix"):
        return lambda batch: batch
    with torch.device("meta"):
        model: Any = build_model(cfg, classes=classes, pretrained=False)

    def mixed(batch: Batch) -> Batch:
        # Before the normalisation, not after it: blending commutes with that.
        images, shares = model.mixed(batch.images.float(), batch.targets.labels)
        return replace(batch, images=images, targets=ClassTargets(shares))

    return mixed


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder's files to this machine.

    Raises:
        ConfigError: the port is taken, not ours to take, or none.
    """
    from chordate.errors import ConfigError

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        return ThreadingHTTPServer((HOST, port), partial(Quiet, directory=str(folder)))
    except (OSError, OverflowError) as error:
        told = error.strerror if isinstance(error, OSError) else "ports are 0 … 65535"
        raise ConfigError(f"--serve {port}: {told}; choose another, or 0 for any free one") from error
