"""What a forward switches for the whole process is, after validation, as the caller had it."""

import threading
import warnings

import numpy as np
import pytest
import torch

import lensframe_pd as lf

X = torch.tensor([[0.5, -2.0, 7.0], [1.0, 1.5, 9.0]])


def filtered():
    warnings.simplefilter("ignore", FutureWarning)


def put_filters(old):
    warnings.filters[:] = old


# what a forward does; how the switch is read; how it is put back
SWITCHES = {
    "default dtype": (
        lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype,
        torch.set_default_dtype,
    ),
    "default device": (
        lambda: torch.set_default_device("cpu:0"), torch.get_default_device,
        lambda _: torch.set_default_device(None),
    ),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda old: torch.use_deterministic_algorithms(old[0], warn_only=old[1]),
    ),
    "threads": (lambda: torch.set_num_threads(3), torch.get_num_threads, torch.set_num_threads),
    "grad": (
        lambda: torch.set_grad_enabled(False), torch.is_grad_enabled, torch.set_grad_enabled
    ),
    "autocast": (
        lambda: torch.set_autocast_enabled("cpu", True),
        lambda: torch.is_autocast_enabled("cpu"),
        lambda old: torch.set_autocast_enabled("cpu", old),
    ),
    "matmul precision": (
        lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "fast path": (
        lambda: torch.backends.mha.set_fastpath_enabled(False),
        torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled,
    ),
    "anomaly": (
        lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled,
        torch.autograd.set_detect_anomaly,
    ),
    "warn always": (
        lambda: torch.set_warn_always(True), torch.is_warn_always_enabled, torch.set_warn_always
    ),
    "numpy": (lambda: np.seterr(all="ignore"), np.geterr, lambda old: np.seterr(**old)),
    "filters": (filtered, lambda: [*warnings.filters], put_filters),
}  # fmt: skip


def switching(change):
    def forward(x):
        before = x * torch.ones(3)
        change()
        return before, x * torch.ones(3), torch.full((2,), 0.1) @ torch.full((2, 3), 0.3)

    return forward


@pytest.mark.parametrize("kind", SWITCHES)
@pytest.mark.parametrize("left", [True, False], ids=["as the forward left it", "as before"])
def test_switches_are_as_the_caller_had_them(kind, left):
    change, read, put = SWITCHES[kind]
    forward = switching(change)
    with warnings.catch_warnings():
        before = read()
        try:
            trace = lf.trace(forward, X.clone())
            after = read()
            assert after != before
            if not left:
                put(before)
                expected = read()
            else:
                expected = after
            trace.validate(raise_on_failure=True)
            assert read() == expected
            if not left:
                values = trace.activations
                trace.layers.lens.validate(
                    forward, X.clone(), activations=values, raise_on_failure=True
                )
                assert read() == expected
        finally:
            put(before)


@pytest.mark.parametrize("kind", SWITCHES)
def test_repeats_leave_what_one_run_leaves(kind):
    change, read, put = SWITCHES[kind]
    with warnings.catch_warnings():
        before = read()
        try:
            lf.trace(switching(change), X.clone())
            once = read()
            put(before)
            lf.trace(switching(change), X.clone(), repeats=2)
            assert read() == once
        finally:
            put(before)


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_validations_in_two_threads_leave_no_filter(first_to_end):
    inside, may_end = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
    wrong = []

    def run(k):
        def forward(x):
            warnings.warn("of the model", UserWarning, stacklevel=1)
            if waiting[k]:
                inside[k].set()
                may_end[k].wait()
            return x + 1

        try:
            trace = lf.trace(forward, X.clone())
            waiting[k] = True
            trace.validate(raise_on_failure=True)
        except BaseException as error:
            wrong.append(error)

    waiting = [False, False]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = [*warnings.filters]
        threads = [threading.Thread(target=run, args=(k,)) for k in (0, 1)]
        for k in (0, 1):
            threads[k].start()
            inside[k].wait()
        warnings.warn("of another thread", UserWarning, stacklevel=1)
        for k in (first_to_end, 1 - first_to_end):
            may_end[k].set()
            threads[k].join()
        assert warnings.filters == before
    texts = [str(warning.message) for warning in heard]
    assert not wrong
    assert texts.count("of the model") == 2  # of the traces; the validations are silent
    assert texts.count("of another thread") == 1
