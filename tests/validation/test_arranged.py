"""Stimuli are found among arguments of any form, put in another order, and put back."""

from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from lensframe_pd.validation.arranged import Arranged, Blended, Unarrangeable

ORDER = [1, 1, 3, 0]


def column(*shape):
    """Whose number along axis 0 is its content."""
    return torch.arange(4.0).reshape(4, *[1] * len(shape)).expand(4, *shape).clone()


@pytest.mark.parametrize(
    "holder",
    [
        lambda t: t, lambda t: (t, torch.ones(3)), lambda t: {"x": t}, lambda t: [t],
        lambda t: UserDict(x=t), lambda t: SimpleNamespace(x=t), lambda t: ({"x": [(t,)]},),
    ],
)  # fmt: skip
@pytest.mark.parametrize("keyword", [False, True])
def test_a_tensor_wherever_it_stands(holder, keyword):
    tensor = column(2, 3)
    given = holder(tensor)
    arranged = Arranged((), {"x": given}, 4) if keyword else Arranged((given,), {}, 4)
    assert len(arranged) == 1
    arranged.give(ORDER)
    assert tensor[:, 0, 0].tolist() == ORDER
    arranged.restore()
    assert tensor[:, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "other",
    [
        torch.ones(3, 4), torch.tensor(4), [1, 2, 3], "four", nn.Linear(2, 4), np.ones((2, 4)),
        (1, 2, 3, 4), None, lambda: column(2), nn.Linear(2, 4).forward,
    ],
)  # fmt: skip
def test_what_has_no_entry_for_each(other):
    assert len(Arranged((other,), {}, 4)) == 0


def test_the_layout_stays():
    tensor = column(3, 5, 5).contiguous(memory_format=torch.channels_last)
    before = tensor.stride(), tensor.data_ptr()
    arranged = Arranged((tensor,), {}, 4)
    arranged.give(ORDER)
    assert tensor.stride() == before[0]
    arranged.restore()
    assert (tensor.stride(), tensor.data_ptr()) == before


def test_tensors_that_share_memory_each_have_their_own():
    base = column(6)
    part = base[:, :2]
    arranged = Arranged((base, part), {}, 4)
    arranged.give(ORDER)
    assert base[:, 0].tolist() == part[:, 0].tolist() == ORDER
    arranged.restore()
    assert base[:, 0].tolist() == part[:, 0].tolist() == [0, 1, 2, 3]


def test_a_list_of_what_is_no_tensor():
    names = ["a", "b", "c", "d"]
    arranged = Arranged((names,), {}, 4)
    arranged.give(ORDER)
    assert names == ["b", "b", "d", "a"]
    arranged.restore()
    assert names == ["a", "b", "c", "d"]


def test_a_list_of_tensors_of_several_sizes():
    images = [torch.full((k + 1, 2), float(k)) for k in range(4)]
    own = [*images]
    arranged = Arranged((images,), {}, 4)
    arranged.give(ORDER)
    assert [len(image) for image in images] == [2, 2, 4, 1]
    assert all(a is b for a, b in zip(images, own, strict=True))
    arranged.restore()
    assert [len(image) for image in images] == [1, 2, 3, 4]


def test_a_list_of_objects_with_tensors():
    boxes = [{"box": torch.full((2,), float(k))} for k in range(4)]
    arranged = Arranged((boxes,), {}, 4)
    arranged.give(ORDER)
    assert [float(item["box"][0]) for item in boxes] == ORDER
    with pytest.raises(Unarrangeable, match="different numbers of tensors"):
        Arranged(([*boxes[:3], {}],), {}, 4).give(ORDER)


def test_a_list_whose_tensors_have_all_stimuli():
    features = [column(2) + 10 * k for k in range(4)]
    arranged = Arranged((features,), {}, 4)
    arranged.give(ORDER)
    for k in range(4):
        assert (features[k][:, 0] - 10 * k).tolist() == ORDER


def test_arrays():
    array, fixed = np.arange(4.0), np.arange(4.0)
    arranged = Arranged((array,), {}, 4)
    arranged.give(ORDER)
    assert array.tolist() == ORDER
    arranged.restore()
    assert array.tolist() == [0, 1, 2, 3]
    fixed.flags.writeable = False
    with pytest.raises(Unarrangeable, match="cannot be written"):
        Arranged((fixed,), {}, 4).give(ORDER)


