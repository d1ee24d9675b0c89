"""Ids that stand at other stimuli's values are found, whatever put them there; others are not."""

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import lensframe_pd as lf
from lensframe_pd.validation.orders import bits, halves

from .reports import failed


def stimuli(n, *shape):
    shape = shape or (n + 2,)
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))


def stated(activations, **dims):
    """The Dataset in which these variables have these dims, and no other has stimuli."""
    said = {
        op: dims.get(op, [f"{op}_axis{k}" if "stimulus" in dim else dim for k, dim in axes])
        for op, axes in {
            op: [*enumerate(v.dims)] for op, v in activations.data_vars.items()
        }.items()
    }
    variables = {op: (said[op], v.values, v.attrs) for op, v in activations.data_vars.items()}
    return xr.Dataset(variables, attrs=activations.attrs)


def along_first(activations, op):
    """The dims of a variable, its first axis being said to be the stimuli."""
    rest = [f"axis{k}_{n}" for k, n in enumerate(activations[op].shape) if k]
    return ("stimulus", *rest)


def verdicts(function, args, *ops, alignment="sample", **dims):
    """The cells of the column, of the rows whose first axis is said to be the stimuli."""
    layers, activations = lf.trace(function, args)
    said = {op: along_first(activations, op) for op in ops} | dims
    report = layers.lens.validate(
        function, args, activations=stated(activations, **said), alignment=alignment
    )
    return {op: report.loc[op, "alignment"] for op in said}


def swapped(n, i=1, j=2):
    order = [*range(n)]
    order[i], order[j] = order[j], order[i]
    return order


WRONG = {
    "flip_1": lambda x: x.flip(0),
    "roll_1": lambda x: x.roll(1, 0),
    "sort_1": lambda x: x.sort(0)[0],
    "sort_2": lambda x: x.sort(0)[1],
    "argsort_1": lambda x: x.argsort(0),
    "getitem_1": lambda x: x[swapped(len(x))],
    "index_select_1": lambda x: x.index_select(0, torch.tensor([2, *range(len(x) - 1)])),
    "gather_1": lambda x: x.gather(0, torch.arange(len(x)).flip(0)[:, None].expand_as(x)),
    "take_along_dim_1": lambda x: x.take_along_dim(x.argsort(0), 0),
    "cat_1": lambda x: torch.cat([x[1:], x[:1]]),
    "stack_1": lambda x: torch.stack([*x.unbind()][::-1]),
    "getitem_2": lambda x: x.repeat_interleave(2, 0)[: len(x)] + x[[0, 0, *range(2, len(x))]],
    "repeat_interleave_1": lambda x: x[:1].repeat_interleave(len(x), 0),
    "fft_fft_1": lambda x: torch.fft.fft(x, dim=0),
    "cumsum_1": lambda x: x.cumsum(0),
    "matmul_1": lambda x: torch.ones(len(x), len(x)).tril() @ x,
    "add_1": lambda x: x + x.flip(0),
    "t_1": lambda x: x[:, : len(x)].t(),
    "relu_1": lambda x: x.flip(0).relu(),
    "mul_1": lambda x: (x - x.mean(0)).flip(0) * 2,
    "as_strided_1": lambda x: x.as_strided((len(x), 3), (2, 1)),
    "round_1": lambda x: (x * 100).flip(0).round(),
    "sign_1": lambda x: (x - 0.1).roll(1, 0).sign(),
    "expand_1": lambda x: x.roll(1, 0)[:, :2, None].expand(-1, -1, 50),
    "clamp_1": lambda x: x.flip(0).clamp(-0.1, 0.1),
}


@pytest.mark.parametrize("op", WRONG)
@pytest.mark.parametrize("n", [3, 4, 6, 8])
@pytest.mark.parametrize("alignment", ["sample", "all"])
def test_ids_at_other_stimuli(op, n, alignment):
    assert verdicts(WRONG[op], stimuli(n), op, alignment=alignment) == {op: False}


