"""StagedBackbone, the base class of Chordate's own architectures: a stem and a sequence of stages."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from chordate.arguments import NonEmpty
from chordate.backbones.layers import Block, drop_rates
from chordate.backbones.recompute import recompute
from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError, unknown
from chordate.ops.norms import run_layers

MapNames = Annotated[Sequence[str], NonEmpty] | Literal["all"]

# Strides and dilations of c2 … c5 for each output stride. Dilation replaces the removed strides, so that the network
# computes the same values at more positions (Chen et al. 2017, DeepLab v3, section 3.1).
STRIDES_AND_DILATIONS = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}


class Step(NamedTuple):
    """A step of the forward pass: the names of its modules in order, its stage (0: stem), and its output's name."""

    modules: tuple[str, ...]
    stage: int
    output: str | None


class Stage(nn.Sequential):
    """A sequence of blocks; with activation checkpointing, each block is recomputed separately."""


class StagedBackbone(Backbone):
    """Base class of backbones with stages: computes the feature maps in `out` from images `[N, in_channels, H, W]`.

    A subclass sets `maps`, the names of all its feature maps. Its `__init__` appends modules with `add` or `add_stages`
    in the order of the forward pass (modules of a stage only if `needs(stage)` is true), and calls `freeze` last. Stage
    k outputs the feature map c(k+1); stage 0 is the stem.

    Args:
        name: the network's name in error messages, such as "ResNet-50".
        out: names of the feature maps to output, or "all". Stages that these feature maps do not need are not built.
        in_channels: number of image channels. Pretrained weights for 3 channels are adapted when they are loaded.
        frozen_stages: the stages that are not trained, as in MMDetection: -1 for none, 0 for the stem, 1 for the stem
            and the first stage, … Their parameters have no gradients, and their BatchNorms stay in eval mode.
            Detectron2's `FREEZE_AT=k` is k - 1; torchvision's `trainable_layers=k` is 4 - k.
        checkpointing: whether to use activation checkpointing: keep only each block's input for the backward pass, and
            recompute the block's activations there, see `recompute`. This needs less memory and about a third more
            time; results are identical. The blocks are the modules in a `Stage`, and every other `nn.Sequential` after
            the stem.

    Raises:
        ConfigError: a feature map of `out` does not exist, or `frozen_stages` is out of range.
    """

    maps: tuple[str, ...] = ("c1", "c2", "c3", "c4", "c5")

    def __init__(
        self,
        name: str,
        *,
        out: MapNames,
        in_channels: int = 3,
        frozen_stages: int = -1,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.name, self.in_channels = name, in_channels
        self.frozen_stages, self.checkpointing = frozen_stages, checkpointing
        out = self.maps if out == "all" else out
        for map_name in out:
            if map_name not in self.maps:
                raise ConfigError(unknown(f"{name} feature map", map_name, self.maps))
        stages = _stage(self.maps[-1])
        if frozen_stages not in range(-1, stages + 1):
            raise ConfigError(
                f"{name}: frozen_stages must be -1 (none), 0 (stem) … {stages} (everything), got {frozen_stages}"
            )
        self.out = tuple(out)
        self.out_features: dict[str, FeatureSpec] = {}
        self.steps: list[Step] = []

    def needs(self, stage: int) -> bool:
        """Whether this stage must be built: whether `out` has a feature map of this stage or of a later one."""
        return stage <= max(map(_stage, self.out))

    def add(self, stage: int, spec: FeatureSpec | None = None, **modules: nn.Module) -> None:
        """Append modules to the forward pass, as `self.<name>`. With `spec`, they output the stage's feature map."""
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
        """Append the stages `layer1`, `layer2` …, up to the last one that `out` needs.

        Args:
            block: class of the blocks.
            channels, stride: channels and stride of the first stage's input.
            widths, strides, counts: for each stage, width of the blocks, stride of the first block, number of blocks.
            drop_path: stochastic depth rate of the last block, see `drop_rates`.
            dilations: dilation of each stage's blocks; all 1 by default.
            dilate_first: whether the first 3×3 convolution of a stage also has the stage's dilation; otherwise, it has
                the dilation of the stage before, since it reads that stage's output.
            multi_grid: for each block of the last stage, a factor that multiplies its dilation.
            closing: function that builds the module `norm` after the last stage, from its number of channels.
            options: further arguments of every block.

        Raises:
            ConfigError: `drop_path` is not 0, but the blocks have no shortcuts.
        """
        if drop_path and options.get("shortcut") == "none":
            raise ConfigError(f'{self.name}: drop_path must be 0 with shortcut="none", got {drop_path}')
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
        """Disable the gradients of the frozen stages. Subclasses call this last, after initialization."""
        for part in self._frozen():
            part.requires_grad_(False)
        self.train(self.training)

    def _frozen(self) -> Iterator[nn.Module]:
        # Look up modules by name, because conversion to SyncBatchNorm replaces them.
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
                f"its `out` must end with two feature maps: that of the stage before {name}, and {name}"
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
            # Recompute an nn.Sequential that is not a Stage as a whole: its layers may modify their inputs in place.
            for block in module if isinstance(module, Stage) else [module]:
                x = recompute(block, x)
        return x


def _stage(map_name: str) -> int:
    """The index of the stage that outputs a feature map: 0 (the stem) for c1."""
    return int(map_name[1:]) - 1
