"""Loops that settle, stop by what they compute, or differentiate inside the forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

WIDTH = 8


class PredictiveCoding(nn.Module):
    """Two levels that exchange predictions and errors until they have settled."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(WIDTH, 12)
        self.top = nn.Linear(4, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r1, r2 = x.new_zeros(len(x), WIDTH), x.new_zeros(len(x), 4)
        for _ in range(5):
            e0 = x - self.down(r1).relu()
            e1 = r1 - self.top(r2)
            r1 = r1 + 0.1 * (e0 @ self.down.weight - e1)
            r2 = r2 + 0.1 * (e1 @ self.top.weight)
        return r2, e0


class CORBlock(nn.Module):
    """An area: the same convolutions several times, a norm of its own each time."""

    def __init__(self, inputs: int, outputs: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.input = nn.Conv2d(inputs, outputs, 1)
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs) for _ in range(times)])

    def forward(self, x: Tensor, feedback: Tensor | None = None) -> Tensor:
        x = self.input(x)
        if feedback is not None:
            x = x + feedback
        for norm in self.norms:
            x = torch.relu(norm(self.conv(x)) + x)
        return x


class CORnet(nn.Module):
    """Areas with a recurrence of their own in a loop over time with feedback."""

    def __init__(self) -> None:
        super().__init__()
        self.v1, self.v2 = CORBlock(3, 6, 2), CORBlock(6, 6, 3)
        self.it = CORBlock(6, 6, 2)
        self.read = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        feedback = None
        for _ in range(3):
            v1 = self.v1(image, feedback)
            feedback = self.it(self.v2(v1))
        return self.read(feedback.mean((2, 3)))


class NeuralODE(nn.Module):
    """Euler steps, or those of Runge and Kutta."""

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order
        self.field = nn.Sequential(nn.Linear(WIDTH + 1, 16), nn.Tanh(), nn.Linear(16, WIDTH))

    def slope(self, t: float, y: Tensor) -> Tensor:
        return self.field(torch.cat([y, y.new_full((len(y), 1), t)], -1))

    def forward(self, y: Tensor) -> Tensor:
        dt = 0.2
        for step in range(5):
            t = step * dt
            k1 = self.slope(t, y)
            if self.order == 1:
                y = y + dt * k1
                continue
            k2 = self.slope(t + dt / 2, y + dt / 2 * k1)
            k3 = self.slope(t + dt / 2, y + dt / 2 * k2)
            k4 = self.slope(t + dt, y + dt * k3)
            y = y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return y


class Hopfield(nn.Module):
    """Updates until the state stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        patterns = torch.randn(3, 32).sign()
        self.weight = nn.Parameter((patterns.T @ patterns / 32).fill_diagonal_(0))

    def forward(self, state: Tensor) -> Tensor:
        for _ in range(20):
            new = torch.where(state @ self.weight >= 0, 1.0, -1.0)
            if torch.equal(new, state):
                break
            state = new
        return state


class DEQ(nn.Module):
    """A fixed point by iteration to a tolerance."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            self.inner.weight.mul_(0.4)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(30):
            new = torch.tanh(self.inner(z) + self.outer(x))
            if (new - z).norm() < 1e-3:
                break
            z = new
        return z


class AdaptiveTime(nn.Module):
    """Adaptive computation time: each example halts when its probabilities sum to one."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.halt = nn.GRUCell(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, out = torch.zeros_like(x), torch.zeros_like(x)
        total = x.new_zeros(len(x), 1)
        while bool((total < 0.99).any()):
            h = self.cell(x, h)
            p = torch.minimum(self.halt(h).sigmoid(), 1 - total)
            out = out + p * h
            total = total + p + 1e-3
        return out


class MAML(nn.Module):
    """One gradient step on the support set, then the adapted network on the query."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, support: Tensor, target: Tensor, query: Tensor) -> Tensor:
        params = dict(self.net.named_parameters())
        with torch.enable_grad():
            loss = (functional_call(self.net, params, support) - target).square().mean()
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        adapted = {k: p - 0.1 * g for (k, p), g in zip(params.items(), grads, strict=True)}
        return functional_call(self.net, adapted, query)


class Energy(nn.Module):
    """Force of a learned potential: the negative gradient of an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.potential = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            positions = positions.detach().requires_grad_()
            energy = self.potential(positions).sum()
            (gradient,) = torch.autograd.grad(energy, positions)
        return energy.detach(), -gradient


class Langevin(nn.Module):
    """Samples of an energy model by noisy gradient steps, with backward() inside."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(WIDTH, 16), nn.Softplus(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.energy(x).sum(), x)
            x = x - 0.05 * gradient + 0.01 * torch.randn_like(x)
        return x.detach()


class Diffusion(nn.Module):
    """A denoising loop from noise, a schedule in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.linspace(0.99, 0.7, 5))
        self.net = nn.Sequential(nn.Linear(WIDTH + 1, 16), nn.SiLU(), nn.Linear(16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for t in reversed(range(len(self.alpha))):
            a = self.alpha[t]
            noise = self.net(torch.cat([x, a.expand(len(x), 1)], -1))
            x = (x - (1 - a).sqrt() * noise) / a.sqrt()
        return x


class BeamSearch(nn.Module):
    """The best three sequences of a small language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(12, WIDTH), nn.GRUCell(WIDTH, WIDTH)
        self.read = nn.Linear(WIDTH, 12)

    def forward(self, start: Tensor) -> Tensor:
        beams = [(0.0, [int(start)], torch.zeros(1, WIDTH))]
        for _ in range(4):
            grown = []
            for score, words, h in beams:
                new = self.cell(self.embed(torch.tensor([words[-1]])), h)
                best, ids = self.read(new).log_softmax(-1).topk(3)
                for s, i in zip(best[0].tolist(), ids[0].tolist(), strict=True):
                    grown.append((score + s, [*words, i], new))
            beams = sorted(grown, key=lambda beam: -beam[0])[:3]
        return torch.cat([h for _, _, h in beams])


BUILDS = {
    "predictive_coding": lambda: (PredictiveCoding(), (torch.rand(2, 12),)),
    "cornet": lambda: (CORnet(), (torch.rand(2, 3, 16, 16),)),
    "neural_ode_euler": lambda: (NeuralODE(1), (torch.randn(2, WIDTH),)),
    "neural_ode_rk4": lambda: (NeuralODE(4), (torch.randn(2, WIDTH),)),
    "hopfield": lambda: (Hopfield(), (torch.randn(2, 32).sign(),)),
    "deq": lambda: (DEQ(), (torch.randn(2, WIDTH),)),
    "adaptive_time": lambda: (AdaptiveTime(), (torch.randn(3, WIDTH),)),
    "maml": lambda: (MAML(), (torch.randn(4, WIDTH), torch.randn(4, 1), torch.randn(3, WIDTH))),
    "energy": lambda: (Energy(), (torch.randn(5, 3),)),
    "langevin": lambda: (Langevin(), (torch.randn(2, WIDTH),)),
    "diffusion": lambda: (Diffusion(), (torch.randn(2, WIDTH),)),
    "beam_search": lambda: (BeamSearch(), (torch.tensor(1),)),
}