class Normed(nn.Module):
    """Batch statistics, which mix stimuli and follow their order."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(x[:, :5]).relu()


def contrastive(x):
    similar = x @ x.T
    return similar.log_softmax(1).diagonal() - similar.mean(1)


RIGHT = {
    "relu_1": torch.relu,
    "add_1": lambda x: x + torch.arange(len(x))[:, None],  # a position: does not follow the order
    "sub_1": contrastive,
    "softmax_1": lambda x: x.softmax(0),
    "argmax_1": lambda x: x.argmax(1),
    "sort_1": lambda x: x.sort(1)[0],
    "cumsum_1": lambda x: x.cumsum(1),
    "gt_1": lambda x: x > x.mean(0),
    "mul_1": lambda x: x.flip(0).flip(0) * 2,
    "long_1": lambda x: (x * 100).long(),
    "bfloat16_1": lambda x: (x - x.mean(0)).bfloat16(),
    "zeros_like_1": lambda x: torch.zeros_like(x) + x,
    "div_1": lambda x: x / (x - x),  # infinities and not-a-numbers
    "fft_fft_1": lambda x: torch.fft.fft(x),
    "dropout_1": lambda x: nn.functional.dropout(x, 0.5, training=True),
    "randn_like_1": lambda x: x + torch.randn_like(x),
    "index_select_1": lambda x: x[x[:, 0].argsort()].index_select(0, x[:, 0].argsort().argsort()),
    "setitem_1": lambda x: torch.empty_like(x).fill_(1).__setitem__(0, 2) or x,
}


@pytest.mark.parametrize("op", RIGHT)
@pytest.mark.parametrize("n", [3, 4, 6])
@pytest.mark.parametrize("alignment", ["sample", "all"])
def test_ids_at_their_stimuli(op, n, alignment):
    found = verdicts(RIGHT[op], stimuli(n), "input_1", op, alignment=alignment)
    assert found == {"input_1": True, op: True}


def test_batch_statistics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lf.LensWarning)
        layers, activations = lf.trace(Normed().train(), stimuli(4))
    model = Normed().train()
    report = layers.lens.validate(model, stimuli(4), activations=activations)
    assert not failed(report, "alignment")
    assert report.loc["batch_norm_1", "alignment"]


def test_two_axes_of_stimuli():
    both = ("stimulus", "stimulus_")
    assert verdicts(lambda x: x @ x.T, stimuli(4), matmul_1=both) == {"matmul_1": True}
    assert verdicts(lambda x: torch.cdist(x, x), stimuli(4), cdist_1=both) == {"cdist_1": True}
    assert verdicts(lambda x: x @ x.flip(0).T, stimuli(4), matmul_1=both) == {"matmul_1": False}
    assert verdicts(lambda x: (x @ x.T).triu(1), stimuli(4), triu_1=both) == {"triu_1": True}
    assert verdicts(
        lambda x: torch.ones_like(x @ x.T).triu(1),
        stimuli(4), input_1=("stimulus", "a"), triu_1=both,
    )["triu_1"]  # fmt: skip
    assert verdicts(lambda x: x[:, :4] * 2, stimuli(4), mul_1=both) == {"mul_1": False}
    assert verdicts(lambda x: x[:, :4].T * 2, stimuli(4), mul_1=both) == {"mul_1": False}
    second = ("other_4", "stimulus")
    assert verdicts(lambda x: x @ x.T, stimuli(4), matmul_1=second) == {"matmul_1": True}
    assert verdicts(lambda x: x @ x.flip(0).T, stimuli(4), matmul_1=second) == {"matmul_1": False}


class Paired(nn.Module):
    """Texts and their images, of which only the texts are said to be the stimuli."""

    def __init__(self, order=slice(None)):
        super().__init__()
        torch.manual_seed(0)
        self.text, self.image = nn.Linear(6, 5), nn.Linear(3, 5)
        self.order = order

    def forward(self, texts, images):
        return (self.text(texts)[self.order] @ self.image(images).T).softmax(1) * 3


@pytest.mark.parametrize("n", [3, 4])
def test_another_argument_along_an_axis_without_ids(n):
    pair = stimuli(n, 6), stimuli(n, 3)
    assert verdicts(Paired().eval(), pair, "mul_1") == {"mul_1": True}
    order = [1, 0, *range(2, n)]
    assert verdicts(Paired(order).eval(), pair, "mul_1") == {"mul_1": False}


def views(x):
    return torch.cat([x, x.roll(1, 1)])


def turned(x):
    return x[torch.arange(len(x)).roll(1)]


#: Each stimulus beside all, several times over or in another order, along an axis without ids.
BESIDE_ALL = {
    "matmul_1": lambda x: x @ views(x).T,
    "softmax_1": lambda x: (x @ views(x).T).softmax(1),
    "masked_fill_1": lambda x: (x @ views(x).T).masked_fill(
        torch.eye(len(x), 2 * len(x), dtype=torch.bool), float("-inf")
    ),
    "mm_1": lambda x: x.mm(torch.stack([x, x * 2], 1).flatten(0, 1).T),
    "cdist_1": lambda x: torch.cdist(x, turned(x)),
    "sub_1": lambda x: x[:, None] - views(x)[None],
    "t_1": lambda x: (turned(x) @ x.T).t(),
    "flatten_1": lambda x: (x[:, None, :, None] * x[None, :, None, :3]).flatten(1),
}


@pytest.mark.parametrize("op", BESIDE_ALL)
@pytest.mark.parametrize("n", [3, 4, 8])
@pytest.mark.parametrize("alignment", ["sample", "all"])
def test_each_stimulus_beside_all_in_another_order(op, n, alignment):
    model = BESIDE_ALL[op]
    assert verdicts(model, stimuli(n), op, alignment=alignment) == {op: True}


@pytest.mark.parametrize("op", BESIDE_ALL)
@pytest.mark.parametrize("n", [3, 4, 8])
def test_another_stimulus_beside_all_in_another_order(op, n):
    wrong = verdicts(lambda x: -turned(BESIDE_ALL[op](x)), stimuli(n), "neg_1")
    assert wrong == {"neg_1": False}


def test_all_beside_all_tells_nobody_from_others():
    """Sorted, or as a set of numbers: each entry has all stimuli."""
    for model in (
        lambda x: torch.stack([x.roll(k, 0) for k in range(len(x))], 1) * 1,
        lambda x: torch.stack([x, x.roll(1, 0), x.roll(2, 0)]).transpose(0, 2)[:3] * 1,
        lambda x: (x @ x.T).roll(1, 0).argsort(1) * 1,
    ):
        assert verdicts(model, stimuli(3), "mul_1") == {"mul_1": False}


def test_two_pairs():
    pair = stimuli(2, 6), stimuli(2, 3)
    found = verdicts(Paired().eval(), pair, "matmul_1", "mul_1")
    assert found["matmul_1"]
    assert found["mul_1"] == "not run: there are two stimuli, and they are mixed"


def test_an_axis_that_has_another_extent():
    dims = ("stimulus", "stimulus_")
    assert verdicts(torch.relu, stimuli(4), relu_1=dims) == {"relu_1": False}


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_two_halves_tell_every_map_from_the_identity(n):
    """What the check rests on, tried on all maps of places to stimuli there are."""
    orders = [[(i + 1) % n if i in some else i for i in range(n)] for some in halves(n)]
    following = [
        taken
        for taken in itertools.product(range(n), repeat=n)
        if all(taken[order[i]] == order[taken[i]] for order in orders for i in range(n))
    ]
    assert following == [tuple(range(n))]


@pytest.mark.parametrize("n", [2, 3, 4, 7, 8, 9, 30])
def test_the_bits_tell_any_two_apart(n):
    sets = bits(n)
    assert len(sets) == 2 * int(np.ceil(np.log2(n)))
    for i, j in itertools.permutations(range(n), 2):
        assert any(i in some and j not in some for some in sets)


def noisy_after_mean(x):
    return nn.functional.dropout(x - x.mean(0), 0.5, training=True) * 2


def as_many_rounds(x):
    while x.norm() > 1:
        x = x * 0.7
    return x * 1


def picky(x):
    if bool((x[0] >= x[1]).all()):
        raise ValueError("twins, or the second first")
    return x * 2


NOT_RUN = [
    (noisy_after_mean, stimuli(4), "dropout_1", "below random numbers and a row that mixes"),
    (noisy_after_mean, stimuli(4), "output_1", "below random numbers and a row that mixes"),
    (lambda x: x - x.mean(0), stimuli(2), "sub_1", "two stimuli, and they are mixed"),
    (lambda x: x.relu(), stimuli(1), "relu_1", "one stimulus has no neighbour"),
    (lambda x: x.relu(), torch.ones(4, 3), "relu_1", "nothing moved"),
    (as_many_rounds, stimuli(3) * torch.tensor([[9], [99], [1]]), "output_1", "labels differ"),
    (picky, torch.tensor([[1.0], [2.0]]), "mul_1", "twins"),
]


@pytest.mark.parametrize(("function", "x", "op", "reason"), NOT_RUN)
def test_what_cannot_be_run_says_so_and_decides_nothing(function, x, op, reason):
    layers, activations = lf.trace(function, x)
    report = layers.lens.validate(function, x, activations=activations)
    cell = report.loc[op, "alignment"]
    assert cell.startswith("not run: ")
    assert reason in cell
    assert report.loc[op, "passed"]
    assert report.attrs["alignment_not_run"] > 0
    assert report.attrs["alignment_failed"] == 0


def test_none_is_not_run():
    assert verdicts(torch.flip, (stimuli(3), (0,)), "flip_1", alignment=None)["flip_1"] is not False
    layers, activations = lf.trace(torch.relu, stimuli(3))
    report = layers.lens.validate(torch.relu, stimuli(3), activations=activations, alignment=None)
    assert report["alignment"].isna().all()
    assert lf.trace(torch.relu, stimuli(3)).validate(alignment=None)["alignment"].isna().all()
    with pytest.raises(lf.LensValueError, match="alignment='some'"):
        layers.lens.validate(torch.relu, stimuli(3), alignment="some")


def test_a_row_whose_shape_depends_on_the_stimuli():
    """Its own verdict is missing; that of others is not."""

    def function(x):
        return x[:, 0][x[:, 0] > 0] * 2, x.relu()

    x = stimuli(4)
    x[:, 0] = torch.tensor([1.0, 2, -1, 3])
    layers, activations = lf.trace(function, x)
    report = layers.lens.validate(function, x, activations=activations)
    assert report.loc["relu_1", "alignment"]


# What the stimuli can be among the arguments.


@dataclass
class Batch:
    tokens: torch.Tensor
    mask: torch.Tensor


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 6)

    def forward(self, tokens, mask=None, order=None):
        x = self.embedding(tokens)
        if mask is not None:
            x = x * mask[..., None]
        x = x.sum(1) / (1 if mask is None else mask.sum(1, keepdim=True))
        return x if order is None else x[order]


class Wrapped(Tokens):
    def forward(self, batch):
        return super().forward(batch["tokens"] if isinstance(batch, dict) else batch.tokens)


class Stacked(nn.Module):
    def forward(self, images, order):
        return torch.stack([images[k] for k in order]).flatten(1) * 2


TOKENS = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(7) < torch.tensor([7, 3, 5, 4])[:, None]).long()
INPUTS = {
    "positional": (Tokens(), (TOKENS, MASK), {}),
    "keywords": (Tokens(), (), {"mask": MASK.bool(), "tokens": TOKENS}),
    "a mapping": (Tokens(), {"tokens": TOKENS, "mask": MASK.float()}, {}),
    "a dict": (Wrapped(), ({"tokens": TOKENS, "mask": MASK},), {}),
    "an object": (Wrapped(), (Batch(TOKENS, MASK),), {}),
    "a list of tensors": (Stacked(), ([*stimuli(4, 3, 5)], [0, 1, 2, 3]), {}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_all_that_has_an_entry_for_each_goes_along(name):
    model, args, kwargs = INPUTS[name]
    layers, activations = lf.trace(model.eval(), args, kwargs)
    op = layers.index[layers["kind"] == "output"][0]
    said = stated(activations, **{op: along_first(activations, op)})
    report = layers.lens.validate(model, args, kwargs, activations=said)
    assert report.loc[op, "alignment"] == True  # noqa: E712 (a text is not True)
    assert not failed(report, "alignment")


@pytest.mark.parametrize(("order", "right"), [([0, 1, 2, 3], True), ([2, 0, 1, 3], False)])
def test_a_list_of_tensors(order, right):
    images = [*stimuli(4, 3, 5)]

    def function(images):
        return torch.stack([images[k] for k in order]) * 2

    assert verdicts(function, images, "stack_1", "mul_1") == {"stack_1": right, "mul_1": right}


@pytest.mark.parametrize(("order", "right"), [([0, 1, 2, 3], True), ([3, 1, 2, 0], False)])
def test_tokens_with_a_mask(order, right):
    model = Tokens()
    found = verdicts(lambda t, m: model(t, m, order), (TOKENS, MASK), "getitem_2")
    assert found == {"getitem_2": right}


class Text(nn.Module):
    """The standard text model: torch sorts by length inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0] * 2