def test_contents_without_lengths_and_masks():
    tokens, lengths, mask = column(5).long() + 7, torch.arange(4) + 1, column(5) > 1
    ones = mask.long()
    arranged = Arranged((tokens, lengths, mask, ones), {}, 4)
    arranged.give(ORDER, contents_only=True)
    assert (tokens[:, 0] - 7).tolist() == ORDER
    assert lengths.tolist() == [1, 2, 3, 4]
    assert mask[:, 0].tolist() == [False, False, True, True]
    assert ones[:, 0].tolist() == [0, 0, 1, 1]
    arranged.give(ORDER)
    assert lengths.tolist() == [2, 2, 4, 1]


@pytest.mark.parametrize("kind", ["grad", "inference"])
def test_tensors_of_other_kinds(kind):
    if kind == "grad":
        tensor = column(2).requires_grad_()
        loss = (tensor * tensor).sum()
    else:
        with torch.inference_mode():
            tensor = column(2)
    arranged = Arranged((tensor,), {}, 4)
    arranged.give(ORDER)
    assert tensor[:, 0].tolist() == ORDER
    arranged.restore()
    assert tensor[:, 0].tolist() == [0, 1, 2, 3]
    if kind == "grad":
        loss.backward()
        assert torch.equal(tensor.grad, 2 * tensor)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.eye(4).to_sparse(), "cpu sparse_coo"),
        (torch.empty(4, 2, device="meta"), "meta strided"),
    ],
)
def test_tensors_that_cannot_be(tensor, kind):
    with pytest.raises(Unarrangeable, match=kind):
        Arranged((tensor,), {}, 4).give(ORDER)


@pytest.mark.filterwarnings("ignore")
def test_quantized_and_nested_tensors():
    quantized = torch.quantize_per_tensor(torch.ones(4, 2), 0.1, 0, torch.quint8)
    with pytest.raises(Unarrangeable, match="quantized strided"):
        Arranged((quantized,), {}, 4).give(ORDER)
    nested = torch.nested.nested_tensor([torch.ones(2)] * 4)
    assert len(Arranged((nested,), {}, 4)) == 0


@pytest.mark.parametrize(
    "tensor", [torch.arange(8.0).unfold(0, 2, 2), torch.arange(5.0).unfold(0, 2, 1)]
)
def test_entries_that_share_memory(tensor):
    before = tensor.clone()
    arranged = Arranged((tensor,), {}, 4)
    arranged.give(ORDER)
    assert torch.equal(tensor, before[ORDER])
    arranged.restore()
    assert torch.equal(tensor, before)


