"""Errors say what was asked, what was found, and what to do."""

import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.errors import LensError


@pytest.mark.parametrize("model", [3, "resnet18", {"weight": torch.ones(2)}, None])
def test_a_model_that_cannot_be_called(model):
    with pytest.raises(TypeError, match=f"{type(model).__name__}.*nn.Module") as caught:
        lf.trace(model, torch.ones(2))
    assert isinstance(caught.value, LensError)


def test_a_wrong_number_of_arguments_is_the_models_own_error():
    class Two(nn.Module):
        def forward(self, image, text):
            return image + text

    with pytest.raises(
        TypeError, match=r"missing 1 required positional argument: 'text'"
    ) as caught:
        lf.trace(Two().eval(), torch.ones(2))
    assert not isinstance(caught.value, LensError)
    assert any("lf.trace" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given") as caught:
        lf.trace(nn.ReLU().eval(), (torch.ones(2), torch.ones(2)))
    assert any("lf.trace" in note for note in caught.value.__notes__)


def test_keyword_arguments_that_are_no_mapping():
    with pytest.raises(TypeError, match="kwargs is a list") as caught:
        lf.trace(torch.sin, torch.ones(2), ["x"])
    assert isinstance(caught.value, LensError)


@pytest.mark.parametrize(
    "stimulus", [["a", "b"], pd.DataFrame({"kind": list("xyz" * 2)}), range(1), torch.arange(3)]
)
def test_a_wrong_number_of_stimulus_ids(stimulus):
    ran = []
    with pytest.raises(ValueError, match=rf"{len(stimulus)}.*4") as caught:
        lf.trace(lambda x: ran.append(x), torch.ones(4, 3), stimulus=stimulus)
    assert isinstance(caught.value, LensError)
    assert not ran  # said before the model ran


def test_stimulus_ids_without_an_axis():
    with pytest.raises(ValueError, match="axis 0"):
        lf.trace(torch.sin, torch.tensor(1.0), stimulus=["a"])


def test_a_frame_without_a_column_a_verb_needs():
    frame = pd.DataFrame({"layer": ["relu_1"]})
    with pytest.raises(KeyError, match=r"(?s)draw needs column 'parents'.*'step'.*lf.trace"):
        lf.schema.require(frame, "draw", "layer", "parents", "step")


# ------------------------------------------------------------------ save=


@pytest.fixture
def net():
    parts = {"encoder": nn.Linear(3, 4), "act": nn.ReLU(), "decoder": nn.Linear(4, 2)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model.eval()


def test_an_unknown_module_path_is_said_before_the_model_runs(net):
    net.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(KeyError, match=r"'encodr'; did you mean 'encoder'") as caught:
        lf.trace(net, torch.ones(2, 3), save="encodr")
    assert isinstance(caught.value, LensError)
    assert not str(caught.value).startswith('"')  # KeyError alone would show the repr


def test_all_unknown_names_are_reported_at_once_with_near_misses(net):
    with pytest.raises(KeyError) as caught:
        lf.trace(net, torch.ones(2, 3), save=["linear_9", "relu_1", "relu_1:7", "conv2d_1"])
    message = str(caught.value)
    assert "'linear_9'; did you mean 'linear_" in message
    assert "'relu_1:7'; did you mean 'relu_1'" in message
    assert "'conv2d_1'" in message
    assert "no label" in message


@pytest.mark.parametrize(
    ("save", "said"),
    [
        ("relu", "'relu' is a function: save=lambda row: row.func == 'relu'"),
        (["encoder", "linear"], "'linear' is a function: save=lambda row: row.func == 'linear'"),
        ("enc.*", "names are taken letter by letter"),
    ],
)
def test_functions_and_patterns_in_save(net, save, said):
    with pytest.raises(lf.LensKeyError) as caught:
        lf.trace(net, torch.ones(2, 3), save=save)
    assert said in str(caught.value)


def test_rows_of_another_model(net):
    other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    rows = lf.trace(other, torch.ones(2, 3), save=None).layers.query("kind == 'op'")
    with pytest.raises(ValueError, match="another model") as caught:
        lf.trace(net, torch.ones(2, 3), save=rows)
    message = str(caught.value)
    assert "'tanh_1'" in message
    assert "'linear_1'" in message  # the same label
    assert "'encoder'" in message  # of another module
    assert isinstance(caught.value, LensError)


@pytest.mark.parametrize("save", [3, [1, 2], {"encoder": True, 5: False}])
def test_save_of_an_impossible_kind(net, save):
    with pytest.raises(TypeError, match="save=") as caught:
        lf.trace(net, torch.ones(2, 3), save=save)
    assert isinstance(caught.value, LensError)


@pytest.mark.parametrize("save", ["all", None, lambda row: row.func == "relu"])
def test_stop_needs_names(net, save):
    with pytest.raises(ValueError, match="stop=True"):
        lf.trace(net, torch.ones(2, 3), save=save, stop=True)


def test_a_save_function_that_fails_or_asks_for_what_is_not_known_yet(net):
    with pytest.raises(ZeroDivisionError) as caught:
        lf.trace(net, torch.ones(2, 3), save=lambda row: 1 / 0)
    assert any("save=" in note for note in caught.value.__notes__)
    with pytest.raises(KeyError, match="'layer' is known only after the run"):
        lf.trace(net, torch.ones(2, 3), save=lambda row: row["layer"] == "relu_1")
    with pytest.raises(KeyError, match="'colour' is no column"):
        lf.trace(net, torch.ones(2, 3), save=lambda row: row["colour"])
