"""Stimuli of several lengths: packed, sorted or shuffled inside, and given back in their order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpad_sequence,
)

from .made import Made, Maker

BATCH, STEPS, WIDTH, HIDDEN = 4, 6, 5, 8
LENGTHS = [3, 6, 1, 4]
"""In no order, and not sorted by a swap of two: an order and its inverse differ."""


class Packed(nn.Module):
    """A recurrent layer over packed sequences; all steps and the last state are read out."""

    def __init__(
        self, layer: Callable[..., nn.Module], sorted_lengths: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.first = options.setdefault("batch_first", True)
        self.sorted_lengths = sorted_lengths
        self.rnn = layer(WIDTH, HIDDEN, **options)
        self.read = nn.LazyLinear(3)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        inner = x if self.first else x.transpose(0, 1)
        packed = pack_padded_sequence(
            inner, lengths, batch_first=self.first, enforce_sorted=self.sorted_lengths
        )
        out, state = self.rnn(packed)
        padded, _ = pad_packed_sequence(out, batch_first=self.first, total_length=STEPS)
        last = state[0] if isinstance(state, tuple) else state
        return self.read(padded), last.transpose(0, 1)


class TextClassifier(nn.Module):
    """Words embedded, packed and read by a GRU; its state at the last word decides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, WIDTH, padding_idx=0)
        self.rnn = nn.GRU(WIDTH, HIDDEN, batch_first=True, bidirectional=True)
        self.read = nn.Linear(2 * HIDDEN, 3)

    def forward(self, words: Tensor) -> Tensor:
        lengths = (words != 0).sum(1)
        packed = pack_padded_sequence(
            self.embed(words), lengths, batch_first=True, enforce_sorted=False
        )
        _, state = self.rnn(packed)
        return self.read(torch.cat([state[-2], state[-1]], 1).relu())


class SortedByHand(nn.Module):
    """Longest first by an index, and back by its inverse."""

    def __init__(self, inverse: Callable[[Tensor], Tensor], layer: Any = nn.LSTM) -> None:
        super().__init__()
        self.inverse = inverse
        self.rnn = layer(WIDTH, HIDDEN, batch_first=True)
        self.read = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        lengths, order = lengths.sort(descending=True)
        packed = pack_padded_sequence(x[order], lengths, batch_first=True)
        padded, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.read(padded.index_select(0, self.inverse(order)))


def scattered(order: Tensor) -> Tensor:
    """The inverse of an order, written entry by entry."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))


def filled(order: Tensor) -> Tensor:
    """The inverse of an order, by assignment."""
    inverse = torch.zeros_like(order)
    inverse[order] = torch.arange(len(order))
    return inverse


class StepByStep(nn.Module):
    """A packed sequence read by its batch sizes: shorter ones fall out as time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, HIDDEN)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h = x.new_zeros(len(x), HIDDEN)
        ended: list[Tensor] = []
        for step in packed.data.split(packed.batch_sizes.tolist()):
            ended.insert(0, h[len(step) :])
            h = self.cell(step, h[: len(step)])
        return torch.cat([h, *ended])[packed.unsorted_indices]


class Backwards(nn.Module):
    """Each sequence turned round within its own length, read, and turned back."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = (nn.RNN(WIDTH, HIDDEN, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1]).expand(len(x), -1)
        turned = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        there = self.there(x)[0]
        back = self.back(x.gather(1, turned[..., None].expand_as(x)))[0]
        return torch.cat([there, back.gather(1, turned[..., None].expand_as(back))], -1)


class FromList(nn.Module):
    """A list of sequences, put together here."""

    def __init__(self, pack: bool) -> None:
        super().__init__()
        self.pack = pack
        self.rnn = nn.GRU(WIDTH, HIDDEN, batch_first=True)
        self.read = nn.Linear(HIDDEN, 3)

    def forward(self, sequences: list[Tensor]) -> Tensor:
        if not self.pack:
            return self.read(self.rnn(pad_sequence(sequences, batch_first=True))[0])
        out, _ = self.rnn(pack_sequence(sequences, enforce_sorted=False))
        return self.read(pad_packed_sequence(out, batch_first=True)[0])


class FromPacked(nn.Module):
    """A PackedSequence in; padded, and taken apart again."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, HIDDEN, num_layers=2, batch_first=True)

    def forward(self, packed: PackedSequence) -> list[Tensor]:
        padded, lengths = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return unpad_sequence(padded.tanh(), lengths, batch_first=True)


class Attended(nn.Module):
    """Attention over the states of a packed bidirectional LSTM, padding masked."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, HIDDEN, batch_first=True, bidirectional=True)
        self.attend = nn.MultiheadAttention(2 * HIDDEN, 2, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        padding = torch.arange(states.shape[1]) >= lengths[:, None]
        return self.attend(states, states, states, key_padding_mask=padding)[0].mean(1)


class MoCo(nn.Module):
    """Keys by an encoder that sees a shuffled batch, put back and compared with the queries."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = (
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
            for _ in range(2)
        )
        self.register_buffer("queue", nn.functional.normalize(torch.randn(216, 10), dim=0))

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        shuffled = torch.randperm(len(k))
        query = nn.functional.normalize(self.query(q), dim=1)
        key = nn.functional.normalize(self.key(k[shuffled]), dim=1)[shuffled.argsort()]
        positive = torch.einsum("nc,nc->n", query, key).unsqueeze(-1)
        return torch.cat([positive, query @ self.queue], 1) / 0.07


