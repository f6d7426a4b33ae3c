"""Benchmark of Faster and Mask R-CNN R-50 FPN against torchvision's: training and inference, same weights and images.

Both sides run alternately in one process, so that other load on the machine affects both. Ratios are torchvision's
median time over ours: above 1, ours is faster. "Like for like" uses the same memory layout and precision for both
sides; "as shipped" uses each side's defaults. `chordate.optimize` compiles in the warm-up round. A second table lists
the time of each part of a training step, and on a GPU the step's peak memory, kernel launches and host syncs.

    python benchmarks/two_stage.py [--model mask-rcnn] [--height 480 --width 640 --batch 2 --rounds 7] [--profile]
    python benchmarks/two_stage.py --model mask-rcnn --height 800 --width 1333 --batch 16    # on a GPU
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rivals import TWO_STAGE, our_batch, random_images, sides, their_batch
from timing import Clock, alternate, gpu_calls
from torch import Tensor

import chordate
from chordate.training.precision import use_channels_last


def trainer(
    model: Any, losses: Callable[[], dict[str, Tensor]], precision: str, clock: Clock | None = None
) -> Callable[[], None]:
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)
    part: Any = clock or (lambda _: nullcontext())

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            total = sum(losses().values())
        optimizer.zero_grad(set_to_none=True)
        with part("backward"):
            total.backward()  # type: ignore[union-attr]
        with part("optimizer"):
            optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=TWO_STAGE, default="faster-rcnn")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="measure bfloat16 on a CPU (always measured on a GPU)")
    parser.add_argument("--profile", action="store_true", help="print where our training step and inference spend time")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    drawn = random_images(arguments.batch, arguments.height, arguments.width, seed=0)
    ours, theirs = sides(arguments.model, device, drawn[0])
    batch = our_batch(*drawn).to(device)
    their_images, their_targets = their_batch(*drawn, device)
    table = Table(
        title=f"{arguments.model} on {device}, {arguments.batch} × {arguments.height}×{arguments.width}, "
        f"median of {arguments.rounds}"
    )
    for column in ("work", "layout and precision", "ours / s", "torchvision / s", "ratio", "ours, images/s"):
        table.add_column(column, justify="left" if column in ("work", "layout and precision") else "right")

    def row(work: str, how: str, run: Callable[[], Any], rival: Callable[[], Any]) -> None:
        mine, other = alternate(run, rival, arguments.rounds)
        speed = f"{arguments.batch / mine:.2f}"
        table.add_row(work, how, f"{mine:.3f}", f"{other:.3f}", f"{other / mine:.2f}×", speed)

    def shipped(model: Any = ours) -> Any:
        return chordate.predict(model, drawn[0], batch_size=arguments.batch)

    @torch.inference_mode()
    def their_shipped() -> Any:
        return theirs([image.to(device).float().div(255) for image in drawn[0]])

    def detect(model: Any, inputs: Any, precision: str = "fp32") -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> Any:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                return model(inputs)

        return run

    def our_step(precision: str = "fp32", clock: Clock | None = None) -> Callable[[], None]:
        return trainer(ours, lambda: ours(batch), precision, clock)

    def their_step(precision: str = "fp32", clock: Clock | None = None) -> Callable[[], None]:
        return trainer(theirs, lambda: theirs(their_images, their_targets), precision, clock)

    def layout(form: torch.memory_format, *models: Any) -> None:
        for model in models:
            model.to(memory_format=form)
        batch.images = batch.images.contiguous(memory_format=form)

    ours.eval(), theirs.eval()
    row("inference", "like for like: contiguous, fp32", detect(ours, batch), detect(theirs, their_images))
    row("inference", "as shipped: chordate.predict, torchvision's model", shipped, their_shipped)
    fast = chordate.optimize(ours)
    row("inference", "as shipped, with chordate.optimize", lambda: shipped(fast), their_shipped)
    ours.train(), theirs.train()
    row("training step", "like for like: contiguous, fp32", our_step(), their_step())
    if use_channels_last("auto", device):  # otherwise, "as shipped" would repeat the row above
        layout(torch.channels_last, ours)
        row("training step", "as shipped: fp32, ours channels-last", our_step(), their_step())
    layout(torch.channels_last, ours, theirs)
    for precision in ("fp32", "bf16") if arguments.bf16 or device.type == "cuda" else ("fp32",):
        how = f"like for like: channels-last, {precision}"
        ours.train(), theirs.train()
        row("training step", how, our_step(precision), their_step(precision))
        ours.eval(), theirs.eval()
        row("inference", how, detect(ours, batch, precision), detect(theirs, their_images, precision))
    console = Console(width=130)
    console.print(table)

    ours.train(), theirs.train()
    precision = "bf16" if device.type == "cuda" else "fp32"
    console.print(parts_table(ours, theirs, our_step, their_step, precision, arguments.rounds))
    if arguments.profile:
        ours.eval()
        show_profile("inference", shipped)
        ours.train()
        show_profile("training step", our_step())


def parts_table(ours: Any, theirs: Any, our_step: Any, their_step: Any, precision: str, rounds: int) -> Table:
    """Table of the milliseconds that each part of a training step takes in each library, measured alternately.

    On a GPU, the table also has peak memory, kernel launches and host syncs.
    """
    rpn, heads = ours.rpn, [(ours.box, "sample"), (ours.box, "loss")]
    if ours.mask is not None:
        heads.append((ours.mask, "loss"))
    parts = [
        {
            "backbone and FPN": [(ours, "features")],
            "RPN and its losses": [(rpn, "forward"), (rpn, "loss"), (rpn, "predict")],
            "RoI heads and their losses": heads,
        },
        {
            "resizing and padding": [(theirs.transform, "forward")],
            "backbone and FPN": [(theirs.backbone, "forward")],
            "RPN and its losses": [(theirs.rpn, "forward")],
            "RoI heads and their losses": [(theirs.roi_heads, "forward")],
        },
    ]
    clocks = [Clock(), Clock()]
    with clocks[0].watching(parts[0]), clocks[1].watching(parts[1]):
        steps = [our_step(precision, clocks[0]), their_step(precision, clocks[1])]
        for number in range(rounds + 1):
            for step, clock in zip(steps, clocks):
                step()
                if not number:
                    clock.seconds.clear()
    table = Table(title=f"Parts of a training step, channels-last, {precision}, mean of {rounds}")
    for column in ("part", "ours / ms", "torchvision / ms", "ratio"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part in [*parts[1], "backward", "optimizer"]:
        mine, other = (1000 * clock.seconds[part] / rounds for clock in clocks)
        table.add_row(part, f"{mine:.1f}", f"{other:.1f}", f"{other / mine:.2f}×" if mine else "")
    if torch.cuda.is_available():
        for row in zip(*(gpu_use(make(precision)) for make in (our_step, their_step))):
            name, mine, other = row[0][0], row[0][1], row[1][1]
            table.add_row(name, f"{mine:.0f}", f"{other:.0f}", f"{other / mine:.2f}×" if mine else "")
    return table


def gpu_use(step: Callable[[], None]) -> list[tuple[str, float]]:
    """Peak memory, kernel launches and host-device synchronizations of a training step on a GPU."""
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    memory = torch.cuda.max_memory_allocated() / 2**20
    launches, waits = gpu_calls(step)
    return [("peak memory / MiB", memory), ("kernel launches", launches), ("host syncs", waits)]


def show_profile(title: str, run: Callable[[], Any]) -> None:
    with torch.profiler.profile() as profile:
        run()
    print(f"\n{title}\n{profile.key_averages().table(sort_by='self_cpu_time_total', row_limit=25)}")


if __name__ == "__main__":
    main()
