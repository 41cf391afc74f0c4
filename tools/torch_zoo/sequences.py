"""A tagger with a bidirectional LSTM, and a graph network of matrix products and gathers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.torch_zoo.example import BATCH, Example

__all__ = ["graph_network", "lstm_tagger"]


class Tagger(nn.Module):
    def __init__(self, words: int = 50, width: int = 24, hidden: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.hidden, self.tags = nn.Linear(2 * hidden, 20), nn.Linear(20, 5)

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(words))
        tags: Tensor = self.tags(torch.relu(self.hidden(states)))
        return tags


class GraphLayer(nn.Module):
    """Neighbours by a product with the adjacency; messages along edges by gather."""

    def __init__(self, into: int, out: int, edge: int = 12) -> None:
        super().__init__()
        self.own, self.neighbours = nn.Linear(into, out), nn.Linear(into, out, bias=False)
        self.message, self.gate = nn.Linear(2 * out, edge), nn.Linear(edge, 1)

    def forward(self, x: Tensor, adjacency: Tensor, edges: Tensor) -> Tensor:
        y = torch.relu(self.own(x) + torch.matmul(adjacency, self.neighbours(x)))
        ends = [torch.gather(y, 1, edges[..., i : i + 1].expand(-1, -1, y.shape[-1])) for i in range(2)]
        gates: Tensor = self.gate(torch.relu(self.message(torch.cat(ends, dim=-1)))).sigmoid()
        return y * gates.mean(1, keepdim=True)


class GraphNetwork(nn.Module):
    def __init__(self, into: int = 6, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GraphLayer(into, width), GraphLayer(width, width)])
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor, adjacency: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, adjacency, edges)
        classes: Tensor = self.head(x.sum(dim=1))
        return classes


def lstm_tagger() -> Example:
    return Example(Tagger(), (torch.randint(0, 50, (BATCH, 9)),))


def graph_network(nodes: int = 7, edges: int = 10) -> Example:
    adjacency = torch.rand(BATCH, nodes, nodes).softmax(-1)
    pairs = torch.randint(0, nodes, (BATCH, edges, 2))
    return Example(GraphNetwork(), (torch.randn(BATCH, nodes, 6), adjacency, pairs))