def test_a_parameter_that_is_an_argument():
    image = nn.Parameter(column(2))
    arranged = Arranged((image,), {}, 4)
    arranged.give(ORDER)
    assert image[:, 0].tolist() == ORDER
    arranged.restore()
    assert type(image) is nn.Parameter
    assert image[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("lengths", [[3, 1, 4, 2], [4, 3, 2, 1], [2, 2, 2, 2]])
@pytest.mark.parametrize("order", [[1, 1, 3, 0], [1, 0, 2, 3], [1, 2, 3, 0]])
def test_packed_sequences(lengths, order):
    sequences = [torch.full((n, 1), float(k)) for k, n in enumerate(lengths)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    arranged = Arranged((packed,), {}, 4)
    assert len(arranged) == 1
    arranged.give(order)
    assert [float(s[0]) for s in unpack_sequence(packed)] == order
    arranged.restore()
    after = unpack_sequence(packed)
    assert all(torch.equal(a, b) for a, b in zip(after, sequences, strict=True))


def test_sequences_packed_as_sorted_have_one_order():
    packed = pack_sequence([torch.ones(n, 1) for n in (4, 3, 2, 1)])
    Arranged((packed,), {}, 4).give(ORDER)  # a replaced sequence keeps its length
    with pytest.raises(Unarrangeable, match="packed as sorted"):
        Arranged((packed,), {}, 4).give([1, 0, 2, 3])


@pytest.mark.parametrize(
    "given",
    [
        column(3) + 1, (column(3) + 1).t().contiguous().t(), column(3).numpy() + 1,
        [t + 1 for t in column(3)], pack_sequence([*(column(3) + 1)]), (column(3) + 1).double(),
        pack_sequence([torch.ones(1), torch.ones(2), torch.ones(4), torch.ones(3)], False),
        (column(3) + 1) * 1j, (column(3) + 1).bfloat16(),
    ],
)  # fmt: skip
def test_numbers_are_moved_by_rounding_and_put_back(given):
    def numbers():
        held = given.data if isinstance(given, PackedSequence) else given
        return torch.cat([torch.as_tensor(t).reshape(-1).clone() for t in held])

    before = numbers()
    arranged = Arranged((given,), {}, 4)
    seen = []
    for nudge in (1, 2):
        arranged.give(range(4))
        arranged.nudge(nudge)
        seen.append(numbers())
        eps = torch.finfo(before.dtype).eps
        assert not torch.equal(seen[-1], before)
        assert ((seen[-1] - before).abs() <= 6 * eps * before.abs()).all()
    assert not torch.equal(*seen)
    arranged.restore()
    assert torch.equal(numbers(), before)


@pytest.mark.parametrize("given", [column(3).long(), column(3) > 1, column(3).long().numpy()])
def test_whole_numbers_have_no_last_digits(given):
    before = torch.as_tensor(given).clone()
    arranged = Arranged((given,), {}, 4)
    arranged.give(range(4))
    arranged.nudge(1)
    assert torch.equal(torch.as_tensor(given), before)


def ragged():
    return [torch.full((n, 2), 7.0 * n) for n in (3, 1, 4, 2)]


@pytest.mark.parametrize(
    "given",
    [
        column(3) * 9, (column(3) * 9).t().contiguous().t(), column(3).numpy() * 9,
        (column(3) * 9).requires_grad_(), [*(column(3) * 9)], column(3).long() * 9,
        (column(3) * 9).byte(), (column(3) * 9).numpy().astype("uint8"), column(3) * 9j,
        column(3).bfloat16() * 9, torch.arange(4.0) * 9, np.arange(4.0) * 9,
        (column(3) * 9).to(torch.uint8), -9 * column(3).long(), column(1).expand(4, 3) * 9,
    ],
)  # fmt: skip
def test_one_stimulus_is_blended_of_two_and_put_back(given):
    """Each of its numbers lies between those of the two, and is neither."""

    def numbers():
        rows = [torch.as_tensor(row).detach().reshape(-1).clone() for row in given]
        return torch.stack(rows).to(torch.complex64).sum(1).abs() / rows[0].numel()

    before = numbers()
    arranged = Arranged((given,), {}, 4)
    arranged.give([1, 2, 3, 0], blended=Blended(3, 2))
    after = numbers()
    assert torch.equal(after[:3], before[1:])
    assert before[0] < after[3] < before[2]
    arranged.restore()
    assert torch.equal(numbers(), before)


def test_a_blended_tensor_is_written_in_a_copy():
    tensor = column(3)
    shown = tensor.detach()
    version = tensor._version
    arranged = Arranged((tensor,), {}, 4)
    arranged.give([1, 2, 3, 0], blended=Blended(3, 3))
    assert torch.equal(shown, column(3))
    arranged.restore()
    assert tensor._version == version
    assert tensor.data_ptr() == shown.data_ptr()


@pytest.mark.parametrize(
    "given",
    [
        torch.ones(4, 3), torch.arange(4), column(3) > 1, (column(3) > 1).long(), ["a"] * 4,
        np.arange(4), np.array([*"abcd"]), [1.0, 2.0, 3.0, 4.0], ragged(),
        pack_sequence([*column(3)]), pack_sequence(ragged(), enforce_sorted=False),
    ],
)  # fmt: skip
def test_what_is_not_blended(given):
    """What is alike, what says how long or whether, and what has no numbers between."""
    arranged = Arranged((given,), {}, 4)
    with pytest.raises(Unarrangeable, match="nothing lies between two stimuli"):
        arranged.give([1, 2, 3, 0], blended=Blended(3, 3))
    arranged.restore()


def test_masks_go_along_with_what_is_blended():
    tokens, mask = column(3).long() * 9, column(3) > 1
    arranged = Arranged((tokens, mask), {}, 4)
    arranged.give([1, 2, 3, 0], blended=Blended(3, 3))
    assert mask[:, 0].tolist() == [False, True, True, False]
    assert 0 < tokens[3, 0] < 27
