"""StagedBackbone, the base class of our own architectures: a stem and a sequence of stages with feature maps."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from chordate.arguments import NonEmpty
from chordate.backbones.layers import Block, drop_rates
from chordate.backbones.recompute import recompute
from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError, unknown
from chordate.ops.norms import run_layers

MapNames = Annotated[Sequence[str], NonEmpty]

# By output stride, the strides and dilations of c2 … c5. Dilation replaces the strides that are removed, so that the
# network computes the same values on a finer grid (Chen et al. 2017, DeepLab v3, section 3.1).
STRIDES_AND_DILATIONS = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}


class Step(NamedTuple):
    """Part of the forward pass: names of its modules in order, its stage (0 for the stem), and its output map."""

    modules: tuple[str, ...]
    stage: int
    output: str | None


class Stage(nn.Sequential):
    """A sequence of blocks; `checkpointing` recomputes each block separately."""


class StagedBackbone(Backbone):
    """Normalized images `[N, in_channels, H, W]` to the maps named in `out`.

    A subclass lists its maps in `maps`, appends modules with `add` or `add_stages` in the order of the forward pass
    (those of a stage only if `needs(stage)` is true), and calls `freeze` last. Stage k outputs map c(k+1); stage 0 is
    the stem.

    Args:
        name: the network's name in error messages, such as "ResNet-50".
        out: the maps to output; later stages are not built.
        in_channels: number of image channels. 3-channel weights are adapted when they are loaded.
        frozen_stages: the part that is not trained, counted as in MMDetection: -1 for none, 0 for the stem, 1 for the
            stem and the first stage, … A frozen part has no gradients, and its BatchNorms keep their running statistics
            even in training mode. Detectron2's `FREEZE_AT=k` is k - 1; torchvision's `trainable_layers=k` is 4 - k.
        checkpointing: keep only each block's input for the backward pass and recompute the rest there, see
            `recompute`. Needs less memory and about a third more time; results are identical. The blocks are the
            members of a `Stage`, and every other `nn.Sequential` after the stem.

    Raises:
        ConfigError: `out` names an unknown map, or `frozen_stages` is not a number of stages.
    """

    maps: tuple[str, ...] = ("c1", "c2", "c3", "c4", "c5")

    def __init__(
        self,
        name: str,
        *,
        out: Sequence[str],
        in_channels: int = 3,
        frozen_stages: int = -1,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.name, self.in_channels = name, in_channels
        self.frozen_stages, self.checkpointing = frozen_stages, checkpointing
        for map_name in out:
            if map_name not in self.maps:
                raise ConfigError(unknown(f"{name} map", map_name, self.maps))
        stages = _stage(self.maps[-1])
        if frozen_stages not in range(-1, stages + 1):
            raise ConfigError(
                f"{name}: frozen_stages must be -1 (none), 0 (stem) … {stages} (everything), got {frozen_stages}"
            )
        self.out = tuple(out)
        self.out_features: dict[str, FeatureSpec] = {}
        self.steps: list[Step] = []

    def needs(self, stage: int) -> bool:
        """Whether a map of `out` comes from this stage or a later one."""
        return stage <= max(map(_stage, self.out))

    def add(self, stage: int, spec: FeatureSpec | None = None, **modules: nn.Module) -> None:
        """Append modules to the forward pass, kept as `self.<name>`; with `spec`, they output the stage's map."""
        for name, module in modules.items():
            self.add_module(name, module)
        map_name = None if spec is None else f"c{stage + 1}"
        self.steps.append(Step(tuple(modules), stage, map_name))
        if spec is not None and map_name in self.out:
            self.out_features[map_name] = spec

    def add_stages(
        self,
        block: type[Block],
        channels: int,
        widths: Sequence[int],
        strides: Sequence[int],
        counts: Sequence[int],
        *,
        stride: int,
        drop_path: float = 0.0,
        dilations: Sequence[int] | None = None,
        dilate_first: bool = False,
        multi_grid: Sequence[int] | None = None,
        closing: Callable[[int], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        """Append `layer1`, `layer2` … of blocks, as far as `out` needs them.

        Args:
            block: class of the blocks.
            channels, stride: channels and stride of the first stage's input.
            widths, strides, counts: width of the blocks, stride of the first block and number of blocks, per stage.
            drop_path: see `drop_rates`.
            dilations: dilation of the blocks, per stage; all 1 by default.
            dilate_first: apply a stage's dilation also in the first convolution of its first block; otherwise that
                convolution has the dilation of the stage before, whose cells it reads.
            multi_grid: factors of the dilation, per block of the last stage.
            closing: function from the number of channels to the module `norm` at the end of the last stage.
            options: further arguments of every block.
        """
        if drop_path and options.get("shortcut") == "none":
            raise ConfigError(f"{self.name}: drop_path must be 0 without shortcuts, got {drop_path}")
        drops = iter(drop_rates(drop_path, sum(counts)))
        dilations = dilations or [1] * len(counts)
        before = 1
        for number, (width, step, count) in enumerate(zip(widths, strides, counts, strict=True), 1):
            if not self.needs(number):
                break
            last = number == len(counts)
            grid = multi_grid if multi_grid is not None and last else [1] * count
            stage = Stage()
            for dilation in (dilations[number - 1] * factor for factor in grid):
                before = dilation if dilate_first else before
                wiring = {"stride": step, "dilation": dilation, "dilation_before": before, "drop": next(drops)}
                stage.append(block(channels, width, **wiring, **options))
                channels, stride, step, before = width * block.expansion, stride * step, 1, dilation
            modules: dict[str, nn.Module] = {f"layer{number}": stage}
            if closing is not None and last:
                modules["norm"] = closing(channels)
            self.add(number, FeatureSpec(channels, stride), **modules)

    def freeze(self) -> None:
        """Disable the gradients of the frozen stages. Subclasses call it last, after initialization."""
        for part in self._frozen():
            part.requires_grad_(False)
        self.train(self.training)

    def _frozen(self) -> Iterator[nn.Module]:
        # Look modules up by name, because SyncBatchNorm's conversion replaces them.
        frozen = (step.modules for step in self.steps if step.stage <= self.frozen_stages)
        return (self.get_submodule(name) for names in frozen for name in names)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, maps = images, {}
        for step in self.steps:
            x = self._run(step, x)
            if step.output is not None and step.output in self.out_features:
                maps[step.output] = x
        return maps

    def pop_stage(self, name: str) -> Backbone:
        last, *before = reversed(self.out_features)
        if name != last or not before or _stage(before[0]) != _stage(name) - 1:
            raise ConfigError(
                f"{self.name}: {name} cannot be removed from a backbone that outputs {', '.join(self.out_features)}; "
                f"its `out` must end with the map one stage before {name}, then {name}"
            )
        spec = self.out_features.pop(name)
        popped = StagedBackbone(
            self.name,
            out=[name],
            in_channels=self.out_features[before[0]].channels,
            frozen_stages=self.frozen_stages,
            checkpointing=self.checkpointing,
        )
        popped.pretrained, popped.default_weights = self.pretrained, self.default_weights
        for step in [step for step in self.steps if step.stage == _stage(name)]:
            modules = {module: self.get_submodule(module) for module in step.modules}
            popped.add(step.stage, spec if step.output else None, **modules)
            for module in modules:
                delattr(self, module)
            self.steps.remove(step)
        self.out = tuple(self.out_features)
        return popped

    def _run(self, step: Step, x: Tensor) -> Tensor:
        modules = [self.get_submodule(name) for name in step.modules]
        if not (self.checkpointing and step.stage > 0 and modules[0].training and torch.is_grad_enabled()):
            return run_layers(modules, x)
        for module in modules:
            if not isinstance(module, nn.Sequential):
                x = module(x)
                continue
            for block in (
                module if isinstance(module, Stage) else [module]
            ):  # a block's layers may modify inputs in place
                x = recompute(block, x)
        return x


def _stage(map_name: str) -> int:
    """The stage that outputs a map; stage 0, the stem, outputs c1."""
    return int(map_name[1:]) - 1
