"""Benchmark of `chordate.predict` and `chordate.optimize` against torchvision's detectors, same weights and images.

Both sides run alternately in one process, with their defaults; compilation takes place in the warm-up round. Ratios are
torchvision's median time over ours. `tests/peers/time_detectron2.py` compares with Detectron2.

    python benchmarks/inference.py [--height 800 --width 1088 --batch 1 --rounds 5] [MODEL …]
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from rivals import THEIRS, random_images, sides
from timing import alternate
from torch import Tensor, nn

import chordate


@torch.inference_mode()
def predict(theirs: nn.Module, images: Tensor, device: torch.device) -> Any:
    """Torchvision's detections in uint8 images `[N, 3, H, W]`."""
    return theirs([image.to(device).float().div(255) for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(THEIRS)} (default: all)")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print("| model | ours | ours / s | torchvision / s | ratio |\n|---|---|---:|---:|---:|", flush=True)
    for name in arguments.models or THEIRS:
        torch.manual_seed(0)
        images = random_images(arguments.batch, arguments.height, arguments.width, seed=0)[0]
        ours, theirs = sides(name, device, images)
        for how, model in (("as shipped", ours.eval()), ("with chordate.optimize", chordate.optimize(ours))):
            run = partial(chordate.predict, model, images, batch_size=arguments.batch)
            mine, other = alternate(run, partial(predict, theirs, images, device), arguments.rounds)
            print(f"| {name} | {how} | {mine:.3f} | {other:.3f} | {other / mine:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
