"""Mixed precision, channels-last memory format and compilation change losses only by rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_toy import OPTIMIZER, ToyMetric, ToyModel, read_log, toy_loader, toy_trainer

from chordate.errors import ConfigError
from chordate.registry import BACKBONES
from chordate.structures import Batch
from chordate.training.evaluation_loop import evaluate, to_device
from chordate.training.precision import (
    autocast,
    gradient_scaler,
    is_unsafe_in_nhwc,
    to_channels_last_weights,
    use_channels_last,
)

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Watched(ToyModel):
    """Records the output dtype of its convolution and whether its input is in channels-last format."""

    def __init__(self) -> None:
        super().__init__(dropout=0)
        self.seen: list[tuple[torch.dtype, bool]] = []
        self.backbone[0].register_forward_hook(
            lambda _, inputs, output: self.seen.append(
                (output.dtype, inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
        )


def losses(folder: Path, **options: Any) -> tuple[list[float], Watched]:
    torch.manual_seed(1)
    model = Watched()
    toy_trainer(folder, model=model, epochs=1, **options).train()
    return [line["loss"] for line in read_log(folder)], model


def test_bf16_computes_in_bfloat16_and_keeps_weights_and_losses_in_float32(tmp_path: Path) -> None:
    full, _ = losses(tmp_path / "full")
    mixed, model = losses(tmp_path / "mixed", amp="bf16")
    assert {dtype for dtype, _ in model.seen} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.05, abs=0.005)


def test_evaluation_is_in_full_precision_by_default(tmp_path: Path) -> None:
    model = Watched()
    loader = toy_loader(4, training=False)
    evaluate(model, loader, ToyMetric(), device=CPU)
    evaluate(model, loader, ToyMetric(), device=CPU, amp="bf16", channels_last=True)
    assert model.seen == [(torch.float32, False), (torch.bfloat16, True)]


def test_fp16_on_the_cpu_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='use amp="bf16"'):
        toy_trainer(tmp_path, amp="fp16")
    with pytest.raises(ConfigError, match='use amp="bf16"'):
        gradient_scaler(CPU, "fp16")
    with pytest.raises(ConfigError, match='use amp="bf16"'):
        autocast(CPU, "fp16")


def test_channels_last_applies_to_images_and_weights_and_changes_no_result(tmp_path: Path) -> None:
    usual, _ = losses(tmp_path / "usual")
    other, model = losses(tmp_path / "other", channels_last=True)
    assert all(is_channels_last for _, is_channels_last in model.seen)
    assert model.backbone[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert other == pytest.approx(usual, rel=1e-4)


@pytest.mark.parametrize(("capability", "wanted"), [("AVX2", False), ("AVX512", True), ("DEFAULT", False)])
def test_the_automatic_layout_is_channels_last_only_with_avx512_or_a_gpu(
    tmp_path: Path, monkeypatch, capability, wanted
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    _, model = losses(tmp_path, channels_last="auto")
    assert {is_channels_last for _, is_channels_last in model.seen} == {wanted}
    assert model.backbone[0].weight.is_contiguous(memory_format=torch.channels_last) == wanted
    assert use_channels_last("auto", torch.device("cuda"))


def test_clips_and_the_weights_of_3d_convolutions_stay_contiguous() -> None:
    batch = Batch(torch.zeros(2, 3, 4, 8, 8), torch.full((2, 2), 8), [])
    assert to_device(batch, CPU, channels_last=True).images.is_contiguous()
    model = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 3), torch.nn.Conv2d(3, 4, 3))
    to_channels_last_weights(model)
    assert model[0].weight.is_contiguous() and model[1].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8])
@pytest.mark.parametrize(("height", "width"), [(16, 336), (32, 64), (7, 9)])
def test_strided_1x1_convolutions_of_few_channels_compute_in_nchw(channels: int, height: int, width: int) -> None:
    """In NHWC, oneDNN's weight gradient corrupts memory (docs/upstream/onednn_1x1.md)."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(channels, 16, 1, stride=2, bias=False)
    images, gradient = torch.randn(2, channels, height, width), torch.randn(2, 16, -(-height // 2), -(-width // 2))
    (wanted,) = torch.autograd.grad(conv(images), conv.weight, gradient)
    model = torch.nn.Sequential(torch.nn.Identity(), conv).to(memory_format=torch.channels_last)
    layouts: list[bool] = []
    conv.register_forward_hook(lambda _, inputs, output: layouts.extend((is_nhwc(output), is_nhwc(inputs[0]))))
    for _ in range(2):  # twice, since every evaluation converts the weights again
        to_channels_last_weights(model)
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    output = model(images)
    assert conv.weight.stride() == (channels, 1, 1, 1)
    assert layouts == [False, False]  # otherwise the next line may crash the process
    output.backward(gradient.to(memory_format=torch.channels_last))
    assert conv.weight.grad is not None
    torch.testing.assert_close(conv.weight.grad, wanted)


def is_nhwc(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


@pytest.mark.parametrize(
    "conv", [torch.nn.Conv2d(8, 16, 1), torch.nn.Conv2d(8, 16, 3, 2), torch.nn.Conv2d(64, 9, 1, 2)]
)
def test_other_convolutions_compute_in_nhwc(conv: torch.nn.Conv2d) -> None:
    to_channels_last_weights(conv)
    assert is_nhwc(conv(torch.randn(2, conv.in_channels, 16, 32).to(memory_format=torch.channels_last)))


def test_the_shortcuts_of_a_narrow_resnet_compute_in_nchw() -> None:
    model = BACKBONES.build({"type": "resnet18", "base_channels": 8})
    to_channels_last_weights(model)
    strided = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [is_unsafe_in_nhwc(conv) for conv in strided] == [True, False, False]
    images = torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last)
    inputs: list[bool] = []
    for conv in strided:
        conv.register_forward_hook(lambda _, args, output: inputs.append(is_nhwc(args[0])))
    sum(maps.sum() for maps in model.train()(images).values()).backward()
    assert inputs == [False, True, True]


def test_a_compiled_model_has_the_same_losses_and_weight_names(tmp_path: Path) -> None:
    usual, model = losses(tmp_path / "usual")
    other, _ = losses(
        tmp_path / "other", compile={"backend": "eager"}, val_loader=toy_loader(4, training=False), metric=ToyMetric()
    )
    assert other == pytest.approx(usual, rel=1e-5)
    saved = torch.load(tmp_path / "other" / "epoch_1.pt", weights_only=True)["model"]
    assert list(saved) == list(model.state_dict())
    assert len(read_log(tmp_path / "other", "val")) == 1


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_an_iteration_on_the_gpu_has_no_host_sync(tmp_path: Path, amp: str | None, kind: str) -> None:
    optimizer = OPTIMIZER if kind == "SGD" else {"type": "AdamW", "lr": 1e-3}
    trainer = toy_trainer(
        tmp_path, optimizer=optimizer, amp=amp, clip_norm=1.0, ema=0.9, accumulate=2, channels_last=True,
        log_every=100, epochs=3,
    )  # fmt: skip
    trainer.train()  # warm-up
    batches = [batch.pin_memory() for batch in list(toy_loader())[:2]]
    trainer.model.train()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.train_step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.losses.read()
    assert trainer.losses.means()["loss"] > 0


@pytest.mark.gpu
@gpu
def test_fp16_skips_a_step_that_overflows_and_lowers_the_loss_scale(tmp_path: Path) -> None:
    class Weight(ToyModel):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.factor = torch.nn.Parameter(torch.ones(1)), torch.inf

        def loss(self, batch: Any) -> dict[str, torch.Tensor]:
            return {"fit": (self.weight * self.factor).sum()}

    model = Weight()
    sgd = {"type": "SGD", "lr": 0.1}
    trainer = toy_trainer(tmp_path, model=model, optimizer=sgd, amp="fp16", clip_norm=1.0)
    batches, scale = [next(iter(toy_loader()))], trainer.scaler.get_scale()
    trainer.train_step(batches)
    assert (model.weight.item(), trainer.scaler.get_scale()) == (1.0, scale / 2)
    model.factor = 0.5
    trainer.train_step(batches)
    assert model.weight.item() == pytest.approx(0.95)


@pytest.mark.gpu
@gpu
def test_resuming_on_a_gpu_restores_its_random_state_and_loss_scale(tmp_path: Path) -> None:
    for folder, stages in (("whole", [12]), ("resumed", [5, 12])):
        for iterations in stages:
            toy_trainer(tmp_path / folder, amp="fp16", iterations=iterations, resume=True).train()
    whole, resumed = (read_log(tmp_path / folder) for folder in ("whole", "resumed"))
    assert [line["loss"] for line in resumed] == pytest.approx([line["loss"] for line in whole], rel=1e-3)
