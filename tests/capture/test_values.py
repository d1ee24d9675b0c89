"""Saved values never change, whoever writes, and however: during the run or after it."""

import array
import ctypes
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.dlpack import from_dlpack, to_dlpack

import lensframe_pd as lf

N = 4


def values(trace, func):
    """The saved values of all rows of a function, in order."""
    activations = trace.activations
    return [
        activations[op].values.tolist()
        for op, row in trace.layers.iterrows()
        if row["func"] == func and row["saved"]
    ]


# ------------------------------------------------------------------ memory torch does not own


def numpy_buffer():
    buffer = np.zeros(N, dtype=np.float32)

    def write(number):
        buffer[:] = number

    return buffer, write


def bytes_buffer():
    buffer = array.array("f", [0.0] * N)

    def write(number):
        for i in range(N):
            buffer[i] = number

    return buffer, write


def ctypes_buffer():
    buffer = (ctypes.c_float * N)()

    def write(number):
        buffer[:] = [number] * N

    return buffer, write


def mapped_file(tmp_path):
    path = tmp_path / "mapped"
    buffer = np.memmap(path, dtype=np.float32, mode="w+", shape=(N,))

    def write(number):
        buffer[:] = number
        buffer.flush()

    return path, write


class Borrowed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, buffer):
        return torch.from_numpy(buffer)


@torch.library.custom_op("lensframe_test::borrowed", mutates_args=())
def borrowed_op(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(OF_THE_OP[0])


OF_THE_OP = [np.zeros(N, dtype=np.float32)]


def of_the_op():
    buffer, write = numpy_buffer()
    OF_THE_OP[0] = buffer
    return buffer, write


f32 = torch.float32
BORROWED = {
    "from_numpy": (numpy_buffer, torch.from_numpy),
    "as_tensor": (numpy_buffer, torch.as_tensor),
    "asarray": (numpy_buffer, torch.asarray),
    "asarray of a buffer": (bytes_buffer, lambda b: torch.asarray(memoryview(b), dtype=f32)),
    "frombuffer": (bytes_buffer, lambda b: torch.frombuffer(b, dtype=f32)),
    "frombuffer of ctypes": (ctypes_buffer, lambda b: torch.frombuffer(b, dtype=f32)),
    "from_dlpack": (numpy_buffer, torch.from_dlpack),
    "from_dlpack of utils": (numpy_buffer, from_dlpack),
    "from_file": (mapped_file, lambda p: torch.from_file(str(p), shared=True, size=N, dtype=f32)),
    "a part": (numpy_buffer, lambda b: torch.from_numpy(b)[:]),
    "a view": (numpy_buffer, lambda b: torch.as_tensor(b).view(2, 2).view(-1)),
    "set_": (numpy_buffer, lambda b: torch.empty(0).set_(torch.from_numpy(b))),
    "data": (numpy_buffer, lambda b: with_data(b)),
    "a parameter": (numpy_buffer, lambda b: nn.Parameter(torch.from_numpy(b))),
    "autograd.Function": (numpy_buffer, Borrowed.apply),
    "a custom operator": (of_the_op, lambda b: borrowed_op(torch.zeros(1))),
    "DLPack of a tensor": (numpy_buffer, lambda b: from_dlpack(to_dlpack(torch.from_numpy(b)))),
}  # fmt: skip


def with_data(buffer):
    tensor = torch.empty(N)
    tensor.data = torch.from_numpy(buffer)
    return tensor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BORROWED)
def test_memory_torch_does_not_own_is_copied(kind, tmp_path):
    make, borrow = BORROWED[kind]
    buffer, write = make(tmp_path) if make is mapped_file else make()

    def forward(x):
        for number in (1, 2, 3):
            write(number)
            x = x + borrow(buffer)
        return x

    trace = lf.trace(forward, torch.zeros(N))
    write(-9)
    assert values(trace, "add") == [[1] * N, [3] * N, [6] * N]
    rows = trace.layers[trace.layers["numel"] == N]
    borrowed = rows[~rows["func"].isin(["add", "input", "output", "empty", "zeros"])].index
    found = [trace.activations[op].values.ravel().tolist() for op in borrowed]
    per_round = len(found) // 3  # where torch shows a call for it at all
    assert found == [[number] * N for number in (1, 2, 3) for _ in range(per_round)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BORROWED)
