"""What the backbones of this folder share: a stem and stages, run one after the other, each of which may give a map."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError, unknown
from chordate.ops.norms import run_layers


class Step(NamedTuple):
    """Part of the forward pass: its modules' names in order, its stage (0 is the stem), and the map that it returns."""

    modules: tuple[str, ...]
    stage: int
    gives: str | None


class StagedBackbone(Backbone):
    """Normalised images `[N, in_channels, H, W]` to the maps named in `out`, by modules in a row.

    A subclass names the maps it can give in `maps`, adds its modules with `add` in the order of the forward pass, those
    of a stage only where `needs(stage)`, and ends with `freeze`. Stage k gives map c(k+1); stage 0, the stem, c1.

    Args:
        name: for messages, "ResNet-50".
        out: the maps to give; what comes after the last of them is not built.
        in_channels: of the images. 3-channel weights are adapted when they are loaded.
        frozen_stages: how much of the network is not trained, counted as in MMDetection: -1 nothing, 0 the stem,
            1 the stem and the first stage, … A frozen part has no gradients, and its BatchNorms keep their running
            statistics even in training mode. Detectron2's `FREEZE_AT=k` is k - 1; torchvision's
            `trainable_layers=k` is 4 - k.
        checkpointing: keep only each block's input for the backward pass and compute the rest again there (Chen et
            al. 2016, Training Deep Nets with Sublinear Memory Cost): less memory, about a third more time, the same
            numbers. The blocks are the members of a stage's `nn.Sequential`; the stem is kept whole.

    Raises:
        ConfigError: a map that there is not, or a number of stages.
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
        if isinstance(out, str) or not out:
            raise ConfigError(f"{name}: out={out!r}; give a list of at least one map, such as [{self.maps[-1]!r}]")
        for map_name in out:
            if map_name not in self.maps:
                raise ConfigError(unknown(f"{name} map", str(map_name), self.maps))
        stages = _stage(self.maps[-1])
        if frozen_stages not in range(-1, stages + 1):
            raise ConfigError(
                f"{name}: frozen_stages={frozen_stages!r}; it is -1 (none), 0 (stem) … {stages} (everything)"
            )
        self.out = tuple(out)
        self.out_features: dict[str, FeatureSpec] = {}
        self.steps: list[Step] = []

    def needs(self, stage: int) -> bool:
        """Whether a map of `out` comes from this stage or a later one."""
        return stage <= max(map(_stage, self.out))

    def add(self, stage: int, spec: FeatureSpec | None = None, **modules: nn.Module) -> None:
        """Append modules to the forward pass, kept as `self.<name>`; with `spec`, the last one gives the stage's map."""
        for name, module in modules.items():
            self.add_module(name, module)
        map_name = None if spec is None else f"c{stage + 1}"
        self.steps.append(Step(tuple(modules), stage, map_name))
        if spec is not None and map_name in self.out:
            self.out_features[map_name] = spec

    def freeze(self) -> None:
        """Take the gradients from the frozen stages; to be called when all is built and initialised."""
        for part in self._frozen():
            part.requires_grad_(False)
        self.train(self.training)

    def _frozen(self) -> Iterator[nn.Module]:
        # By name, because SyncBatchNorm's conversion puts new modules in the place of old ones.
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
            if step.gives is not None and step.gives in self.out_features:
                maps[step.gives] = x
        return maps

    def pop_stage(self, name: str) -> Backbone:
        last, *before = reversed(self.out_features)
        if name != last or not before or _stage(before[0]) != _stage(name) - 1:
            raise ConfigError(
                f"{self.name}: {name} cannot be taken out of a backbone that gives {', '.join(self.out_features)}; "
                f"its `out` ends with {name}, and has the map before it too"
            )
        spec = self.out_features.pop(name)
        part = StagedBackbone(
            self.name,
            out=[name],
            in_channels=self.out_features[before[0]].channels,
            frozen_stages=self.frozen_stages,
            checkpointing=self.checkpointing,
        )
        part.pretrained, part.default_weights = self.pretrained, self.default_weights
        for step in [step for step in self.steps if step.stage == _stage(name)]:
            modules = {name: self.get_submodule(name) for name in step.modules}
            part.add(step.stage, spec if step.gives else None, **modules)
            for module in modules:
                delattr(self, module)
            self.steps.remove(step)
        self.out = tuple(self.out_features)
        return part

    def _run(self, step: Step, x: Tensor) -> Tensor:
        modules = [self.get_submodule(name) for name in step.modules]
        if not (self.checkpointing and step.stage > 0 and modules[0].training and torch.is_grad_enabled()):
            return run_layers(modules, x)
        for module in modules:
            if isinstance(module, nn.Sequential):
                for block in module:
                    x = recomputed(block, x)
            else:
                x = module(x)
        return x


def _stage(map_name: str) -> int:
    """c1 is what stage 0 gives, the stem."""
    return int(map_name[1:]) - 1


def recomputed(block: nn.Module, x: Tensor) -> Any:
    """`block(x)`, of which only `x` is kept for the backward pass, where the rest is computed again."""
    if torch.compiler.is_compiling():  # the compiler sees to it that statistics are updated once
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _buffers_kept(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Within it the block works on copies of its buffers: its running statistics have seen the batch already."""
    kept = [(m, name, buffer) for m in block.modules() for name, buffer in m.named_buffers(recurse=False)]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
