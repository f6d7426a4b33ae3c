"""Times the inference of Detectron2's models and of their conversions, plain and with `chordate.optimize`.

Both libraries run alternately in one process, in float32 on the CPU, from an image of the network's size to boxes,
masks and keypoints. Ratios are Detectron2's median time over ours; compilation takes place in the warm-up round.

    python tests/peers/time_detectron2.py [--height 800 --width 1088 --rounds 5] [FAMILY …]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from compare_detectron2 import FAMILIES, as_batch, converted
from detectron2_models import config, predict, random_model

import chordate

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from rivals import random_images
from timing import alternate

TIMED = ("Faster R-CNN FPN", "Mask R-CNN FPN", "Keypoint R-CNN FPN", "RetinaNet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", default=TIMED)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    image = random_images(1, arguments.height, arguments.width, seed=0)[0][0]
    print("| model | ours | ours / s | Detectron2 / s | ratio |\n|---|---|---:|---:|---:|", flush=True)
    for name in arguments.families:
        cfg = config(*FAMILIES[name])
        theirs = random_model(cfg, [image])
        with tempfile.TemporaryDirectory() as folder:
            ours = converted(theirs, Path(folder))
        batch = as_batch(image, (arguments.height, arguments.width), ours.size_divisor)
        for how, model in (("as converted", ours), ("with chordate.optimize", chordate.optimize(ours))):
            run, rival = partial(model.predict, batch), partial(predict, theirs, cfg, [image])
            mine, other = alternate(run, rival, arguments.rounds)
            print(f"| {name} | {how} | {mine:.3f} | {other:.3f} | {other / mine:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