def test_a_tensor_so_made_outside_and_passed_in_or_held(kind, tmp_path):
    make, borrow = BORROWED[kind]
    buffer, write = make(tmp_path) if make is mapped_file else make()
    write(1)
    given, model = borrow(buffer), nn.Module()
    model.held = borrow(buffer)

    def forward(x):
        a, b = x.view(-1), model.held.view(-1)
        write(2)
        return a.reshape(1, N), b.detach(), x + 0

    trace = lf.trace(forward, given)
    write(-9)
    activations = trace.activations
    assert values(trace, "input") == [[1] * N]
    assert values(trace, "constant") == ([] if kind == "a parameter" else [[1] * N])
    assert activations["view_1"].values.tolist() == activations["view_2"].values.tolist() == [1] * N
    assert values(trace, "add") == [[2] * N]


# ------------------------------------------------------------------ writes no call shows


def fill_storage(y):
    y.untyped_storage().fill_(0)


def copy_storage(y):
    storage = y.untyped_storage()
    storage.copy_(torch.UntypedStorage(storage.nbytes()).fill_(0))


def free_storage(y):
    y.untyped_storage().resize_(0)


def typed_storage(y):
    y.storage().fill_(0)


def through_numpy(y):
    array = y.detach().numpy()
    array += 100


def through_asarray(y):
    np.asarray(y.detach())[...] = 0


def through_dlpack(y):
    torch.from_dlpack(y.detach()).add_(100)


def through_capsule(y):
    from_dlpack(to_dlpack(y.detach())).mul_(0)


def through_capsule_of_a_part(y):
    from_dlpack(to_dlpack(y.detach()[1:])).mul_(0)


def through_pointer(y):
    ctypes.memset(y.data_ptr(), 0, 4)


def through_shared_memory(y):
    y.detach().share_memory_()
    y.untyped_storage().fill_(0)


def through_data(y):
    y.data.mul_(0)


def in_a_thread(y):
    y = y.detach()
    worker = threading.Thread(target=lambda: y.add_(1))
    worker.start()
    worker.join()


def through_saved_result(y):
    y.grad_fn._saved_result.mul_(0)


WRITES = [
    fill_storage, copy_storage, free_storage, typed_storage, through_numpy, through_asarray,
    through_dlpack, through_capsule, through_capsule_of_a_part, through_pointer,
    through_shared_memory, through_data, in_a_thread, through_saved_result,
]  # fmt: skip


def is_true_or_unsaved(trace, label, wanted):
    if trace.layers.loc[label, "saved"]:
        return trace.activations[label].values.tolist() == wanted.tolist()
    return trace.layers.loc[label, "unsaved_reason"] != ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save", ["all", "some"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_nobody_sees(write, save):
    weight = torch.ones(N, requires_grad=True)
    before = torch.full((N,), 2.0).exp()

    def forward(x):
        y = (x * weight).exp()
        part = y[1:]
        write(y)
        return part.sum() if y.untyped_storage().nbytes() else x.sum()

    wanted = "all" if save == "all" else ["exp_1", "getitem_1"]
    trace = lf.trace(forward, torch.full((N,), 2.0), save=wanted)
    assert is_true_or_unsaved(trace, "exp_1", before)
    assert is_true_or_unsaved(trace, "getitem_1", before[1:])
    assert trace.layers.loc["exp_1", "saved"] or write is in_a_thread


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lend", [through_numpy, through_asarray, through_dlpack])
def test_what_is_read_after_the_memory_was_handed_out(lend):
    def forward(x):
        y = x + 1
        memory = y.numpy()
        view = y.view(-1)
        memory += 100
        later = y.view(2, 2)
        again = y.view(-1)
        memory += 100
        lend(y)
        return view + later.view(-1) + again

    trace = lf.trace(forward, torch.zeros(N))
    assert values(trace, "view")[:3] == [[1] * N, [[101] * 2] * 2, [101] * N]


