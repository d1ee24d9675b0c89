"""Small networks of kinds the model libraries do not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """Down, up, and the shortcuts between."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 8), (8, 16)]
        self.downs = nn.ModuleList([nn.Conv2d(i, o, 3, padding=1) for i, o in widths])
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.ups = nn.ModuleList([nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2)])
        self.merges = nn.ModuleList([nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(16, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for down in self.downs:
            x = down(x).relu()
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x).relu()
        for up, merge in zip(self.ups, self.merges, strict=True):
            x = merge(torch.cat([up(x), kept.pop()], 1))
        return x


class Generator(nn.Module):
    """The generator of a DCGAN."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(10, 16, 4),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z[:, :, None, None])


class VAE(nn.Module):
    """A latent drawn by torch.distributions."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 8), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_scale = self.encode(x).chunk(2, -1)
        posterior = torch.distributions.Normal(mean, log_scale.exp())
        return self.decode(posterior.rsample()).sigmoid(), mean, log_scale


class GraphConv(nn.Module):
    """Kipf and Welling's propagation by a normalised adjacency."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        linked = adjacency + torch.eye(len(adjacency))
        scale = linked.sum(1).rsqrt()
        norm = scale[:, None] * linked * scale[None]
        return norm @ self.second((norm @ self.first(nodes)).relu())


class MessagePassing(nn.Module):
    """Messages along edges, gathered by index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(12, 6), nn.GRUCell(6, 6)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        for _ in range(3):
            sent = self.message(torch.cat([nodes[source], nodes[target]], -1)).relu()
            nodes = self.update(torch.zeros_like(nodes).index_add_(0, target, sent), nodes)
        return nodes


class MoE(nn.Module):
    """Each token goes to its two best experts, written back by index."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

    def forward(self, tokens: Tensor) -> Tensor:
        weights, chosen = self.router(tokens).softmax(-1).topk(2)
        out = torch.zeros_like(tokens)
        for i, expert in enumerate(self.experts):
            row, rank = torch.where(chosen == i)
            if len(row):
                out.index_add_(0, row, expert(tokens[row]) * weights[row, rank, None])
        return out


class SparseCoding(nn.Module):
    """ISTA with the transposed dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(F.normalize(torch.randn(12, 20), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        code = x.new_zeros(len(x), 20)
        for _ in range(6):
            residual = x - code @ self.dictionary.T
            code = F.softshrink(code + 0.1 * residual @ self.dictionary, 0.02)
        return code


class Capsules(nn.Module):
    """Routing by agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(6, 3, 4, 5))

    def forward(self, u: Tensor) -> Tensor:
        votes = torch.einsum("bid,ijdk->bijk", u, self.weight)
        logits = votes.new_zeros(votes.shape[:3])
        for _ in range(3):
            s = (logits.softmax(-1)[..., None] * votes).sum(1)
            squared = s.square().sum(-1, keepdim=True)
            v = squared / (1 + squared) * s / (squared + 1e-8).sqrt()
            logits = logits + (votes * v[:, None]).sum(-1)
        return v


class SpatialTransformer(nn.Module):
    """Attends to a part of the image by an affine grid."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Linear(3 * 8 * 8, 6)

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta(x.flatten(1)).view(-1, 2, 3), list(x.shape), False)
        return F.grid_sample(x, grid, align_corners=False)


class FourierLayer(nn.Module):
    """A Fourier neural operator's layer, with complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 5, dtype=torch.cfloat))
        self.skip = nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)
        kept = torch.zeros_like(spectrum)
        kept[..., :5] = torch.einsum("bix,iox->box", spectrum[..., :5], self.weight)
        return torch.relu(torch.fft.irfft(kept, n=x.shape[-1]) + self.skip(x))


BUILDS = {
    "unet": lambda: (UNet(), (torch.rand(2, 3, 16, 16),)),
    "gan_generator": lambda: (Generator(), (torch.randn(2, 10),)),
    "vae": lambda: (VAE(), (torch.rand(2, 12),)),
    "graph_conv": lambda: (GraphConv(), (torch.randn(5, 6), (torch.rand(5, 5) > 0.5).float())),
    "message_passing": lambda: (
        MessagePassing(),
        (torch.randn(5, 6), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]])),
    ),
    "mixture_of_experts": lambda: (MoE(), (torch.randn(10, 8),)),
    "sparse_coding": lambda: (SparseCoding(), (torch.randn(2, 12),)),
    "capsules": lambda: (Capsules(), (torch.randn(2, 6, 4),)),
    "spatial_transformer": lambda: (SpatialTransformer(), (torch.rand(2, 3, 8, 8),)),
    "fourier_operator": lambda: (FourierLayer(), (torch.randn(2, 4, 16),)),
}