class Bucketed(nn.Module):
    """Short and long sequences by networks of their own, written back to their places."""

    def __init__(self) -> None:
        super().__init__()
        self.short, self.long = (nn.GRU(WIDTH, HIDDEN, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        out = x.new_zeros(len(x), HIDDEN)
        short = (lengths <= 3).nonzero().flatten()
        long = (lengths > 3).nonzero().flatten()
        out.index_copy_(0, short, self.short(x[short, :3])[0][:, -1])
        return out.index_copy(0, long, self.long(x[long])[0][:, -1])


class Routed(nn.Module):
    """Stimuli sorted by the expert they go to, each expert's run, and sorted back."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList([nn.Linear(WIDTH, HIDDEN) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.gate(x).argmax(-1)
        order = chosen.argsort(stable=True)
        counts = chosen.bincount(minlength=len(self.experts)).tolist()
        runs = [f(part) for f, part in zip(self.experts, x[order].split(counts), strict=True)]
        out = torch.empty(len(x), HIDDEN)
        out[order] = torch.cat(runs)
        return out


class Siamese(nn.Module):
    """Two views as one batch through one encoder, taken apart, and each compared with the other."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU())
        self.predict = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        one, two = self.encode(torch.cat([a, b])).chunk(2)
        loss = nn.functional.cosine_similarity(self.predict(one), two.detach(), dim=-1)
        return loss + nn.functional.cosine_similarity(self.predict(two), one.detach(), dim=-1)


class Frames(nn.Module):
    """Frames folded into the batch for an encoder, unfolded, and read over time."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.rnn = nn.GRU(6, HIDDEN)

    def forward(self, video: Tensor) -> Tensor:
        features = self.encode(video.flatten(0, 1)).flatten(1).unflatten(0, video.shape[:2])
        return self.rnn(features.transpose(0, 1))[0][-1]


def _padded() -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, STEPS, WIDTH), torch.tensor(LENGTHS)


def _descending() -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, STEPS, WIDTH), torch.tensor(sorted(LENGTHS, reverse=True))


def _list() -> tuple[list[Tensor]]:
    return ([torch.randn(length, WIDTH) for length in LENGTHS],)


def _words() -> tuple[Tensor]:
    words = torch.randint(1, 20, (BATCH, STEPS))
    return (words.masked_fill(torch.arange(STEPS) >= torch.tensor(LENGTHS)[:, None], 0),)


BUILDS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "gru_unsorted": lambda: (Packed(nn.GRU), _padded()),
    "gru_unsorted_bidirectional": lambda: (Packed(nn.GRU, bidirectional=True), _padded()),
    "gru_unsorted_time_first": lambda: (Packed(nn.GRU, batch_first=False), _padded()),
    "gru_sorted": lambda: (Packed(nn.GRU, True), _descending()),
    "lstm_unsorted_2_layers": lambda: (
        Packed(nn.LSTM, num_layers=2, bidirectional=True),
        _padded(),
    ),
    "lstm_unsorted_projected": lambda: (Packed(nn.LSTM, proj_size=4), _padded()),
    "lstm_sorted_time_first": lambda: (
        Packed(nn.LSTM, True, batch_first=False, bidirectional=True),
        _descending(),
    ),
    "rnn_unsorted_time_first": lambda: (
        Packed(nn.RNN, batch_first=False, num_layers=2),
        _padded(),
    ),
    "rnn_sorted": lambda: (Packed(nn.RNN, True, nonlinearity="relu"), _descending()),
    "text_classifier": lambda: (TextClassifier(), _words()),
    "sorted_by_hand_argsort": lambda: (SortedByHand(torch.argsort), _padded()),
    "sorted_by_hand_scatter": lambda: (SortedByHand(scattered, nn.GRU), _padded()),
    "sorted_by_hand_assigned": lambda: (SortedByHand(filled, nn.RNN), _padded()),
    "step_by_step": lambda: (StepByStep(), _padded()),
    "backwards": lambda: (Backwards(), _padded()),
    "list_padded": lambda: (FromList(pack=False), _list()),
    "list_packed": lambda: (FromList(pack=True), _list()),
    "packed_input": lambda: (FromPacked(), (pack_sequence(*_list(), enforce_sorted=False),)),
    "attended": lambda: (Attended(), _padded()),
    "moco": lambda: (MoCo(), (torch.rand(BATCH, 3, 8, 8), torch.rand(BATCH, 3, 8, 8))),
    "bucketed": lambda: (Bucketed(), _padded()),
    "routed": lambda: (Routed(), (torch.randn(BATCH, WIDTH),)),
    "siamese": lambda: (Siamese(), (torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH))),
    "frames": lambda: (Frames(), (torch.rand(BATCH, 3, 3, 8, 8),)),
}


def models() -> dict[str, Maker]:
    """Name to maker."""
    return {f"sequences/{name}": partial(_make, build) for name, build in BUILDS.items()}


def _make(build: Callable[[], tuple[nn.Module, tuple[Any, ...]]]) -> Made:
    torch.manual_seed(0)
    model, args = build()
    with torch.no_grad():
        model.eval()(*args)  # gives lazy layers their sizes
    return Made(model, args, stimuli=BATCH)
