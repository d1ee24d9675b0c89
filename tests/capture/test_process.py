"""What is set process-wide while a model runs is as before afterwards, whoever ends last."""

import gc
import sys
import threading
import weakref

import pytest
import torch
import torch._dynamo
from torch import nn

import lensframe_pd as lf


def stance():
    return torch._dynamo.eval_frame._stance.stance


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_two_threads(first_to_end):
    inside, may_end = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
    seen = []

    def run(k):
        def forward(x):
            inside[k].set()
            may_end[k].wait()
            return x + 1

        lf.trace(forward, torch.ones(2))

    before = stance(), sys.getrecursionlimit()
    threads = [threading.Thread(target=run, args=(k,)) for k in (0, 1)]
    for k in (0, 1):
        threads[k].start()
        inside[k].wait()
    seen.append(stance())
    for k in (first_to_end, 1 - first_to_end):
        may_end[k].set()
        threads[k].join()
        seen.append(stance())
    assert seen == ["force_eager", "force_eager", "default"]
    assert (stance(), sys.getrecursionlimit()) == before


class Nested(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def nested(depth):
    model = nn.ReLU()
    for _ in range(depth):
        model = Nested(model)
    return model.eval()


def deepest():
    """How many modules, one in the other, a plain forward can call here."""
    low, high = 50, 1000
    while high - low > 1:
        depth = (low + high) // 2
        try:
            nested(depth)(torch.ones(1))
            low = depth
        except RecursionError:
            high = depth
    return low


def test_modules_nested_as_deep_as_a_plain_forward_can():
    depth = deepest()
    trace = lf.trace(nested(depth), torch.ones(1))
    assert len(trace.layers.loc["relu_1", "module_stack"]) == depth


def test_a_limit_that_the_model_sets_stays():
    before = sys.getrecursionlimit()

    def forward(x):
        sys.setrecursionlimit(before + 777)
        return x + 1

    try:
        lf.trace(forward, torch.ones(1))
        assert sys.getrecursionlimit() == before + 777
    finally:
        sys.setrecursionlimit(before)


class Node:
    """What only the collector of cycles can free."""

    def __init__(self, tensor):
        self.tensor, self.itself = tensor, self


def busy(x):
    """As many objects as make the collector look twice."""
    kept = [[i] for i in range(200_000)]
    return x + len(kept)


def test_the_collector_sets_aside_what_is_there_and_finds_what_the_model_makes():
    seen = []

    def model(x):
        before = weakref.ref(Node(x + 1))
        x = busy(x)
        seen.append((gc.get_freeze_count() > 0, before() is None))
        later = weakref.ref(Node(x + 1))
        gc.collect()
        seen.append(later() is None)
        return x * 2

    callbacks = [*gc.callbacks]
    lf.trace(model, torch.ones(2))
    assert seen == [(True, True), True]
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()
    assert gc.callbacks == callbacks


def test_a_short_run_sets_nothing_aside():
    seen = []
    lf.trace(lambda x: seen.append(gc.get_freeze_count()) or x + 1, torch.ones(2))
    assert seen == [0]


def test_garbage_from_before_the_runs_is_found_in_the_end():
    def model(x):
        x = busy(x)
        gc.collect()  # of what the model made
        return x

    node = Node(torch.ones(2))
    alive = weakref.ref(node)
    gc.collect()  # it is old now
    del node
    lf.trace(model, torch.ones(2))
    assert alive() is not None
    for _ in range(10):
        lf.trace(model, torch.ones(2))
    assert alive() is None


def test_what_was_set_aside_is_back_after_an_exception():
    def model(x):
        busy(x)
        raise ValueError("no")

    callbacks = [*gc.callbacks]
    with pytest.raises(ValueError, match="no"):
        lf.trace(model, torch.ones(2))
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == callbacks


def test_the_collector_looks_as_rarely_as_without_a_tape_and_then_as_before():
    seen = []

    def model(x):
        seen.append(gc.get_threshold())
        return x + 1

    before = gc.get_threshold()
    lf.trace(model, torch.ones(2))
    assert seen[0][0] > before[0]
    assert seen[0][1:] == before[1:]
    assert gc.get_threshold() == before


def test_it_goes_on_as_the_model_has_set_it():
    before = gc.get_threshold()
    try:
        lf.trace(lambda x: gc.set_threshold(123, 4, 5) or x + 1, torch.ones(2))
        assert gc.get_threshold() == (123, 4, 5)
    finally:
        gc.set_threshold(*before)


def test_what_others_set_aside_stays_so():
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        lf.trace(busy, torch.ones(2))
        assert before / 2 < gc.get_freeze_count() <= before  # but what was freed since
    finally:
        gc.unfreeze()
