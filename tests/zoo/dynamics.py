"""Differential equations and spiking networks: torchdiffeq, torchsde, torchcde, snntorch, norse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .made import Made, Maker, image, seeded

BATCH, STEPS, WIDTH, HIDDEN = 3, 5, 4, 6


class Field(nn.Module):
    """A vector field that depends on time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH + 1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([y, t.expand(len(y), 1)], -1))


class Solved(nn.Module):
    """A neural ODE at five times, its last state read out."""

    def __init__(self, method: str, solver: str = "odeint", **options: Any) -> None:
        super().__init__()
        import torchdiffeq

        self.field, self.read = Field(), nn.Linear(WIDTH, 3)
        self.register_buffer("times", torch.linspace(0, 1, STEPS))
        self.solve, self.method, self.options = getattr(torchdiffeq, solver), method, options

    def forward(self, y: Tensor) -> Tensor:
        path = self.solve(self.field, y, self.times, method=self.method, **self.options)
        return self.read(path[-1])


def _ode(method: str, **options: Any) -> Made:
    return Made(Solved(method, **options).eval(), (image(BATCH, WIDTH),), stimuli=BATCH)


class Diffused(nn.Module):
    """A stochastic equation with a drift and a diffusion that are learned."""

    sde_type = "ito"

    def __init__(self, noise_type: str, method: str) -> None:
        super().__init__()
        import torchsde

        self.path, self.solve = torchsde.BrownianInterval, torchsde.sdeint
        self.noise_type, self.method = noise_type, method
        self.drift = nn.Linear(WIDTH, WIDTH)
        self.diffusion = nn.Linear(WIDTH, WIDTH * (2 if noise_type == "general" else 1))

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self.drift(y).tanh()

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        spread = 0.1 * self.diffusion(y).sigmoid()
        return spread.view(len(y), WIDTH, 2) if self.noise_type == "general" else spread

    def forward(self, y: Tensor) -> Tensor:
        noises = 2 if self.noise_type == "general" else WIDTH
        path = self.path(
            0.0, 1.0, (len(y), noises), entropy=3, levy_area_approximation="space-time"
        )
        times = torch.linspace(0, 1, 3)
        return self.solve(self, y, times, bm=path, dt=0.25, method=self.method)


def _sde(noise_type: str, method: str) -> Made:
    return Made(Diffused(noise_type, method).eval(), (image(BATCH, WIDTH),), stimuli=BATCH)


class Controlled(nn.Module):
    """A state driven by an interpolated path."""

    def __init__(self, spline: str) -> None:
        super().__init__()
        import torchcde

        self.solve = torchcde.cdeint
        if spline == "cubic":
            self.fit = torchcde.hermite_cubic_coefficients_with_backward_differences
            self.path = torchcde.CubicSpline
        else:
            self.fit = torchcde.linear_interpolation_coeffs
            self.path = torchcde.LinearInterpolation
        self.start = nn.Linear(WIDTH, HIDDEN)
        self.field = nn.Linear(HIDDEN, HIDDEN * WIDTH)
        self.read = nn.Linear(HIDDEN, 2)

    def speed(self, t: Tensor, z: Tensor) -> Tensor:
        return self.field(z).tanh().view(*z.shape, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        path = self.path(self.fit(x))
        z = self.solve(
            X=path,
            func=self.speed,
            z0=self.start(path.evaluate(path.interval[0])),
            t=path.interval,
            adjoint=False,
            method="rk4",
            options={"step_size": 1.0},
        )
        return self.read(z[:, -1])


def _cde(spline: str) -> Made:
    return Made(Controlled(spline).eval(), (image(BATCH, STEPS, WIDTH),), stimuli=BATCH)


class Spikes(nn.Module):
    """Two layers of snntorch's neurons over time; spikes are counted."""

    def __init__(self, neuron: str, **options: Any) -> None:
        super().__init__()
        import snntorch

        make = getattr(snntorch, neuron)
        self.first, self.second = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, 3)
        own = {"linear_features": HIDDEN} if neuron.startswith("R") else {}
        last = {"linear_features": 3} if neuron.startswith("R") else {}
        self.hidden, self.out = make(**options, **own), make(**options, **last)
        self.start = "reset_mem" if hasattr(self.hidden, "reset_mem") else f"init_{neuron.lower()}"

    def forward(self, x: Tensor) -> Tensor:
        hidden, out = self._states(self.hidden), self._states(self.out)
        spikes = []
        for step in x.unbind(1):
            spike, *hidden = self.hidden(self.first(step), *hidden)
            spike, *out = self.out(self.second(spike), *out)
            spikes.append(spike)
        return torch.stack(spikes).sum(0)

    def _states(self, neuron: nn.Module) -> list[Tensor]:
        found = getattr(neuron, self.start)()
        return list(found) if isinstance(found, tuple) else [found]


