"""A compiled model has one graph per batch shape, and never falls back to eager mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from chordate.training.prepare import compile_model


def test_more_batch_sizes_than_torchs_default_limit_are_all_compiled() -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = compile_model(nn.Linear(2, 2), {"backend": backend, "dynamic": False})
    for size in range(2, 22):
        model(torch.zeros(size, 2))
    assert len(graphs) == 20
