"""Distributions: gpytorch's processes, zuko's and pyro's flows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .made import Made, Maker, image, seeded

BATCH, WIDTH, CONTEXT = 4, 3, 2


def _exact(kernel: str) -> Made:
    """An exact process asked at new places, as one is after training."""
    import gpytorch

    class Exact(gpytorch.models.ExactGP):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
            self.mean_module = gpytorch.means.ConstantMean()
            inner = getattr(gpytorch.kernels, kernel)(ard_num_dims=WIDTH)
            self.covar_module = gpytorch.kernels.ScaleKernel(inner)

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(
                self.mean_module(x), self.covar_module(x)
            )

    class Asked(nn.Module):
        """Mean and variance of the posterior; the caches are filled anew each time."""

        def __init__(self) -> None:
            super().__init__()
            x = image(9, WIDTH)
            self.process = Exact(x, x.sum(1).sin())

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.process._clear_cache()
            posterior = self.process(x)
            return posterior.mean, posterior.variance

    return Made(Asked().eval(), (image(BATCH, WIDTH),), stimuli=BATCH)


def _variational() -> Made:
    """Inducing points, behind a network that makes the features."""
    import gpytorch
    from gpytorch.variational import CholeskyVariationalDistribution, VariationalStrategy

    class Deep(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            points = image(5, 2)
            posterior = CholeskyVariationalDistribution(len(points))
            super().__init__(VariationalStrategy(self, points, posterior))
            self.mean_module = gpytorch.means.LinearMean(2)
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(
                self.mean_module(x), self.covar_module(x)
            )

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.process = nn.Sequential(nn.Linear(WIDTH, 2), nn.Tanh()), Deep()

        def forward(self, x: Tensor) -> Tensor:
            return self.process(self.features(x)).mean

    return Made(Asked().eval(), (image(BATCH, WIDTH),), stimuli=BATCH)


class Density(nn.Module):
    """How likely values are under a flow, given a context."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.flow(context).log_prob(x)

    def samples(self, context: Tensor) -> Tensor:
        return self.flow(context).rsample((2,))


def _zuko(name: str, method: str = "__call__", **options: Any) -> Made:
    import zuko

    flow = getattr(zuko.flows, name)(WIDTH, CONTEXT, hidden_features=(8, 8), **options)
    x, context = image(BATCH, WIDTH), image(BATCH, CONTEXT)
    args = (x, context) if method == "__call__" else (context,)
    return Made(Density(flow).eval(), args, stimuli=BATCH, method=method)


def _mixture() -> Made:
    import zuko

    model = Density(zuko.flows.GMM(WIDTH, CONTEXT, hidden_features=(8,)))
    return Made(model.eval(), (image(BATCH, WIDTH), image(BATCH, CONTEXT)), stimuli=BATCH)


class PyroFlow(nn.Module):
    """Autoregressive transforms of pyro around a normal."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        from pyro import distributions
        from pyro.distributions import transforms

        self.normal, self.transformed = distributions.Normal, distributions.TransformedDistribution
        self.parts = nn.ModuleList([getattr(transforms, kind)(WIDTH) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        base = self.normal(torch.zeros(WIDTH), torch.ones(WIDTH)).to_event(1)
        return self.transformed(base, list(self.parts)).log_prob(x)


class PyroVAE(nn.Module):
    """An encoder, pyro's sample site within a trace of its own, a decoder."""

    def __init__(self) -> None:
        super().__init__()
        import pyro
        from pyro.nn import DenseNN

        self.normal, self.plate = pyro.distributions.Normal, pyro.plate
        self.sample, self.sites = pyro.sample, pyro.poutine.trace
        self.encode, self.decode = DenseNN(WIDTH, [8], [2, 2]), DenseNN(2, [8], [WIDTH])

    def model(self, x: Tensor) -> Tensor:
        mean, spread = self.encode(x)
        with self.plate("stimuli", len(x)):
            normal = self.normal(mean, spread.exp()).to_event(1)
            return self.decode(self.sample("z", normal))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.sites(self.model).get_trace(x)
        return found.nodes["_RETURN"]["value"], found.log_prob_sum()


BUILDS: dict[str, Maker] = {
    "gpytorch/exact_rbf": lambda: _exact("RBFKernel"),
    "gpytorch/exact_matern": lambda: _exact("MaternKernel"),
    "gpytorch/variational": _variational,
    "zuko/NSF": lambda: _zuko("NSF", transforms=2),
    "zuko/MAF": lambda: _zuko("MAF", transforms=2),
    "zuko/NICE_samples": lambda: _zuko("NICE", "samples", transforms=2),
    "zuko/NAF": lambda: _zuko("NAF", transforms=1),
    "zuko/CNF": lambda: _zuko("CNF"),
    "zuko/GMM": _mixture,
    "pyro/spline": lambda: Made(
        PyroFlow("spline_autoregressive").eval(), (image(BATCH, WIDTH),), stimuli=BATCH
    ),
    "pyro/affine": lambda: Made(
        PyroFlow("affine_autoregressive").eval(), (image(BATCH, WIDTH),), stimuli=BATCH
    ),
    "pyro/vae": lambda: Made(PyroVAE().eval(), (image(BATCH, WIDTH),), stimuli=BATCH),
}


def models() -> dict[str, Maker]:
    """Name to maker."""
    return seeded(BUILDS)