class Given(nn.Module):
    """Is given what is packed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(5, 6)

    def forward(self, packed):
        out, last = self.gru(packed)
        return pad_packed_sequence(out, batch_first=True)[0], last[0] * 2


@pytest.mark.parametrize("lengths", [[7, 3, 5, 4], [4, 4, 4, 4], [1, 2, 3, 7]])
def test_texts_that_are_sorted_inside(lengths):
    x = stimuli(4, max(lengths), 5)
    args = (x, torch.tensor(lengths))
    found = verdicts(Text().eval(), args, "index_select_1", "mul_1")
    assert found["mul_1"]
    assert found["index_select_1"] == (sorted(lengths)[::-1] == lengths)


@pytest.mark.parametrize(
    ("lengths", "sorted_"),
    [
        ([7, 3, 5, 4], False), ([4, 4, 4, 4], False), ([1, 2, 3, 7], False),
        ([7, 5, 3, 1], False), ([7, 5, 3, 1], True), ([4, 4, 4, 4], True),
    ],
)  # fmt: skip
def test_packed_sequences(lengths, sorted_):
    sequences = [*map(torch.clone, (t[:k] for t, k in zip(stimuli(4, 7, 5), lengths, strict=True)))]
    packed = pack_sequence(sequences, enforce_sorted=sorted_)
    found = verdicts(Given().eval(), packed, "output_1", "mul_1")
    assert found == {"output_1": True, "mul_1": True}
    after = pad_packed_sequence(packed, batch_first=True)[0]
    for i, sequence in enumerate(sequences):
        assert torch.equal(after[i, : len(sequence)], sequence)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_beside_the_stimuli():
    nested = torch.nested.nested_tensor([torch.ones(k, 2) for k in (2, 3, 1)])
    found = verdicts(lambda t, x: (t * 2, x.relu()), (nested, stimuli(3)), "relu_1")
    assert found == {"relu_1": True}


def test_how_many_random_numbers_depends_on_the_stimuli():
    def function(x):
        return torch.randn(int((x > 0).sum()) + 1), x + torch.randn_like(x)

    x = stimuli(4).abs() * torch.tensor([[-1], [1], [1], [1]])
    found = verdicts(function, x, "add_1")
    assert found["add_1"] == "not run: how many random numbers are drawn depends on the stimuli"


def test_nothing_is_changed():
    x = stimuli(6, 6)[:4]
    grad = stimuli(4).requires_grad_()
    loss = (grad * grad).sum()
    images, names = [*stimuli(4, 3, 5)], ["a", "b", "c", "d"]
    numbers = np.arange(4.0)
    with torch.inference_mode():
        frozen = stimuli(4)
    kept = [x, grad, frozen, *images]
    before = [(t.data_ptr(), t.detach().clone()) for t in kept]
    versions = x._version, grad._version

    def function(x, grad, frozen, images, names, numbers):
        y = torch.stack([image.mean() for image in images]) + torch.tensor(numbers)
        return (x + grad + frozen - x.mean(0)) * y[:, None]

    args = (x, grad, frozen, images, names, numbers)
    trace = lf.trace(function, args)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    report = trace.validate(alignment="all")
    assert report.loc["output_1", "alignment"]
    assert torch.equal(torch.get_rng_state(), state)
    assert [t.data_ptr() for t in kept] == [pointer for pointer, _ in before]
    assert all(torch.equal(t, value) for t, (_, value) in zip(kept, before, strict=True))
    assert (x._version, grad._version) == versions
    assert [*map(id, images)] == [*map(id, kept[3:])]
    assert names == ["a", "b", "c", "d"]
    assert numbers.tolist() == [0, 1, 2, 3]
    loss.backward()
    assert torch.equal(grad.grad, 2 * grad)


@pytest.mark.parametrize("saved", [["relu_1"], ["relu_1", "add_1"], ["add_1"]])
def test_values_of_two_stimuli_exchanged_where_nothing_can_be_replayed(saved):
    def function(x):
        return (x * 2).relu() + 1

    x = stimuli(4)
    layers, activations = lf.trace(function, x, save=saved)
    right = layers.lens.validate(function, x, activations=activations)
    assert right["passed"].all()
    wrong = activations.isel(stimulus=[0, 2, 1, 3])
    report = layers.lens.validate(function, x, activations=wrong)
    assert failed(report, "alignment") == {*saved}


class Counting(nn.Module):
    """Another value at each call."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x.relu() * self.calls + x.mean(0)


