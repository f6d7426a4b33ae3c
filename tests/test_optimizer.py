"""Optimizers: learning rate and weight decay of each parameter; scaling of the learning rate with the batch size."""

from __future__ import annotations

from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from trainer_toy import ToyModel, log_text, read_log, toy_loader, toy_trainer

from chordate.arguments import PositiveFloat
from chordate.config import load_config, section
from chordate.errors import ConfigError
from chordate.registry import OPTIMIZERS
from chordate.training.optimizer import build_optimizer, optimizer_settings, parameter_groups

SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


class LayerNorm2d(nn.LayerNorm):
    """A norm layer defined by the user."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.backbone_extra = nn.Linear(4, 4)
        self.neck = nn.Sequential(nn.GroupNorm(2, 4), LayerNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.token = nn.Parameter(torch.zeros(4))


def rules(model: nn.Module, **options: Any) -> dict[str, tuple[float, float]]:
    """The (learning rate, weight decay) of each trainable parameter, keyed by name."""
    groups = parameter_groups(model, 0.1, 0.01, **options)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_without_rules_all_parameters_share_one_group() -> None:
    model = Model()
    assert len(parameter_groups(model, 0.1, 0.01)) == 1
    assert set(rules(model)) == {name for name, _ in model.named_parameters()}


def test_parts_have_learning_rates_and_the_longest_prefix_wins() -> None:
    settings = rules(Model(), parts={"backbone": {"lr_mult": 0.1}, "backbone.1": {"lr_mult": 0.5, "decay_mult": 0.0}})
    assert settings["backbone.0.weight"] == pytest.approx((0.01, 0.01))
    assert settings["backbone.1.weight"] == pytest.approx((0.05, 0.0))
    assert settings["backbone_extra.weight"] == pytest.approx((0.1, 0.01))


def test_no_decay_exempts_norm_layers_biases_and_named_parameters_from_weight_decay() -> None:
    settings = rules(Model(), no_decay=["norm", "bias", "token"])
    exempt = {name for name, (_, decay) in settings.items() if decay == 0}
    norms = {f"{layer}.{kind}" for layer in ("backbone.1", "neck.0", "neck.1") for kind in ("weight", "bias")}
    assert exempt == norms | {"backbone.0.bias", "backbone_extra.bias", "head.bias", "token"}


def test_no_decay_of_norm_layers_does_not_exempt_other_biases() -> None:
    settings = rules(Model(), no_decay=["norm"])
    assert settings["head.bias"][1] == 0.01
    assert settings["backbone.1.bias"][1] == 0


def test_frozen_parameters_are_left_out() -> None:
    model = Model()
    model.backbone.requires_grad_(False)
    assert not any(name.startswith("backbone.") for name in rules(model, parts={"backbone": {"lr_mult": 0.1}}))


def test_one_step_equals_the_formula_of_sgd_with_decay() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = build_optimizer(model, {**SGD, "parts": {"weight": {"lr_mult": 0.5}}}, 16)
    model.weight.grad = torch.tensor([[1.0, -2.0]])
    optimizer.step()
    assert torch.allclose(model.weight, before - 0.05 * (torch.tensor([[1.0, -2.0]]) + 0.01 * before))


def test_the_learning_rate_scales_linearly_with_the_batch_size() -> None:
    sgd = {**SGD, "lr": 0.02}
    assert optimizer_settings({**sgd, "base_batch_size": 16}).scaled_lr(2) == pytest.approx(0.0025)
    assert optimizer_settings(sgd).scaled_lr(2) == 0.02
    assert build_optimizer(Model(), {**SGD, "base_batch_size": 16}, 64).param_groups[0]["lr"] == pytest.approx(0.4)


def test_accumulated_batches_count_when_the_learning_rate_is_scaled(tmp_path: Any) -> None:
    trainer = toy_trainer(tmp_path, optimizer={**SGD, "base_batch_size": 16}, accumulate=3, iterations=1)
    trainer.train()
    assert read_log(tmp_path)[0]["lr"] == pytest.approx(0.1 * 4 * 3 / 16)
    text = log_text(trainer)
    assert "learning rate 0.075 (config: 0.1 for 16 images) for 12 images" in text


def test_adamw_takes_its_own_arguments() -> None:
    optimizer = build_optimizer(Model(), {"type": "AdamW", "lr": 1e-4, "betas": [0.9, 0.95], "weight_decay": 0.05}, 1)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert list(optimizer.param_groups[0]["betas"]) == [0.9, 0.95]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"type": "AdamWW"}, 'did you mean "AdamW"'),
        ({"type": "sgd"}, 'did you mean "SGD"'),
        ({"momentun": 0.9}, 'did you mean "momentum"'),
        ({"parts": {"bakbone": {"lr_mult": 0.1}}}, 'did you mean "backbone"'),
        ({"parts": {"backbone": {"lr_mul": 0.1}}}, 'did you mean "lr_mult"'),
        ({"no_decay": ["*.positions"]}, "matches no parameter"),
        ({"lr": -1.0}, "lr must be ≥ 0, got -1.0"),
    ],
)
def test_an_invalid_optimizer_setting_is_a_one_line_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_optimizer(Model(), {**SGD, **changed}, 16)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_completely_frozen_model_cannot_be_trained() -> None:
    with pytest.raises(ConfigError, match="frozen"):
        build_optimizer(Model().requires_grad_(False), SGD, 16)


def gradient(model: ToyModel, batches: list[Any]) -> list[Tensor]:
    model.train()
    loss = sum(sum(model.loss(batch).values()) for batch in batches) / len(batches)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_clipping_limits_the_gradient_norm_and_the_norm_before_clipping_is_logged(tmp_path: Any) -> None:
    plain = {"type": "SGD", "lr": 0.1}
    model = ToyModel(dropout=0)
    before = [p.detach().clone() for p in model.parameters()]
    loader = toy_loader(4)
    loader.start_epoch(0)
    norm = torch.cat([g.flatten() for g in gradient(model, list(loader))]).norm()
    toy_trainer(tmp_path, model=model, loader=loader, optimizer=plain, clip_norm=1e-2, iterations=1).train()
    step = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before)]).norm()
    assert norm > 1e-2
    assert read_log(tmp_path)[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert step.item() == pytest.approx(0.1 * 1e-2, rel=1e-3)


def test_accumulated_small_batches_equal_large_batches_also_at_the_end_of_an_epoch(tmp_path: Any) -> None:
    """Accumulating 11 batches of 2 in groups of 4, 4 and 3 equals steps with batches of 8, 8 and 6."""
    models = []
    for name, batch_size, accumulate in (("small", 2, 4), ("large", 8, 1)):
        torch.manual_seed(3)
        model = ToyModel(dropout=0, norm=False)
        loader = toy_loader(22, batch_size)
        toy_trainer(tmp_path / name, model=model, loader=loader, accumulate=accumulate, epochs=2).train()
        models.append(model)
    small, large = (read_log(tmp_path / name) for name in ("small", "large"))
    assert len(small) == len(large) == 6
    assert [line["loss"] for line in small] == pytest.approx([line["loss"] for line in large], rel=1e-5)
    for a, b in zip(*(model.parameters() for model in models)):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("Adamax", torch.optim.Adamax),
        ("Lamb", timm.optim.Lamb),
        ("lamb", timm.optim.Lamb),
        ("lion", timm.optim.Lion),
        ("SGD", torch.optim.SGD),  # torch's takes precedence over timm's
        ("lambw", timm.optim.Lamb),
    ],
)
def test_the_name_of_an_optimizer_is_torchs_or_timms(name: str, cls: type[torch.optim.Optimizer]) -> None:
    optimizer = build_optimizer(Model(), {"type": name, "lr": 0.01, "weight_decay": 0.1, "no_decay": ["bias"]}, 16)
    assert type(optimizer) is cls
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    if name == "lambw":  # timm's defaults depend on the optimizer's name
        assert optimizer.param_groups[0]["decoupled_decay"] is True


@pytest.mark.parametrize("name", ["Kron", "kron", "kronc", "kronw"])
def test_an_optimizer_whose_random_state_is_in_no_checkpoint_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f'"{name}" is not supported: it has a random generator'):
        build_optimizer(Model(), {"type": name, "lr": 0.01}, 16)


def test_training_with_timms_optimizer_equals_a_hand_written_loop(tmp_path: Any) -> None:
    torch.manual_seed(0)
    models = [ToyModel(dropout=0) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    loader = toy_loader()
    toy_trainer(tmp_path, model=models[0], loader=loader, optimizer={"type": "lion", "lr": 1e-3}, epochs=1).train()
    optimizer = timm.optim.create_optimizer_v2(models[1], "lion", lr=1e-3, weight_decay=0.0)
    loader.start_epoch(0)
    for batch in loader:
        optimizer.zero_grad()
        sum(models[1].loss(batch).values()).backward()
        optimizer.step()
    for ours, theirs in zip(*(model.parameters() for model in models)):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_a_custom_optimizer_can_be_registered_and_its_arguments_are_checked(tmp_path: Any) -> None:
    @OPTIMIZERS.register_module(force=True)
    class StrongSGD(torch.optim.SGD):
        def __init__(self, params: Any, lr: float, strength: PositiveFloat = 1.0):
            super().__init__(params, lr=lr * strength)

    config = {"type": "StrongSGD", "lr": 0.01, "strength": 2}
    assert isinstance(build_optimizer(Model(), config, 1), StrongSGD)
    toy_trainer(tmp_path, optimizer=config, iterations=1).train()
    with pytest.raises(ConfigError, match="strength must be > 0, got -1"):
        build_optimizer(Model(), {**config, "strength": -1}, 1)
    with pytest.raises(ConfigError, match='did you mean "strength"'):
        build_optimizer(Model(), {**config, "strenght": 1}, 1)


@pytest.mark.parametrize("name", ["adahessian", "Adahessian", "Lookahead", "Optimizer"])
def test_an_optimizer_that_the_trainer_cannot_step_is_not_supported(name: str) -> None:
    with pytest.raises(ConfigError, match=f'optimizer "{name}" is not supported'):
        build_optimizer(Model(), {"type": name, "lr": 0.1}, 1)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("parts=dict(bakbone=dict(lr_mult=0.1))", 'optimizer.parts: unknown part "bakbone"'),
        ("parts=dict(backbone=dict(lr_mlt=0.1))", "unknown setting of optimizer.parts.backbone"),
        ("parts=dict(backbone=dict(lr_mult=-1))", "optimizer.parts.backbone.lr_mult must be ≥ 0"),
        ('no_decay=["nrom"]', 'optimizer.no_decay: "nrom" matches no parameter'),
        ("layer_decay=0.5", "optimizer.layer_decay: Model has no sequence of blocks"),
    ],
)
def test_an_error_about_a_rule_names_the_file_and_the_setting(tmp_path: Any, rule: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"model = dict(type='X')\noptimizer = dict(type='SGD', lr=0.1, {rule})\n")
    with pytest.raises(ConfigError) as error:
        build_optimizer(Model(), section(load_config(path), "optimizer"), 16)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_a_first_step_skipped_by_loss_scaling_has_no_effect() -> None:
    """After a skipped first step, torch's fused SGD would use an uninitialized momentum buffer."""
    model = nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build_optimizer(model, {"type": "SGD", "lr": 0.1, "momentum": 0.9}, batch_size=1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.found_inf = torch.ones(())  # as torch.amp.GradScaler sets it
    optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    for parameter, start in zip(model.parameters(), before):
        torch.testing.assert_close(parameter.detach(), start - 0.1)
