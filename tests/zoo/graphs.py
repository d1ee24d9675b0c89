"""Graphs, point clouds and molecules: torch_geometric and e3nn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .made import Made, Maker, image, seeded

NODES, WIDTH, HIDDEN = 12, 5, 8


def _edges() -> Tensor:
    """A ring and chords across it, both ways."""
    at = torch.arange(NODES)
    there = torch.cat([torch.stack([at, (at + step) % NODES]) for step in (1, 5)], 1)
    return torch.cat([there, there.flip(0)], 1)


def _graphs() -> Tensor:
    """Which of three graphs each node is of; unequal many."""
    return torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])


def _within() -> Tensor:
    """All edges within the three graphs."""
    graphs = _graphs()
    same = (graphs[:, None] == graphs) & ~torch.eye(NODES, dtype=torch.bool)
    return same.nonzero().T.contiguous()


def _features(*shape: int) -> Tensor:
    return image(*(shape or (NODES, WIDTH)))


def _geometric(name: str, **options: Any) -> Made:
    """A model over nodes; each node is one stimulus."""
    import torch_geometric.nn

    model = getattr(torch_geometric.nn, name)(WIDTH, HIDDEN, **options).eval()
    return Made(model, (_features(), _edges()), stimuli=NODES)


class GraphClassifier(nn.Module):
    """Convolutions over the nodes of several graphs, pooled graph by graph."""

    def __init__(self, conv: str, pool: str, norm: str) -> None:
        super().__init__()
        import torch_geometric.nn as layers

        make = getattr(layers, conv)
        build = (lambda i, o: make(nn.Linear(i, o))) if conv == "GINConv" else make
        self.first, self.second = build(WIDTH, HIDDEN), build(HIDDEN, HIDDEN)
        self.norm = getattr(layers, norm)(HIDDEN)
        self.pool = getattr(layers, pool)
        self.read = nn.Linear(HIDDEN, 3)

    def forward(self, data: Any) -> Tensor:
        x = self.norm(self.first(data.x, data.edge_index)).relu()
        x = self.second(x, data.edge_index).relu()
        return self.read(self.pool(x, data.batch))


def _classifier(conv: str, pool: str, norm: str) -> Made:
    from torch_geometric.data import Batch, Data

    graphs = _graphs()
    single = []
    for k in range(3):
        n = int((graphs == k).sum())
        at = torch.arange(n)
        edges = torch.stack([at, (at + 1) % n])
        single.append(Data(x=_features(n, WIDTH), edge_index=edges))
    return Made(GraphClassifier(conv, pool, norm).eval(), (Batch.from_data_list(single),))


def _sparse() -> Made:
    """The adjacency as a sparse tensor."""
    from torch_geometric.nn import GCN

    edges = _edges()
    ones = torch.ones(edges.shape[1])
    adjacency = torch.sparse_coo_tensor(edges, ones, (NODES, NODES)).coalesce()
    return Made(GCN(WIDTH, HIDDEN, 2).eval(), (_features(), adjacency))


def _dense() -> Made:
    """Graphs as a batch of adjacency matrices."""
    from torch_geometric.nn import DenseGCNConv, DenseSAGEConv, dense_diff_pool

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.assign, self.embed = DenseGCNConv(WIDTH, 4), DenseSAGEConv(WIDTH, HIDDEN)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            pooled, links, _, _ = dense_diff_pool(
                self.embed(x, adjacency), adjacency, self.assign(x, adjacency)
            )
            return (links @ pooled).mean(1)

    adjacency = (_features(3, NODES, NODES) > 0.6).float()
    return Made(Dense().eval(), (_features(3, NODES, WIDTH), adjacency), stimuli=3)


class _AllPairs(nn.Module):
    """The interaction graph, where no compiled package finds neighbours."""

    def forward(self, positions: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        same = (batch[:, None] == batch) & ~torch.eye(len(batch), dtype=torch.bool)
        edges = same.nonzero().T
        return edges, (positions[edges[0]] - positions[edges[1]]).norm(dim=-1)


def _molecules() -> tuple[Tensor, Tensor, Tensor]:
    atoms = torch.randint(1, 9, (NODES,), generator=torch.Generator().manual_seed(1))
    return atoms, 2 * _features(NODES, 3), _graphs()


def _schnet() -> Made:
    from torch_geometric.nn import SchNet

    model = SchNet(HIDDEN, HIDDEN, 2, 10, interaction_graph=_AllPairs())
    return Made(model.eval(), _molecules())


def _attentive() -> Made:
    from torch_geometric.nn import AttentiveFP

    edges = _within()
    model = AttentiveFP(WIDTH, HIDDEN, 3, edge_dim=2, num_layers=2, num_timesteps=2)
    return Made(model.eval(), (_features(), edges, _features(edges.shape[1], 2), _graphs()))


def _unet() -> Made:
    from torch_geometric.nn import GraphUNet

    model = GraphUNet(WIDTH, HIDDEN, 3, depth=2, pool_ratios=0.6)
    return Made(model.eval(), (_features(), _edges()))


def _autoencoder() -> Made:
    from torch_geometric.nn import VGAE, GCNConv

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.spread = GCNConv(WIDTH, 4), GCNConv(WIDTH, 4)

        def forward(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
            return self.mean(x, edges), self.spread(x, edges)

    return Made(VGAE(Encoder()).eval(), (_features(), _edges()), method="encode")


def _e3nn_network() -> Made:
    from e3nn.nn.models.v2106.gate_points_networks import SimpleNetwork

    model = SimpleNetwork(
        irreps_in="2x0e",
        irreps_out="1x1o + 1x0e",
        max_radius=1.5,
        num_neighbors=6.0,
        num_nodes=4.0,
        mul=2,
        layers=1,
        lmax=1,
    )
    batch = {"pos": _features(NODES, 3), "x": _features(NODES, 2), "batch": _graphs()}
    return Made(model.eval(), (batch,))


def _e3nn_gate() -> Made:
    """Vectors and scalars times spherical harmonics, gated and normalised."""
    from e3nn import nn as layers
    from e3nn import o3

    class Equivariant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.harmonics = o3.SphericalHarmonics("0e + 1o + 2e", normalize=True)
            self.gate = layers.Gate("4x0e", [torch.tanh], "3x0e", [torch.sigmoid], "3x1o")
            self.product = o3.FullyConnectedTensorProduct(
                "3x0e + 2x1o", self.harmonics.irreps_out, self.gate.irreps_in
            )
            self.norm = layers.BatchNorm(self.gate.irreps_out)
            self.read = o3.Linear(self.gate.irreps_out, "2x0e + 1x1o")

        def forward(self, x: Tensor, direction: Tensor) -> Tensor:
            product = self.product(x, self.harmonics(direction))
            return self.read(self.norm(self.gate(product)))

    return Made(Equivariant().eval(), (_features(4, 9), _features(4, 3)), stimuli=4)


def _e3nn_sphere() -> Made:
    """A signal on the sphere by a grid, an activation there, and back."""
    from e3nn import nn as layers
    from e3nn import o3

    model = nn.Sequential(
        o3.Linear("2x0e + 2x1o", "0e + 1o + 2e"),
        layers.S2Activation("0e + 1o + 2e", torch.relu, 10),
        layers.NormActivation("0e + 1o + 2e", torch.sigmoid),
    )
    return Made(model.eval(), (_features(4, 8),), stimuli=4)


BUILDS: dict[str, Maker] = {
    "torch_geometric/GCN": lambda: _geometric("GCN", num_layers=2),
    "torch_geometric/GAT": lambda: _geometric("GAT", num_layers=2, heads=2),
    "torch_geometric/GATv2": lambda: _geometric("GAT", num_layers=2, v2=True, jk="cat"),
    "torch_geometric/GIN": lambda: _geometric("GIN", num_layers=2, norm="batch_norm"),
    "torch_geometric/PNA": lambda: _geometric(
        "PNA",
        num_layers=1,
        aggregators=["mean", "max", "std"],
        scalers=["identity", "amplification"],
        deg=torch.tensor([0, 0, 0, 0, NODES]),
    ),
    "torch_geometric/EdgeCNN": lambda: _geometric("EdgeCNN", num_layers=2),
    "torch_geometric/graphs_gin": lambda: _classifier("GINConv", "global_add_pool", "GraphNorm"),
    "torch_geometric/graphs_gcn": lambda: _classifier("GCNConv", "global_mean_pool", "BatchNorm"),
    "torch_geometric/graphs_transformer": lambda: _classifier(
        "TransformerConv", "global_max_pool", "LayerNorm"
    ),
    "torch_geometric/sparse": _sparse,
    "torch_geometric/dense": _dense,
    "torch_geometric/SchNet": _schnet,
    "torch_geometric/AttentiveFP": _attentive,
    "torch_geometric/GraphUNet": _unet,
    "torch_geometric/VGAE": _autoencoder,
    "e3nn/SimpleNetwork": _e3nn_network,
    "e3nn/gate": _e3nn_gate,
    "e3nn/sphere": _e3nn_sphere,
}


def models() -> dict[str, Maker]:
    """Name to maker."""
    return seeded(BUILDS)
