"""Recurrent layers of torch, and cells called in a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

STEPS, WIDTH, HIDDEN = 6, 5, 8


class Classifier(nn.Module):
    """A recurrent layer of torch, its last state read out."""

    def __init__(self, layer: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.rnn = layer(WIDTH, HIDDEN, batch_first=True, **options)
        self.read = nn.Linear(HIDDEN * (1 + bool(options.get("bidirectional"))), 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return self.read(out[:, -1])


class Packed(nn.Module):
    """Sequences of several lengths."""

    def __init__(self, layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.rnn = layer(WIDTH, HIDDEN, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.rnn(packed)
        padded, _ = pad_packed_sequence(out, batch_first=True)
        return padded.mean(1)


class CellLoop(nn.Module):
    """A cell called once per step; two of them make two layers."""

    def __init__(self, cell: Callable[[int, int], nn.Module], layers: int = 1) -> None:
        super().__init__()
        self.cells = nn.ModuleList([cell(HIDDEN if i else WIDTH, HIDDEN) for i in range(layers)])
        self.read = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        states: list[Any] = [None] * len(self.cells)
        for step in x.unbind(1):
            for i, cell in enumerate(self.cells):
                states[i] = cell(step, states[i])
                step = states[i][0] if isinstance(states[i], tuple) else states[i]
        return self.read(step)


class ConvLSTM(nn.Module):
    """Gates by one convolution over the frame and the state."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv2d(3 + HIDDEN, 4 * HIDDEN, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        h = frames.new_zeros(len(frames), HIDDEN, *frames.shape[-2:])
        c = torch.zeros_like(h)
        for frame in frames.unbind(1):
            i, f, o, g = self.gates(torch.cat([frame, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


class Seq2Seq(nn.Module):
    """Encoder, and a greedy decoder that attends to it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, HIDDEN)
        self.encoder = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.cell = nn.GRUCell(2 * HIDDEN, HIDDEN)
        self.read = nn.Linear(HIDDEN, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        memory, last = self.encoder(self.embed(tokens))
        h, word, logits = last[0], tokens[:, 0], []
        for _ in range(5):
            weights = torch.softmax(memory @ h.unsqueeze(-1), 1)
            context = (weights * memory).sum(1)
            h = self.cell(torch.cat([self.embed(word), context], -1), h)
            logits.append(self.read(h))
            word = logits[-1].argmax(-1)
        return torch.stack(logits, 1)


class EchoState(nn.Module):
    """A fixed random reservoir with a leak; only the readout is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(20, 20)
        self.register_buffer("reservoir", 0.9 * weights / torch.linalg.eigvals(weights).abs().max())
        self.register_buffer("win", torch.randn(WIDTH, 20))
        self.read = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 20)
        states = x.new_empty(len(x), x.shape[1], 20)
        for t in range(x.shape[1]):
            state = 0.7 * state + 0.3 * torch.tanh(x[:, t] @ self.win + state @ self.reservoir)
            states[:, t] = state
        return self.read(states)


class SpikingNet(nn.Module):
    """Leaky integrate-and-fire neurons, reset in place where they spike."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        potential = x.new_zeros(len(x), HIDDEN)
        count = torch.zeros_like(potential)
        for t in range(x.shape[1]):
            potential.mul_(0.9).add_(self.fc(x[:, t]))
            spikes = potential > 0.2
            potential.masked_fill_(spikes, 0.0)
            count += spikes
        return count


def _sequence(batch: int = 2) -> Tensor:
    return torch.randn(batch, STEPS, WIDTH)


BUILDS = {
    "lstm_classifier": lambda: (Classifier(nn.LSTM), (_sequence(),)),
    "lstm_2_layers": lambda: (Classifier(nn.LSTM, num_layers=2), (_sequence(),)),
    "lstm_bidirectional": lambda: (Classifier(nn.LSTM, bidirectional=True), (_sequence(),)),
    "gru_classifier": lambda: (Classifier(nn.GRU), (_sequence(),)),
    "gru_2_layers_bidirectional": lambda: (
        Classifier(nn.GRU, num_layers=2, bidirectional=True),
        (_sequence(),),
    ),
    "rnn_classifier": lambda: (Classifier(nn.RNN), (_sequence(),)),
    "rnn_relu": lambda: (Classifier(nn.RNN, nonlinearity="relu", bias=False), (_sequence(),)),
    "lstm_packed": lambda: (Packed(nn.LSTM), (_sequence(3), torch.tensor([6, 2, 4]))),
    "gru_packed": lambda: (Packed(nn.GRU), (_sequence(3), torch.tensor([3, 6, 1]))),
    "lstm_cell": lambda: (CellLoop(nn.LSTMCell), (_sequence(),)),
    "lstm_cell_2_layers": lambda: (CellLoop(nn.LSTMCell, 2), (_sequence(),)),
    "gru_cell": lambda: (CellLoop(nn.GRUCell), (_sequence(),)),
    "rnn_cell": lambda: (CellLoop(nn.RNNCell), (_sequence(),)),
    "conv_lstm": lambda: (ConvLSTM(), (torch.randn(2, 4, 3, 8, 8),)),
    "seq2seq_attention": lambda: (Seq2Seq(), (torch.randint(20, (2, 6)),)),
    "echo_state": lambda: (EchoState(), (_sequence(),)),
    "spiking": lambda: (SpikingNet(), (_sequence(),)),
}