def test_a_model_that_keeps_state_is_judged_by_what_it_does_now():
    model = Counting().eval()
    report = lf.trace(model, stimuli(4)).validate()
    assert not failed(report, "alignment")
    assert model.calls == 1


def test_a_stopped_and_seeded_run():
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5).train(), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lf.LensWarning)
        layers, activations = lf.trace(model, stimuli(4), save=["1"], stop=True, seed=3)
    report = layers.lens.validate(model, stimuli(4), activations=activations)
    assert report.loc["dropout_1", "alignment"]


CANCELLED = {
    "its distance from itself": lambda x: torch.cdist(
        x, x.clone(), compute_mode="use_mm_for_euclid_dist"
    ).diagonal(),
    "the norm without the products": lambda x: (x**2).sum(-1) - (x @ x.T).diagonal(),
    "the inverse undone": lambda x: (
        torch.linalg.inv(x @ x.T + torch.eye(len(x))) @ (x @ x.T + torch.eye(len(x)))
        - torch.eye(len(x))
    ).diagonal(),
}  # fmt: skip


@pytest.mark.parametrize("function", CANCELLED.values(), ids=CANCELLED)
@pytest.mark.parametrize("n", [4, 7])
def test_what_is_left_where_terms_cancel_says_nothing(function, n):
    x = stimuli(n)
    labels = [*lf.trace(function, x).layers.index]
    last = labels[-2]
    found = verdicts(function, x, last, alignment="all")[last]
    assert "rounding" in found if isinstance(found, str) else found


@pytest.mark.parametrize("n", [4, 7])
def test_wrong_ids_of_small_numbers_are_wrong_all_the_same(n):
    def function(x):
        centred = x - x.mean(0)
        return (centred.flip(0) * 1e-6).sum(1)

    assert verdicts(function, stimuli(n), "sum_1", alignment="all") == {"sum_1": False}
