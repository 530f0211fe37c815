"""Ablation where shapes depend on values, which torch.vmap does not cross."""

import torch
from torch import nn

import interactgraph as itg


class Experts(nn.Module):
    """Each row goes to one of two experts; only experts with a row are computed."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(5, 2)
        self.experts = nn.ModuleList([nn.Linear(5, 4), nn.Linear(5, 4)])

    def forward(self, x):
        chosen = self.router(x).argmax(-1)
        out = x.new_zeros(len(x), 4)
        for expert in chosen.unique().tolist():
            rows = (chosen == expert).nonzero()[:, 0]
            out = out.index_add(0, rows, self.experts[expert](x[rows]).tanh())
        return out


def test_rows_that_choose_experts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), Experts()).double()
    x = torch.randn(30, 3, dtype=torch.float64)
    graph = itg.interaction_graph(
        model, x.split(10), ["0", "1"], method="ablation", strengths=("rms", "mean"), progress=False
    )
    with torch.no_grad():
        h = model[0](x)
        effects = []
        for j in range(5):
            without = h.clone()
            without[:, j] = 0
            effects.append(model[1](h) - model[1](without))
    effect = torch.stack(effects, -1)
    torch.testing.assert_close(graph.weights("0", "1", "mean"), effect.mean(0))
    torch.testing.assert_close(graph.weights("0", "1"), effect.square().mean(0).sqrt())