def _snn(neuron: str, **options: Any) -> Made:
    return Made(Spikes(neuron, **options).eval(), (2 * image(BATCH, STEPS, WIDTH),), stimuli=BATCH)


class SpikingConv(nn.Module):
    """A convolution and pooling with neurons that keep their state themselves."""

    def __init__(self) -> None:
        super().__init__()
        import snntorch
        from snntorch import utils

        self.reset = utils.reset
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.MaxPool2d(2),
            snntorch.Leaky(beta=0.8, init_hidden=True),
            nn.Flatten(),
            nn.Linear(36, 3),
            snntorch.Leaky(beta=0.8, init_hidden=True, output=True),
        )

    def forward(self, frames: Tensor) -> Tensor:
        self.reset(self.net)
        return torch.stack([self.net(frame)[1] for frame in frames.unbind(1)]).mean(0)


class SpikingLSTM(nn.Module):
    """An LSTM whose hidden state spikes."""

    def __init__(self) -> None:
        super().__init__()
        import snntorch

        self.cell, self.read = snntorch.SLSTM(WIDTH, HIDDEN, threshold=0.1), nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        synapse, membrane = self.cell.init_slstm()
        for step in x.unbind(1):
            spike, synapse, membrane = self.cell(step, synapse, membrane)
        return self.read(spike + membrane)


def _norse(neuron: str, *sizes: int) -> Made:
    """A layer of norse over time, time first, between two linear ones."""
    import norse.torch as norse

    inner = getattr(norse, neuron)(*sizes)
    model = norse.SequentialState(nn.Linear(WIDTH, HIDDEN), inner, nn.Linear(HIDDEN, 3), norse.LI())
    return Made(model.eval(), (20 * image(STEPS, BATCH, WIDTH),))


BUILDS: dict[str, Maker] = {
    "torchdiffeq/dopri5": lambda: _ode("dopri5", rtol=1e-3, atol=1e-3),
    "torchdiffeq/rk4": lambda: _ode("rk4"),
    "torchdiffeq/implicit_adams": lambda: _ode("implicit_adams"),
    "torchdiffeq/adjoint": lambda: _ode("midpoint", solver="odeint_adjoint"),
    "torchsde/euler": lambda: _sde("diagonal", "euler"),
    "torchsde/srk": lambda: _sde("diagonal", "srk"),
    "torchsde/general": lambda: _sde("general", "euler"),
    "torchcde/cubic": lambda: _cde("cubic"),
    "torchcde/linear": lambda: _cde("linear"),
    "snntorch/Leaky": lambda: _snn("Leaky", beta=0.8),
    "snntorch/Synaptic": lambda: _snn("Synaptic", alpha=0.9, beta=0.8, reset_mechanism="zero"),
    "snntorch/RSynaptic": lambda: _snn("RSynaptic", alpha=0.9, beta=0.8),
    "snntorch/Alpha": lambda: _snn("Alpha", alpha=0.9, beta=0.8),
    "snntorch/Lapicque": lambda: _snn("Lapicque", beta=0.5, learn_threshold=True),
    "snntorch/conv": lambda: Made(
        SpikingConv().eval(), (2 * image(BATCH, STEPS, 2, 8, 8),), stimuli=BATCH
    ),
    "snntorch/SLSTM": lambda: Made(
        SpikingLSTM().eval(), (2 * image(BATCH, STEPS, WIDTH),), stimuli=BATCH
    ),
    "norse/LIF": lambda: _norse("LIF"),
    "norse/LIFRecurrent": lambda: _norse("LIFRecurrent", HIDDEN, HIDDEN),
    "norse/LSNNRecurrent": lambda: _norse("LSNNRecurrent", HIDDEN, HIDDEN),
}


def models() -> dict[str, Maker]:
    """Name to maker."""
    return seeded(BUILDS)
