"""A compiled model has as many graphs as there are sizes of batches; parameters that no loss reaches are found out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from chordate.engine.wrapping import compiled, unreached


def test_more_sizes_than_torch_compiles_by_default_are_all_compiled() -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = compiled(nn.Linear(2, 2), {"backend": backend, "dynamic": False})
    for size in range(2, 22):
        model(torch.zeros(size, 2))
    assert len(graphs) == 20


def test_parameters_that_no_loss_reaches_are_named_and_the_model_is_as_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2), nn.Linear(2, 2))
    model[3].requires_grad_(False)  # frozen: it waits for no gradient
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert unreached(model, lambda: model[:3](torch.ones(4, 2)).sum()) == ["4.weight", "4.bias"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
