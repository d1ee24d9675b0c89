"""An id never stands at another stimulus' value, and stands where the order comes back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import (
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
)

import lensframe_pd as lf

N = 4
P = torch.tensor([2, 0, 3, 1])
COLUMN = P[:, None].expand(N, 6)
SOME, TWICE = torch.tensor([0, 1, 1, 2, 3]), torch.tensor([0, 3, 1, 2, 3])
OWN = torch.arange(4.0)[:, None].expand(N, 6)
"""What no stimulus went into, though its values are those of the stimuli."""


def placed(write, target=torch.zeros(N, 6)):  # noqa: B008
    def forward(x):
        out = target.clone()
        write(out, x)
        return out * 1

    return forward


def routed(x):
    """A mixture of two experts as transformers has it: who goes to which, and back."""
    out, weights = torch.zeros_like(x), x[:, :1] * 0 + 1
    mask = torch.stack([x[:, :1] > 1, x[:, :1] <= 1]).permute(0, 2, 1)
    for of_expert in mask:
        choice, token = torch.where(of_expert)
        out.index_add_(0, token, x[token] * weights[token, choice, None])
    return out


def in_groups(x):
    """Rows sorted by expert, each group by its own matrix, and back."""
    order = x.sum(1).cos().argsort()
    ends = (order >= 0).cumsum(0)[1::2].int()
    matrices = torch.eye(8).expand(2, 8, 8).contiguous()
    return F.grouped_mm(F.pad(x[order], (0, 2)), matrices, offs=ends)[order.argsort()][:, :6]


def spliced(x):
    """Tokens put between others, as models of pictures and text have it."""
    batch, place = torch.where(x > -1)
    out = torch.zeros(N, 8)
    out[batch, place + 1] = x[batch, place]
    return out[:, 1:7]


def last(forward, shape, *more):
    """The last variable of a trace over stimuli whose values are all their own number."""
    x = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)).expand(shape).clone().float()
    found = lf.trace(forward, (x, *more), stimulus=list("abcdefgh")[: shape[0]]).activations
    return found[list(found.data_vars)[-1]]


#: They only move entries, so the value at an id must be the number of that very stimulus.
MOVES = {
    "flip twice": (lambda x: x.flip(0).flip(0), 0),
    "flip of features": (lambda x: x.flip(1), 0),
    "picked and put back": (lambda x: x[P][P.argsort()], 0),
    "index_select and back": (lambda x: x.index_select(0, P).index_select(0, P.argsort()), 0),
    "gather and back": (lambda x: x.gather(0, COLUMN).gather(0, P.argsort()[:, None].expand(4, 6)),
                        0),
    "rolled and back": (lambda x: x.roll(1, 0).roll(-1, 0), 0),
    "rolled along features": (lambda x: x.roll(1, 1), 0),
    "cut and joined in order": (lambda x: torch.cat([x[:1], x[1:]]), 0),
    "cut, swapped, swapped back": (lambda x: (lambda y: torch.cat([y[1:], y[:1]]))(
        torch.cat([x[-1:], x[:-1]])), 0),
    "doubled and halved": (lambda x: torch.cat([x, x]).chunk(2)[1], 0),
    "split and joined": (lambda x: torch.cat(x.split([1, 2, 1])), 0),
    "interleaved, viewed": (lambda x: x.repeat_interleave(3, 0).view(N, 3, 6), 0),
    "tiled, viewed": (lambda x: x.repeat(3, 1).view(3, N, 6), 1),
    "one by one": (lambda x: torch.stack([x[i] * 1 for i in range(N)]), 0),
    "unbound, stacked behind": (lambda x: torch.stack(x.unbind(0), 1), 1),
    "written one by one": (placed(lambda o, x: [o.__setitem__(i, x[i]) for i in range(N)]), 0),
    "written where picked": (placed(lambda o, x: o.__setitem__(P, x[P])), 0),
    "scattered where gathered": (lambda x: torch.zeros(N, 6).scatter(0, COLUMN, x[P]), 0),
    "added where picked": (lambda x: torch.zeros_like(x).index_add(0, P, x[P]), 0),
    "copied through views": (placed(lambda o, x: [o[i].copy_(x[i]) for i in range(N)]), 0),
    "a column through a view": (placed(lambda o, x: o[:, 1].copy_(x[:, 0])), 0),
    "batch into time and back": (lambda x: x.view(N, 2, 3).reshape(N * 2, 3).reshape(N, 6), 0),
    "heads into the batch": (lambda x: x.view(N, 2, 3).transpose(0, 1).reshape(2 * N, 3)
                             .view(2, N, 3), 1),
    "beams within a stimulus": (lambda x: x.repeat_interleave(3, 0)[
        torch.tensor([1, 0, 0, 5, 3, 4, 8, 7, 7, 9, 9, 11])].view(N, 3, 6), 0),
    "one of each": (lambda x: x[torch.arange(N), torch.tensor([0, 3, 1, 2])], 0),
    "transposed": (lambda x: x.T, 1),
    "four quarter turns": (lambda x: torch.rot90(torch.rot90(x, 3), 1), 0),
    "padded and cropped": (lambda x: F.pad(x, (0, 0, 2, 1))[2:-1], 0),
    "masked, put back": (placed(lambda o, x: o.__setitem__(
        torch.tensor([True] * N), x[torch.tensor([True] * N)])), 0),
    "expanded": (lambda x: x[:, None].expand(N, 5, 6), 0),
    "moved": (lambda x: x.view(N, 2, 3).movedim(0, 2), 2),
    "windows": (lambda x: x.unfold(1, 2, 2), 0),
    "diagonal": (lambda x: x[:, :N].diagonal(), 0),
    "einsum": (lambda x: torch.einsum("nf,f->n", x, torch.eye(6)[0]), 0),
    "convolution in groups": (lambda x: F.conv1d(x.reshape(1, N * 2, 3), torch.eye(2)[:1].repeat(
        N * 5, 1)[..., None], groups=N).view(N, 5, 3), 0),
    "part of merged axes, cut again": (lambda x: x.view(N, 2, 3)[:, :, :2].flatten(1)[:, :2]
                                       .reshape(N, 2), 0),
    "merged, joined, viewed": (lambda x: (lambda y: torch.cat([x, y], 1).reshape(N, 12))(
        x.view(N, 2, 3).transpose(1, 2).reshape(N, 6)), 0),
    "vmap": (lambda x: torch.func.vmap(lambda row: row * 1)(x), 0),
    "routed to experts": (routed, 0),
    "spliced by where": (spliced, 0),
    "the places of a mask": (lambda x: torch.where((x > -1).all(1))[0], 0),
    "the places, as a table": (lambda x: torch.nonzero((x > -1).all(1)), 0),
    "a number over places of a mask of all": (lambda x: (
        y := x.clone(), y.__setitem__(torch.where(x - x.mean(0) > 1), 3.0), y * 1)[2], 0),
    "a number over no place": (lambda x: (
        y := x.clone(), y.__setitem__(torch.where(x.cumsum(0) > 99)[0], 7.0), y * 1)[2], 0),
    "a number over places of a mask": (lambda x: (
        y := x.clone(), y.__setitem__(torch.where(x > 9), 7.0), y * 1)[2], 0),
    "sorted into groups": (in_groups, 0),
    "strided, a tensor in its size": (lambda x: x.as_strided((N, torch.tensor(3)), (6, 2)), 0),
    "one of each, set": (placed(lambda o, x: o.__setitem__(
        (torch.arange(N), torch.tensor([0, 3, 1, 3])), x[:, 0]), OWN), 0),
    "one of each, summed": (lambda x: OWN.index_put(
        (torch.tensor([0, 1, 2, 2, 3, 3]), torch.tensor([0, 3, 1, 3, 1, 1])),
        x[torch.tensor([0, 1, 2, 2, 3, 3]), 0]) * 1, 0),
    "numbers set one by one": (placed(lambda o, x: [
        o.__setitem__((i, (5 * i) % 4), x[i, 0]) for i in range(N)], OWN), 0),
    "one class of each, by a number": (lambda x: x + torch.zeros(N, 6).scatter(
        1, x[:, :1].long(), 0.0), 0),
    "set where each says": (placed(lambda o, x: o.__setitem__(
        (torch.arange(N), x[:, 0].long()), x[:, 0]), OWN), 0),
    "a number set where each says": (lambda x: x + placed(lambda o, x: o.__setitem__(
        (torch.arange(N), x[:, 0].long()), 0.0))(x), 0),
    "set by a mask of it": (placed(lambda o, x: o.__setitem__(x > 1, x[x > 1]), OWN), 0),
    "a number set by a mask of it": (lambda x: x + placed(lambda o, x: o.__setitem__(
        x > 1, 0.0))(x), 0),
    "rows set by a mask of it": (placed(lambda o, x: o.__setitem__(
        x[:, 0] > 1, x[x[:, 0] > 1]), OWN), 0),
    "narrowed to what tensors say": (lambda x: x.narrow(1, torch.tensor(2), torch.tensor(3)), 0),
    "a slice that tensors bound": (lambda x: x[:, torch.tensor(1) : torch.tensor(4)], 0),
    "set in a slice that tensors bound": (placed(lambda o, x: o.__setitem__(
        (slice(None), slice(torch.tensor(1), None)), x[:, 1:]), OWN), 0),
    "sorted, doubled, put back": (placed(lambda o, x: o.__setitem__(
        x.cos().sum(1).argsort(), x[x.cos().sum(1).argsort()]), OWN * 0), 0),
    "picked by a list, and by each": (lambda x: x[list(range(N)), x[:, 0].long()], 0),
    "strided as it lies": (lambda x: x.as_strided((N, 6), (6, 1)), 0),
    "strided, batch last": (lambda x: x.as_strided((6, N), (1, 6)), 1),
    "strided in windows": (lambda x: x.as_strided((N, 4, 3), (6, 1, 1)), 0),
    "strided, every other feature": (lambda x: x.as_strided((N, 3), (6, 2)), 0),
    "strided, of a transposed": (lambda x: x.T.contiguous().as_strided((3, N), (8, 1)), 1),
    "strided, a new axis": (lambda x: x.as_strided((2, N, 6), (0, 6, 1)), 1),
    "strided with heads in the batch": (lambda x: x.view(N * 2, 3).as_strided(
        (N * 2, 2, 2), (3, 1, 1)).view(N, 2, 2, 2), 0),
    "scattered by a mask": (lambda x: (x + 0).masked_scatter(
        torch.tensor([True, False, True] * 2), x[:, :4]), 0),
    "scattered by a mask of each": (lambda x: x.masked_scatter(
        torch.arange(24).view(N, 6) % 6 > torch.arange(N)[:, None],
        torch.cat([x[k, k + 1:] for k in range(N)])), 0),
    "scattered by a mask, a row each": (lambda x: x.masked_scatter(
        torch.arange(6) > 3, x[:, 2:4].reshape(-1)), 0),
    "each of a list": (lambda x: torch._foreach_add([x, x.flip(0)], [x * 0, x])[0], 0),
    "each of a list, in place": (lambda x: (
        y := [x[P], x * 1], torch._foreach_mul_(y, 1.0), y[1] * 1)[2], 0),
    "each of a list, by a tensor": (lambda x: torch._foreach_mul([x[P], x], torch.tensor(1.0))[1],
                                    0),
    "a matrix of the diagonal": (lambda x: torch.diag_embed(x).sum(-1), 0),
    "a matrix of the diagonal, ahead": (lambda x: torch.diag_embed(x, 1, 0, 1).amax((0, 1)), 0),
    "diag": (lambda x: x[:, :N].diag(), 0),
    "diag of diag": (lambda x: x[:, 0].diag().diag(), 0),
    "linalg.diagonal": (lambda x: torch.linalg.diagonal(x[:, None, :, None]), 0),
    "columns": (lambda x: torch.column_stack([x[:, 0], x, x[:, 1]]), 0),
    "hstack of vectors": (lambda x: torch.hstack([x[:2, 0], x[2:, 0]]), 0),
    "vstack of rows": (lambda x: torch.vstack([x[:2], x[2], x[3]]), 0),
    "vstack of vectors": (lambda x: torch.vstack([x[:, 0], x[:, 1]]), 1),
    "dstack of matrices": (lambda x: torch.dstack([x, x]), 0),
    "dstack of vectors": (lambda x: torch.dstack([x[:, 0], x[:, 1]]), 1),
    "a grid": (lambda x: torch.meshgrid(x[:, 0], torch.ones(3), indexing="ij")[0], 0),
    "a grid by x and y": (lambda x: torch.meshgrid(x[:, 0], torch.ones(3), indexing="xy")[0], 1),
    "sequences of unlike lengths, padded": (lambda x: pad_sequence(
        torch.cat([x[k, k:] for k in range(N)]).split([6, 5, 4, 3]), True)[:, :3], 0),
    "sequences of steps, padded": (lambda x: pad_sequence(list(x.repeat_interleave(2, 0).split(2))),
                                   1),
    "einsum, its result implied": (lambda x: torch.einsum("nf,fa", x, torch.eye(6)), 1),
    "einsum of dots, implied": (lambda x: torch.einsum("...f,f", x, torch.eye(6)[0]), 0),
    "einsum of a trace, implied": (lambda x: torch.einsum("nff,f->n", x[:, :1, None].expand(
        N, 2, 2), torch.eye(2)[0]), 0),
    "the dot of each": (lambda x: torch.linalg.vecdot(x, torch.eye(6)[0]), 0),
    "found, and put where found": (lambda x: (lambda i: torch.zeros_like(x).index_copy(
        0, i, x[i]))((x.sum(1) > -1).nonzero(as_tuple=True)[0]), 0),
    "picked by an index spread wide": (lambda x: x[:, :1].expand(N, 2**19).gather(
        0, P[:, None].expand(N, 2**19)).gather(0, P.argsort()[:, None].expand(N, 2**19))[:, :2], 0),
    "of the dtype of a part": (lambda x: x.to(x[:, :1]), 0),
    "of the type of a mean": (lambda x: x.type_as(x.cumsum(0).double()), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_where_the_order_is_the_stimuli_s(name):
    forward, axis = MOVES[name]
    found = last(forward, (N, 6))
    assert found.dims.index("stimulus") == axis
    for number, key in enumerate("abcd"):
        values = found.sel(stimulus=key).values
        assert np.isin(values, [number] + ([0] if name == "a column through a view" else [])).all()


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: torch.cat([torch.zeros(N, 1, 6), x], 1),
        lambda x: torch.cat([x, x], 1),
        lambda x: x[:, 1:],
        lambda x: x[:, [0, 1, 1]],
        lambda x: F.pad(x, (0, 0, 1, 0)),
        lambda x: x.repeat(1, 2, 1),
        lambda x: x.chunk(2, 1)[0],
        lambda x: x.narrow(1, 0, 4),
        lambda x: x.index_select(1, torch.tensor([0, 3])),
        lambda x: x.topk(3, 1).values,
    ],
)
def test_merged_axes_cut_or_lengthened_are_not_those_that_were_merged(cut):
    """Heads are split beside tokens that were merged of rows and columns, and are now others."""
    found = last(lambda x: cut(x.reshape(N, 8, 6)).unflatten(2, (2, 3)) * 1, (N, 2, 4, 6))
    assert found.dims[0] == "stimulus"
    found = last(
        lambda x: (y := cut(x.reshape(N, 8, 6))).reshape(N, y.shape[1], 2, 3), (N, 2, 4, 6)
    )
    assert found.dims[0] == "stimulus"


LOST = {
    "flip": lambda x: x.flip(0).relu(),
    "flipud": lambda x: torch.flipud(x) + 0,
    "picked": lambda x: x[P],
    "picked by a list": lambda x: x[[2, 0, 3, 1]],
    "picked, with features": lambda x: x[P][:, 1:],
    "index_select": lambda x: x.index_select(0, P) * 2,
    "roll": lambda x: x.roll(1, 0),
    "roll of all": lambda x: x.roll(1),
    "sort": lambda x: x.sort(0).values,
    "sort down": lambda x: x.sort(0, descending=True)[0],
    "argsort": lambda x: x.argsort(0),
    "topk": lambda x: x.topk(N, 0).values,
    "gather": lambda x: x.gather(0, COLUMN),
    "take_along_dim": lambda x: x.take_along_dim(P[:, None], 0),
    "take": lambda x: x.take(P),
    "cut and swapped": lambda x: torch.cat([x[1:], x[:1]]),
    "interleaved and cut": lambda x: x.repeat_interleave(2, 0)[:N],
    "tiled as if interleaved": lambda x: x.repeat(3, 1).view(N, 3, 6),
    "cut elsewhere": lambda x: x.view(N, 2, 3).reshape(N * 2, 3).reshape(2, N, 3),
    "frequencies": lambda x: torch.fft.fft(x, dim=0).real,
    "cumsum": lambda x: x.cumsum(0),
    "cummax": lambda x: x.cummax(0).values,
    "a matrix over stimuli": lambda x: torch.ones(N, N) @ x,
    "multiplied by itself": lambda x: x[:, :N] @ x,
    "and by its own weights": lambda x: x[:, :N].softmax(1).matmul(x),
    "and a residual of it": lambda x: x + torch.ones(N, N) @ x,
    "mixup": lambda x: 0.5 * x + 0.5 * x.flip(0),
    "mixup by a permutation": lambda x: x.lerp(x[P], 0.3),
    "one of two orders": lambda x: torch.where(x > 1, x, x.flip(0)),
    "backwards, one by one": lambda x: torch.stack([x[i] for i in reversed(range(N))]),
    "written elsewhere": placed(lambda o, x: o.__setitem__(P, x)),
    "scattered elsewhere": lambda x: torch.zeros(N, 6).scatter(0, COLUMN, x),
    "added elsewhere": lambda x: torch.zeros_like(x).index_add(0, P.flip(0), x[P]),
    "one row in place of another": lambda x: placed(lambda o, y: o.__setitem__(0, y[1]), x)(x),
    "turned through a view": lambda x: placed(lambda o, y: o[:, 0].copy_(y[:, 0].flip(0)), x)(x),
    "two quarter turns": lambda x: torch.rot90(x, 2),
    "by where the greatest stands": lambda x: x + torch.ones(N, 6) * x.argmax(0),
    "by sums along weights": lambda x: x + torch.ones(N, 6) * (torch.arange(4.0) @ x),
    "by some of them": lambda x: x + torch.ones(N, 6) * x[:2].sum(0),
    "reversed in NumPy": lambda x: x + torch.from_numpy(x.numpy()[::-1].copy()),
    "as an RNN takes time": lambda x: nn.functional.pad(x, (0, 0, 1, 0))[:-1] + x,
    "shuffled": lambda x: x[torch.randperm(N, generator=torch.Generator().manual_seed(0))],
    "transposed, flipped, transposed": lambda x: x.T.flip(1).T,
    "as strided": lambda x: x.flip(0).as_strided((N, 6), (6, 1)),
    "constants of its dtype": lambda x: torch.ones(N, 6).to(x),
    "constants of its type": lambda x: torch.ones(N, 6).type_as(x),
    "two put to one place": lambda x: torch.zeros(N, 6).index_put((SOME,), x[TWICE]),
    "two summed at one place": lambda x: torch.zeros(N, 6).index_put(
        (SOME,), x[TWICE], accumulate=True
    ),
    "two summed where one stands": lambda x: x.index_put(
        (torch.tensor([1, 1, 2, 3]),), x, accumulate=True
    ),
    "two set at one place": placed(lambda o, x: o.__setitem__(SOME, x[TWICE])),
    "two copied to one place": lambda x: torch.zeros(N, 6).index_copy(0, SOME, x[TWICE]),
    "two scattered to one place": lambda x: torch.zeros(N, 6).scatter(
        0, SOME[:, None].expand(5, 6), x[TWICE]
    ),
    "two at the places of a matrix": placed(
        lambda o, x: o.__setitem__(
            (torch.tensor([0, 0, 2, 3]), torch.tensor([0, 1, 2, 2])), x[:, 0]
        )
    ),
    "strided across": lambda x: x.as_strided((N, 6), (1, 4)),
    "strided over the border": lambda x: x.as_strided((N, 4), (5, 1)),
    "strided from further on": lambda x: x.as_strided((N, 2), (4, 1), 6),
    "strided, of a part": lambda x: x[:, :4].as_strided((N, 6), (4, 1)),
    "strided, backwards": lambda x: x.flip(0).as_strided((N, 6), (6, 1)),
    "scattered by a mask, elsewhere": lambda x: torch.zeros(N, 6).masked_scatter(
        torch.tensor([True, False, True] * 2), x.flip(0)
    ),
    "scattered by a mask over the border": lambda x: torch.zeros(N, 6).masked_scatter(
        torch.tensor([True, False, False] * 2), x
    ),
    "each of a list, another": lambda x: torch._foreach_add([x, x.flip(0)], [x * 0, x])[1],
    "each of a list, the one twice": lambda x: (
        y := x.flip(0),
        z := x * 1,
        torch._foreach_add_([y, y, z], 0.0),
        y * 1,
    )[3],
    "columns of two orders": lambda x: torch.column_stack([x[:, 0], x[P]]),
    "sequences backwards, padded": lambda x: pad_sequence(list(x.flip(0)), batch_first=True),
    "sequences of two each, padded": lambda x: pad_sequence(
        list(x.repeat_interleave(2, 0)[1:].split([2, 2, 2, 1])), batch_first=True
    ),
    "the places of some, twice": lambda x: torch.where((x[:, :2] > 1.5).T)[0],
    "the places, as a table, of others": lambda x: torch.nonzero((x.flip(0) > -1).all(1)).expand(
        N, 6
    ),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.filterwarnings("ignore:.*out of torch's sight")
def test_where_it_is_another_order(name):
    found = last(LOST[name], (N, 6))
    if (found.ndim == 2 and found.shape[0] == N) or name == "take":
        assert found.dims[0].startswith("dim0_")
    assert "stimulus" not in found.dims


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: (x - x.mean(0)) / x.std(0),
        lambda x: x.softmax(0),
        lambda x: F.layer_norm(x, (6,)),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: x - x.amax(0, keepdim=True),
        lambda x: (x @ x.T).softmax(-1) @ x,
        lambda x: torch.ones(N, 6) * x.sum() + x,
        lambda x: torch.ones(N, 6) * x.mean(0) + x,
        lambda x: x * (torch.zeros(N, 1) + (x > 1).any()),
        lambda x: torch.cat([x.mean(0, keepdim=True).expand(N, 6), x], 1),
        lambda x: placed(lambda o, y: o.__setitem__(slice(None), y + y.amax()))(x),
        lambda x: x.sort(1).values,
        lambda x: x.cumsum(1),
        lambda x: torch.fft.rfft(x).real,
        lambda x: F.glu(x),
        lambda x: F.one_hot(x[:, 0].long(), 9),
        lambda x: F.hardswish(x) // 2 % 3,
        lambda x: torch.cdist(x, x),
        lambda x: F.cosine_similarity(x, x),
        lambda x: torch.bucketize(x, torch.arange(3.0)),
        lambda x: torch.autograd.grad((y := x.clone().requires_grad_()).sin().sum(), y)[0],
    ],
)
def test_operations_that_go_along_with_any_order_keep_it(forward):
    assert last(forward, (N, 6)).dims[0] == "stimulus"


def test_two_axes_of_stimuli():
    assert last(lambda x: x @ x.T, (N, 6)).dims == ("stimulus", "stimulus_")
    assert last(lambda x: x @ x.flip(0).T, (N, 6)).dims == ("stimulus", "dim1_4")
    assert last(lambda x: x[:, None] - x[None], (N, 6)).dims == ("stimulus", "stimulus_", "dim2_6")


def test_attention_that_merges_heads_into_the_batch():
    for batch_first in (True, False):
        model = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()

        def forward(x, model=model, batch_first=batch_first):
            x = x if batch_first else x.transpose(0, 1)
            y = model(x, x, x)[0]
            return y if batch_first else y.transpose(0, 1)

        assert last(forward, (N, 5, 8)).dims[0] == "stimulus"


class Sequences(nn.Module):
    """The standard recurrent network over sequences of unlike lengths."""

    def __init__(self, kind, batch_first, both_ways):
        super().__init__()
        self.batch_first = batch_first
        self.net = kind(6, 3, 2, batch_first=batch_first, bidirectional=both_ways)

    def forward(self, x, lengths):
        x = x if self.batch_first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths, self.batch_first, enforce_sorted=False)
        out, state = self.net(packed)
        padded, _ = pad_packed_sequence(out, batch_first=self.batch_first)
        state = state[0] if isinstance(state, tuple) else state
        return padded if self.batch_first else padded.transpose(0, 1), state[-1]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_sequences(kind, batch_first):
    torch.manual_seed(0)
    model = Sequences(kind, batch_first, both_ways=batch_first).eval()
    x, lengths = torch.randn(4, 9, 6), torch.tensor([3, 9, 1, 5])
    with torch.no_grad():
        found = lf.trace(model, (x, lengths), stimulus=list("abcd")).activations
        for k, key in enumerate("abcd"):  # each by itself: no packing can mix it up
            alone = model(x[k : k + 1], lengths[k : k + 1])
            n = int(lengths[k])
            whole = found["output_1"].sel(stimulus=key)
            np.testing.assert_allclose(whole[:n], alone[0][0], atol=1e-5)
            np.testing.assert_allclose(found["output_2"].sel(stimulus=key), alone[1][0], atol=1e-5)
    assert "stimulus" not in found["index_select_1"].dims
    assert "stimulus" not in found["_pack_padded_sequence_1"].dims


def test_a_packed_sequence_as_input():
    torch.manual_seed(0)
    parts = [torch.randn(n, 4) for n in (2, 5, 3)]
    model = nn.GRU(4, 6).eval()
    with torch.no_grad():
        found = lf.trace(
            lambda p: model(p)[1] * 1,
            pack_sequence(parts, enforce_sorted=False),
            stimulus=[7, 8, 9],
        ).activations
        state = found["mul_1"]
        for part, key in zip(parts, (7, 8, 9), strict=True):
            np.testing.assert_allclose(
                state.sel(stimulus=key)[0], model(part[:, None])[1][0, 0], atol=1e-5
            )


@pytest.mark.parametrize("join", [torch.stack, lambda xs: pad_sequence(xs, batch_first=True)])
def test_a_list_of_stimuli_is_one_axis_once_it_is_joined(join):
    parts = [torch.full((5,), float(k)) for k in range(3)]
    found = lf.trace(lambda xs: join([x * 1 for x in xs]) * 1, (parts,), stimulus=list("abc"))
    values = found.activations
    assert all("stimulus" not in values[f"input_{k}"].dims for k in (1, 2, 3))
    joined = values[list(values.data_vars)[-2]]
    assert [float(joined.sel(stimulus=key)[0]) for key in "abc"] == [0.0, 1.0, 2.0]


def test_shuffle_and_unshuffle():
    layer = nn.Linear(6, 6)

    def moco(x):
        order = torch.randperm(len(x))
        back = torch.argsort(order)
        return layer(x[order]).relu()[back]

    found = lf.trace(moco, torch.randn(8, 6), stimulus=range(8)).activations
    assert found["output_1"].dims[0] == "stimulus"
    assert "stimulus" not in found["relu_1"].dims


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Conv2d(3, 4, 3), (2, 3, 8, 9), ("stimulus", "channel_3", "y_8", "x_9")),
        (nn.Conv1d(3, 4, 3), (2, 3, 8), ("stimulus", "channel_3", "x_8")),
        (nn.Conv3d(1, 4, 3), (2, 1, 5, 6, 7), ("stimulus", "channel_1", "z_5", "y_6", "x_7")),
        (nn.Sequential(nn.Hardtanh(), nn.MaxPool2d(2)), (2, 3, 8, 9),
         ("stimulus", "channel_3", "y_8", "x_9")),
        (nn.LSTM(4, 5, batch_first=True), (2, 7, 4), ("stimulus", "time_7", "feature_4")),
        (nn.Flatten(), (2, 3, 4), ("stimulus", "dim1_3", "dim2_4")),
    ],
)  # fmt: skip
def test_an_input_has_the_names_its_first_reader_knows(model, shape, expected):
    found = lf.trace(model.eval(), torch.rand(shape)).activations
    assert found["input_1"].dims == expected


def test_tokens_of_an_embedding():
    found = lf.trace(nn.Embedding(9, 4).eval(), torch.ones(2, 5, dtype=torch.long)).activations
    assert found["input_1"].dims == ("stimulus", "token_5")


#: What is made of one stimulus meets the place, the part or the number of another.
ENTANGLED = {
    "less the first": lambda x: x - x[:1],
    "less the first, by number": lambda x: x + x[0],
    "a part of the stimuli summed": lambda x: x + x[:2].sum(0),
    "picked, one of them summed": lambda x: x.gather(1, COLUMN % 6) + x[P[:1]].sum(),
    "a weighted sum": lambda x: x + (torch.arange(4.0) @ x),
    "einsum with places": lambda x: torch.einsum("nf,nm->mf", x, torch.rand(N, N)),
    "einsum with places, residual": lambda x: x + torch.einsum("nf,n->f", x, torch.rand(N)),
    "tensordot with places": lambda x: torch.tensordot(x, torch.rand(N, N), ([0], [0])).T,
    "tensordot with itself": lambda x: torch.tensordot(x[:, :N], x, ([1], [0])),
    "a chain of matrices": lambda x: torch.linalg.multi_dot([x, x.T, torch.rand(N, N)]),
    "a linear layer over stimuli": lambda x: F.linear(x[:, :N], x.T[:N]),
    "inner with places": lambda x: torch.inner(torch.rand(N, N), x.T).T,
    "attention over places": lambda x: F.scaled_dot_product_attention(
        x[None], torch.rand(1, N, 6), x[None])[0],
    "recurrent cell over stimuli": lambda x: nn.RNNCell(N, 6)(x.T[:N]),
    "its transpose added": lambda x: x[:, :N] + x[:, :N].T,
    "the place of the greatest": lambda x: x + x.argmax(0, keepdim=True),
    "the place of the middle": lambda x: x + x.median(0).indices,
    "features chosen by all": lambda x: x[:, x.sum(1).argsort()],
    "features selected by all": lambda x: x.index_select(1, x.sum(1).argsort()),
    "summed up, as a scalar": lambda x: x * x.cumsum(0).max(),
    "padded, and a scalar": lambda x: x + F.pad(x, (0, 0, 1, 0)).cumsum(0)[-2].sum(),
    "the first, spread": lambda x: x[:1].expand_as(x),
    "the first, broadcast": lambda x: torch.broadcast_tensors(x[:1], x)[0],
    "weights of another order": lambda x: F.batch_norm(x[:, :N], None, None, x[:, 0], None, True),
    "norm with weights over stimuli": lambda x: F.layer_norm(x.T, (N,), torch.rand(N)).T,
    "the diagonal of what is mixed": lambda x: F.batch_norm(x, None, None, training=True)[
        :, :N].diagonal(),
    "the mean in place of one": lambda x: (
        y := x.clone(), y.__setitem__(0, x.mean(0)), y * 1)[2],
    "written across": lambda x: (
        y := x[:, :N].clone(), y.T.copy_(x[:, :N]), y * 1)[2],
    "turned through windows": lambda x: (
        y := x.clone(), y.unfold(0, 1, 1).copy_(y.unfold(0, 1, 1).flip(0)), y * 1)[2],
    "norm of a part": lambda x: torch.cat([x[:2].softmax(0), x[2:].softmax(0)]),
    "gradient of what is summed up": lambda x: torch.autograd.grad(
        (y := x.clone().requires_grad_()).cumsum(0).cos().sum(), y)[0],
    "scattered by the mask of another": lambda x: x[:, :N].masked_scatter(
        x[:, :N].T > 1, torch.zeros(N, N)),
    "einsum over stimuli, implied": lambda x: torch.einsum("ab,ac", x, torch.ones(N, N)),
    "one class of others, by a number": lambda x: x + torch.zeros(N, 6).scatter(
        1, x.flip(0)[:, :1].long(), 1.0),
    "summed where others say": lambda x: x + torch.zeros(N, 6).scatter_add(
        1, x.flip(0)[:, :1].long(), torch.ones(N, 6)),
    "a number set where others say": lambda x: (
        y := x.clone(), y.__setitem__((torch.arange(N), x.flip(0)[:, 0].long()), 0.0), y * 1)[2],
    "numbers set, and turned": lambda x: x + placed(lambda o, x: o.__setitem__(
        (torch.arange(N), x[:, 0].long()), 1.0))(x).flip(0),
    "numbers put where others say": lambda x: x.index_put(
        (torch.arange(N), x.flip(0)[:, 0].long()), torch.tensor(0.0)),
    "set across where each says": lambda x: x[:, :N] + placed(lambda o, x: o.__setitem__(
        (x[:, 0].long(), torch.arange(N)), 1.0), torch.zeros(N, N))(x),
    "zeroed by the mask of others": lambda x: (
        y := x[:, :N].clone(), y.__setitem__(y.T > 1, 0.0), y * 1)[2],
    "zeroed by the mask of others, by row": lambda x: (
        y := x.clone(), y.__setitem__(x[:, 0].flip(0) > 1, 0.0), y * 1)[2],
    "picked by a list, and by others": lambda x: x[list(range(N)), x.flip(0)[:, 0].long()],
    "picked by the mask of others": lambda x: x[:, :N][x[:, :N].T >= 0].view(N, N),
    "narrowed to what others say": lambda x: x.narrow(1, 0, x.cumsum(0)[2, 0].long()),
    "a slice that others bound": lambda x: x[:, : x.cumsum(0)[2, 0].long()],
    "copied where others say": lambda x: x + torch.zeros(N, 6).index_copy(
        0, x.flip(0)[:, 0].long(), torch.ones(N, 6)),
    "repeated as others say": lambda x: x[:, 0] + torch.arange(4.0).repeat_interleave(
        (x.flip(0)[:, 0] * 0 + 1).long()),
    "rows zeroed where others say": lambda x: (
        y := x.clone(), y.__setitem__((3 - x)[:2, 0].long(), 0.0), y * 1)[2],
    "rows zeroed that are the greatest": lambda x: (
        y := x.clone(), y.__setitem__(x.sum(1).topk(2).indices, 0.0), y * 1)[2],
    "rows zeroed by a mask of all": lambda x: (
        y := x.clone(), y.__setitem__(x.cumsum(0)[:, 0] > 2, 0.0), y * 1)[2],
    "a row zeroed that all chose": lambda x: (
        y := x.clone(), y.__setitem__(x.amax().long() - 1, 0.0), y * 1)[2],
    "scattered over rows where they say": lambda x: x.scatter(0, x.long() % 2, 0.0),
    "copied over rows where they say": lambda x: x.index_copy(
        0, x[:, 0].long() % 2, torch.zeros(N, 6)),
    "its transpose joined": lambda x: torch.cat([x[:, :N], x[:, :N].T], 1),
    "its transpose added, less the mean": lambda x: (y := (x - x.mean(0))[:, :N]) + y.T,
    "einsum with its transpose, less the mean": lambda x: torch.einsum(
        "ab,ba->ab", y := (x - x.mean(0))[:, :N], y),
    "einsum with the first": lambda x: torch.einsum("nf,nf->nf", x[:1], x),
    "stacked on products of two": lambda x: torch.stack([x[:, :N], x @ x.T]),
    "gathered by its transpose": lambda x: x[:, :N].gather(1, x[:, :N].T.long()),
    "sampled by the grid of another": lambda x: F.grid_sample(
        x[:, None, :2, None], x[:, :N].T[:, :, None, None].expand(N, N, 1, 2)),
    "turned through a view, which is then turned itself": lambda x: (
        y := x.clone(), z := y.view(-1), z.copy_(z.flip(0)), z.swapaxes_(0, 0), y * 1)[4],
    "turned through a view, squeezed in place": lambda x: (
        y := x.clone(), z := y[None], z.copy_(z.flip(1)), z.squeeze_(0), z.relu_(), y * 1)[5],
    "written through unlike views in turn": lambda x: (
        y := x[:, :N].clone(), y[:].mul_(2), y.T.copy_(x[:, :N]), y * 1)[3],
    "written across after as along": lambda x: (
        y := x[:, :N].clone(), y.view(N, N).copy_(x[:, :N]), y.mT.copy_(x[:, :N]), y * 1)[3],
    "turned into a view as out": lambda x: (
        y := x.clone(), z := y[:], torch.mul(x.flip(0), 1, out=z), y * 1)[3],
    "turned into its view as out": lambda x: (
        y := x.clone(), z := y[:], torch.mul(x.flip(0), 1, out=y), z * 1)[3],
    "one of them more, after a norm": lambda x: (
        y := x - x.mean(0), y[:1].add_(x.mean()), y * 1)[2],
    "mapped over another axis": lambda x: torch.func.vmap(lambda r: r * 2, 1)(x[:, :N]),
    "cosine of unlike axes": lambda x: F.cosine_similarity(
        x[:, :N], x[:, 0], 0).expand(N, N),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTANGLED)
def test_what_mixes_stimuli_by_their_place_has_no_stimuli(name):
    assert "stimulus" not in last(ENTANGLED[name], (N, 6)).dims


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x + x.mean(),
        lambda x: x - torch.einsum("nf->f", x),
        lambda x: x + x.flip(0).sum(0),
        lambda x: x + x.repeat(2, 1).sum(0),
        lambda x: x + F.mse_loss(x, x * 0),
        lambda x: torch.stack([row - x.mean(0) for row in x]),
        lambda x: x @ (x.T @ x),
        lambda x: torch.linalg.multi_dot([x, x.T, x]),
        lambda x: x + torch.tensor(2.0),
        lambda x: x.expand_as(torch.zeros(2, N, 6))[0],
        lambda x: torch.autograd.grad(F.mse_loss(y := x.clone().requires_grad_(), x * 0), y)[0],
        lambda x: x.vsplit(1)[0],
        lambda x: x.hsplit(2)[1],
        lambda x: F.layer_norm(x, (6,), torch.rand(6)),
        lambda x: x[torch.arange(N), (x.sum(1) > 3).long()],
    ],
)
def test_what_is_the_same_for_all_leaves_the_order(forward):
    assert last(forward, (N, 6)).dims[0] == "stimulus"


AT_PLACES = {
    "a table added": lambda x: x + OWN,
    "a table added from the left": lambda x: OWN.add(x),
    "a mask of places": lambda x: x.masked_fill(OWN > 2, 0.0),
    "one or the other by place": lambda x: torch.where(OWN > 2, x, x * 2),
    "a matrix for each place": lambda x: torch.bmm(x[:, None], torch.rand(N, 6, 6))[:, 0],
    "a matrix for each place, einsum": lambda x: torch.einsum(
        "nf,nfg->ng", x, torch.rand(N, 6, 6)),
    "a table beside": lambda x: torch.cat([x[:, :3], OWN[:, :3]], 1),
    "a table stacked": lambda x: torch.stack([x, OWN], 1)[:, :, :3].flatten(1),
    "features of places, gathered": lambda x: x.gather(1, COLUMN),
    "a feature of each place": lambda x: x[torch.arange(N), P][:, None].expand(N, 6),
    "a state of each place": lambda x: nn.GRUCell(6, 6)(x, torch.rand(N, 6)),
    "a first state of each place": lambda x: nn.RNN(6, 6, batch_first=True)(
        x[:, None], torch.rand(1, N, 6))[0][:, 0],
    "turned by their places": lambda x: torch.cat([-x[:, 3:], x[:, :3]], 1) * OWN.sin() + x,
    "normalised as channels of places": lambda x: F.batch_norm(
        x.T, torch.rand(N), torch.rand(N)).T,
    "weighted as channels of places": lambda x: F.instance_norm(x[None], weight=torch.rand(N))[0],
    "after more": lambda x: F.layer_norm((x + OWN).relu() @ torch.rand(6, 6), (6,)),
}  # fmt: skip
OF_EVERY = {
    "less their mean": lambda y: y - y.mean(0),
    "over their sum": lambda y: y / y.sum(),
    "over their norm": lambda y: F.normalize(y, dim=0),
    "their softmax": lambda y: y.softmax(0),
    "normalised over the batch": lambda y: F.batch_norm(y, None, None, training=True),
    "attention": lambda y: F.scaled_dot_product_attention(y[None], y[None], y[None])[0],
    "attention by hand": lambda y: (y @ y.T).softmax(-1) @ y,
    "einsum": lambda y: torch.einsum("nf,nm->mf", y, y @ y.T),
    "their covariance": lambda y: y @ torch.cov(y.T),
}


@pytest.mark.parametrize("places", AT_PLACES)
def test_what_is_made_with_places_is_still_of_its_stimulus(places):
    x = torch.rand(N, 6)
    values = lf.trace(AT_PLACES[places], x).activations
    made = [v for v in values.values() if v.dims[0] == "stimulus" and v.ndim > 1]
    assert last(AT_PLACES[places], (N, 6)).dims[0] == "stimulus"
    assert len(made) > 1


@pytest.mark.parametrize("every", OF_EVERY)
@pytest.mark.parametrize("places", AT_PLACES)
def test_what_is_made_with_places_and_then_of_all_follows_no_order(places, every):
    """In another order each stimulus meets what stands at another place, and so do all sums."""
    found = last(lambda x: OF_EVERY[every](AT_PLACES[places](x)), (N, 6))
    assert "stimulus" not in found.dims


@pytest.mark.parametrize("every", OF_EVERY)
@pytest.mark.parametrize(
    "alike",
    [
        lambda x: x + OWN[:, :1].mean(),
        lambda x: x * torch.rand(6),
        lambda x: x + torch.rand(1, 6),
        lambda x: x.masked_fill(x > 0.5, 0.0),
        lambda x: torch.where(x > 0.5, x, torch.zeros(())),
        lambda x: x + torch.zeros_like(x),
        lambda x: torch.cat([x[:, :3], x[:, 3:] * 2], 1),
        lambda x: x[torch.arange(N), x.argmax(1)][:, None] + x,
    ],
)
def test_what_is_made_alike_and_then_of_all_keeps_the_order(alike, every):
    assert last(lambda x: OF_EVERY[every](alike(x)), (N, 6)).dims[0] == "stimulus"


PAIRED = {
    "as they are": (lambda a, b: a + b, ("stimulus", "dim1_6")),
    "each by itself, together": (
        lambda a, b: torch.cat([a, b]).relu().chunk(2)[1],
        ("stimulus", "dim1_6"),
    ),
    "reordered alike": (lambda a, b: (a[P] + b[P])[P.argsort()], ("stimulus", "dim1_6")),
    "one reordered": (lambda a, b: a + b[P], ("dim0_4", "dim1_6")),
    "one reordered, and back": (lambda a, b: a + b[P][P.argsort()], ("stimulus", "dim1_6")),
    "one rolled": (lambda a, b: a * b.roll(1, 0), ("dim0_4", "dim1_6")),
    "one as a mask, turned around": (
        lambda a, b: a.masked_fill(b.flip(0) > 0, 0),
        ("dim0_4", "dim1_6"),
    ),
    "each with each": (lambda a, b: a @ b.T, ("stimulus", "stimulus_")),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRED)
def test_two_inputs_of_one_shape_are_of_the_same_stimuli(name):
    forward, expected = PAIRED[name]
    a, b = torch.randn(2, N, 6)
    trace = lf.trace(lambda a, b: forward(a, b) * 1, (a, b), stimulus=list("abcd"))
    assert trace.activations["output_1"].dims == expected
    assert trace.validate(alignment="all")["passed"].all()


def test_a_second_input_of_another_shape_may_have_as_many_of_something_else():
    model = nn.LSTM(5, 6, num_layers=N, batch_first=True)
    states = torch.zeros(2, N, N, 6)
    trace = lf.trace(model, (torch.randn(N, 3, 5), tuple(states)), stimulus=list("abcd"))
    dims = [trace.activations[f"input_{i}"].dims[0] for i in (1, 2, 3)]
    assert dims == ["stimulus", "dim0_4", "dim0_4"]
