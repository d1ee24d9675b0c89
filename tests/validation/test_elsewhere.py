"""What other threads compute is seen by no mode: a row that it fed is not proven, and fails."""

import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import lensframe_pd as lf

X = torch.tensor([[0.5, -2.0, 7.0], [1.0, 1.5, 9.0]])
POOL = ThreadPoolExecutor(2)
HELD = torch.arange(3.0)
#: Without pytest's frames above, in which the origin of a constant would be looked for, too.
ALONE = ThreadPoolExecutor(1)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lf.LensWarning)
        yield


def in_a_thread(function, *args):
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*args)))
    thread.start()
    thread.join()
    return found[0]


def filled(x):
    results = {}
    in_a_thread(lambda: results.update(a=x.tanh()))
    return results["a"] + 1


def several(x):
    with ThreadPoolExecutor(2) as pool:
        return torch.stack([*pool.map(torch.relu, [x, x * 2, x * 3])]).sum(0)


def nested(x):
    return in_a_thread(lambda: POOL.submit(torch.exp, x).result() * 2) + 1


class Keeping(torch.nn.Module):
    def forward(self, x):
        in_a_thread(lambda: setattr(self, "h", x.cos()))
        return self.h + x


UNSEEN = {
    "a new pool": (several, 3),
    "an old pool": (lambda x: POOL.submit(torch.relu, x).result() + 1, 1),
    "a thread": (lambda x: in_a_thread(torch.sin, x).relu(), 1),
    "kept in a dict": (filled, 1),
    "kept by the model": (Keeping().eval(), 1),
    "all of it": (lambda x: in_a_thread(lambda: (x * 2).relu()), 1),
    "a thread of a thread": (nested, 1),
    "written in place": (lambda x: in_a_thread(lambda: torch.zeros(3).add_(x[0])) * 2, 1),
}


@pytest.mark.parametrize("kind", UNSEEN)
def test_what_a_thread_made_is_not_proven(kind):
    model, n = UNSEEN[kind]
    trace = ALONE.submit(lf.trace, model, X.clone()).result()
    here, values = trace.layers, trace.activations
    for report in (
        ALONE.submit(trace.validate).result(),
        ALONE.submit(here.lens.validate, model, X.clone(), activations=values).result(),
    ):
        wrong = report[~report["passed"]]
        assert list(wrong.index) == list(trace.layers.index[trace.layers["kind"] == "constant"])
        assert len(wrong) == n == report.attrs["not_proven"]
        assert wrong["reason"].str.contains("not proven: aten::").all()


def test_what_a_thread_wrote_is_not_proven():
    def forward(x):
        y = x * 1
        in_a_thread(lambda: y.add_(1))
        return y * 2

    report = lf.trace(forward, X.clone()).validate()
    assert not report.loc["mul_1", "passed"]
    assert "not proven: " in report.loc["mul_1", "reason"]


def background(x):
    in_a_thread(lambda: torch.randn(50, 50) @ torch.randn(50, 50))
    return torch.from_numpy(x.numpy() * 2) + 1


HONEST = {
    "a round trip": lambda x: torch.from_numpy(x.numpy() * 2) + 1,
    "a round trip in a thread": lambda x: in_a_thread(lambda: torch.from_numpy(x.numpy() * 2)) + 1,
    "a number": lambda x: x * in_a_thread(lambda: 3),
    "a thread beside a round trip": background,
    "held": lambda x: x + HELD,
    "handed through": lambda x: in_a_thread(lambda: x) * 2,
    "a legacy constructor": lambda x: x + torch.FloatTensor([1, 2, 3]),
}


@pytest.mark.parametrize("kind", HONEST)
def test_what_no_thread_made_keeps_its_meaning(kind):
    report = ALONE.submit(lambda: lf.trace(HONEST[kind], X.clone()).validate()).result()
    assert report["passed"].all(), report["reason"]
    assert "not_proven" not in report.attrs


def ragged(x):
    return torch.nested.nested_tensor([x[:1], x[1:]])


#: Programs with a constant, and with tensors that have no strides: torch's observer goes down over
#: some of them, and takes the process with it.
WITHOUT_STRIDES = {
    "nested, unseen": lambda x: ragged(x).to_padded_tensor(0.0) + 1,
    "nested, seen": lambda x: torch.nested.as_nested_tensor([x, x]).unbind()[0] + background(x),
    "nested, written": lambda x: ragged(x).mul_(2) * background(x)[0, 0],
    "nested and never read": lambda x: background(x) if ragged(x).is_nested else x,
    "compressed rows": lambda x: x.to_sparse_csr().to_dense() + background(x),
    "compressed columns": lambda x: x.to_sparse(layout=torch.sparse_csc).to_dense() + background(x),
    "made compressed": lambda x: (
        torch.sparse_csr_tensor(
            torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.from_numpy(np.ones(2, np.float32))
        )
        @ background(x)
    ),
}


def test_tensors_without_strides_end_no_process():
    """In a process of its own, which says what it has come to."""
    program = """
import warnings; warnings.simplefilter("ignore")
import lensframe_pd as lf
from test_elsewhere import WITHOUT_STRIDES, X
for kind, model in WITHOUT_STRIDES.items():
    for _ in range(3):
        reasons = lf.trace(model, X.clone()).validate()["reason"]
        known = not reasons.str.contains("whether another thread computed it is not known").any()
        print(kind, known, flush=True)
"""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=here, capture_output=True, text=True, check=False
    )
    said = [f"{kind} False" for kind in WITHOUT_STRIDES for _ in range(3)]
    assert done.stdout.splitlines() == said, done.stderr[-2000:]
    assert "Exception in execution trace observer" not in done.stderr
    assert done.returncode == 0
