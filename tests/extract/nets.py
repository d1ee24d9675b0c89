"""Small models, and what hooks that clone see of them: the oracle of these tests."""

import torch
from torch import nn


class Net(nn.Module):
    """A convolution, two blocks and a head, with an in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        h = self.body(self.relu(self.conv(x)))
        return self.head(h.mean((2, 3)))


def net():
    torch.manual_seed(1)
    return Net().eval()


def images(n, seed=0):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def hooked(model, paths, batches, call=lambda model, batch: model(batch)):
    """What each module returned, cloned, over batches, joined."""
    found = {path: [] for path in paths}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda module, args, out, path=path: found[path].append(out.detach().clone())
        )
        for path in paths
    ]
    for batch in batches:
        call(model, batch)
    for handle in handles:
        handle.remove()
    return {path: torch.cat(values).numpy() for path, values in found.items()}


PATHS = {"conv2d_2": "body.0", "relu_2": "body.1", "linear_1": "head"}
"""Labels of `Net` to the modules that return them."""