def test_memory_handed_out_before():
    x, weight = torch.zeros(N), nn.Parameter(torch.zeros(N))
    held = torch.zeros(N)
    arrays = [x.numpy(), weight.detach().numpy(), held.numpy()]

    def forward(x):
        views = x.view(-1), weight.view(-1), held.view(-1)
        for memory in arrays:
            memory += 1
        return [v * 2 for v in views]

    trace = lf.trace(forward, x)
    assert values(trace, "view") == [[0] * N] * 3
    assert values(trace, "input") == [[0] * N]
    assert values(trace, "mul") == [[2] * N] * 3


def test_a_write_of_another_thread_is_no_reason_to_lose_others():
    def forward(x):
        a, b = x + 1, x + 2
        in_a_thread(a)
        c = b * a
        c.add_(1)
        return c.clone().add_(1)

    trace = lf.trace(forward, torch.zeros(N))
    lost = trace.layers.query("not saved")
    assert list(lost.index) == ["add_1", "detach_1"]
    assert "out of the trace's sight" in lost.loc["add_1", "unsaved_reason"]
    assert set(trace.activations) == set(trace.layers.query("saved").index)


@pytest.mark.parametrize("inference", [False, True])
def test_seen_writes_lose_nothing(inference):
    mean, var = torch.zeros(N), torch.ones(N)

    def forward(x):
        y = x * 1
        y.add_(1)
        y[0] = 3
        torch.exp(y, out=y)
        z = nn.functional.relu_(nn.functional.batch_norm(y, mean, var, training=True))
        y.view(-1).mul_(2)
        kept = torch.empty(3, N).copy_(z)
        return torch.block_diag(kept, kept).sort().values

    with torch.inference_mode(inference):
        trace = lf.trace(forward, torch.ones(3, N))
    assert trace.layers["saved"].all()


# ------------------------------------------------------------------ after the run


def results(tensor):
    """Every tensor that autograd holds for a result, as its nodes give them."""
    nodes, found = [tensor.grad_fn], []
    while nodes:
        node = nodes.pop()
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        found += [value for value in saved if isinstance(value, torch.Tensor)]
        nodes += [n for n, _ in node.next_functions if n is not None]
    return found


DIFFERENTIATED = {
    "exp": torch.exp, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "sqrt": torch.sqrt,
    "softmax": lambda x: x.softmax(0), "log_softmax": lambda x: x.log_softmax(0),
    "square": lambda x: x * x, "sin of exp": lambda x: x.exp().sin(), "relu": torch.relu,
    "max": lambda x: x.view(2, 2).max(1).values, "std": lambda x: (x * 2).std(),
    "a part of it": lambda x: x.exp()[1:] * 3, "linear": lambda x: (x * 2) @ (x.view(4, 1) * 3),
    "norm": lambda x: nn.functional.layer_norm(x * 2, (4,)),
    "checkpoint hooks": lambda x: saved_by_hooks(x),
}  # fmt: skip


def saved_by_hooks(x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return x.tanh() * x.exp()


@pytest.mark.parametrize("built", ["before", "after"])
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_what_autograd_saved_is_written(name, built):
    function, x = DIFFERENTIATED[name], torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    with torch.no_grad():
        nothing_held = lf.trace(function, x + 0)
    wanted = {op: v.values.tolist() for op, v in nothing_held.activations.items()}
    trace = lf.trace(function, x + 0)
    if built == "before":
        assert trace.activations is not None
    written = results(trace.output)
    assert written
    for saved in written:
        with torch.no_grad():
            saved.fill_(-77 if saved.is_floating_point() else 1)
    assert {op: v.values.tolist() for op, v in trace.activations.items()} == wanted


def test_nothing_is_copied_that_nobody_else_holds():
    """The values of a run without autograd are the very memory that the run computed in."""
    places = []

    def forward(x):
        y = x.exp()
        places.append(torch._C._storage_address(y))
        z = y.sin()
        places.append(torch._C._storage_address(z))
        return z.sum()

    with torch.no_grad():
        trace = lf.trace(forward, torch.ones(1000))
    kept = [torch._C._storage_address(v) for v in trace.tape.values if v is not None]
    assert set(places) <= set(kept)
