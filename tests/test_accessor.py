"""The verbs of `df.lens` and `ds.lens`: words and signature of a function, less the table."""

import doctest
import inspect

import pytest
import torch

import lensframe_pd as lf
from lensframe_pd import accessor
from lensframe_pd.accessor import ActivationsAccessor, LayersAccessor, without_table

METHODS = {
    f"{kind.__name__}.{name}": method
    for kind in (LayersAccessor, ActivationsAccessor)
    for name, method in vars(kind).items()
    if inspect.isfunction(method)
}
every_verb = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def documented(words):
    """Names in the Parameters section."""
    section = words.partition("Parameters\n----------\n")[2].partition("\n\nReturns\n")[0]
    heads = [line for line in section.splitlines() if line and not line.startswith(" ")]
    return [name.strip("*") for head in heads for name in head.split(", ")]


@every_verb
def test_signature_is_the_functions_without_the_table(method):
    theirs, own = inspect.signature(method.__wrapped__), inspect.signature(method)
    _, *options = theirs.parameters.values()
    assert [*own.parameters] == ["self", *(option.name for option in options)]
    assert [*own.parameters.values()][1:] == options  # kinds, defaults and annotations
    assert own.return_annotation == theirs.return_annotation
    bound = inspect.signature(method.__get__(LayersAccessor(None)))
    assert [*bound.parameters.values()] == options


@every_verb
def test_words_are_the_functions_without_the_table(method):
    words, all_words = inspect.getdoc(method), inspect.getdoc(method.__wrapped__)
    table, *options = inspect.signature(method.__wrapped__).parameters
    assert documented(all_words)[0] == table
    assert sorted(documented(all_words)[1:]) == sorted(documented(words)) == sorted(options)
    assert ("Parameters\n---" in words) == bool(options)
    for part in ("Parameters\n----", "Returns\n----"):
        assert part in all_words
    assert words.startswith(all_words.partition("Parameters\n----")[0])
    assert words.endswith(all_words.partition("Returns\n----")[2])


@every_verb
def test_examples_are_written_as_users_call(method):
    examples = inspect.getdoc(method).partition("Examples\n")[2]
    name = method.__name__
    assert ".lens[" in examples if name == "select" else f".lens.{name}(" in examples
    assert "see `lensframe_pd" not in inspect.getdoc(method)


def test_examples_run_once():
    assert not [test for test in doctest.DocTestFinder().find(accessor) if test.examples]


@pytest.mark.parametrize("name", ["profile", "find", "edges", "validate"])
def test_an_unknown_keyword_is_pythons_own_error(name):
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected .* 'colour'"):
        getattr(LayersAccessor(None), name)(colour="red")
    with pytest.raises(TypeError, match=rf"^rdm\(\) got an unexpected .* '{name}'"):
        ActivationsAccessor(None).rdm(**{name: 1})


HEADING = "Parameters\n----------\n"
FRAME = "frame\n    Rows.\n\n    - a list\n    - of two\n"
MASK = "mask\n    One boolean per row."
RETURNS = "Returns\n-------\nDataFrame"


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (f"Do.\n\n{HEADING}{FRAME}\n{RETURNS}", f"Do.\n\n{RETURNS}"),
        (f"Do.\n\n{HEADING}{FRAME}{MASK}\n\n{RETURNS}", f"Do.\n\n{HEADING}{MASK}\n\n{RETURNS}"),
        (f"Do.\n\n{HEADING}{FRAME}\n{MASK}", f"Do.\n\n{HEADING}{MASK}"),
        (f"Do.\n\n{HEADING}frame, {MASK}", f"Do.\n\n{HEADING}{MASK}"),
        (f"Do.\n\n{HEADING}frames\n    Several.", f"Do.\n\n{HEADING}frames\n    Several."),
        (f"Do.\n\n{HEADING}{MASK}\n{FRAME}", f"Do.\n\n{HEADING}{MASK}\n{FRAME}"),
        ("Do it to the\nframe, or not.", "Do it to the\nframe, or not."),
        ("", ""),
    ],
)
def test_a_docstring_without_its_table(words, left):
    assert without_table(words, "frame") == left


def uncounted():
    return lf.trace(lambda x: torch.linalg.inv(x) @ x, torch.eye(3)).layers


def constant():
    return lf.trace(torch.nn.Identity().eval(), torch.ones(3, 4), stimulus=[1, 2, 3]).activations


@pytest.mark.parametrize(
    ("table", "call"),
    [
        (uncounted, lambda table: table.lens.profile()),
        (uncounted, lambda table: table.lens.summary()),  # which calls profile
        (constant, lambda table: table.lens.rdm()),
        (constant, lambda table: table.lens.cka()),
        (constant, lambda table: table.lens.score({"own": table["input_1"]})),
    ],
)
def test_warnings_point_at_the_line_that_called(table, call):
    with pytest.warns(lf.LensWarning) as caught:
        call(table())
    assert {(w.filename, w.lineno) for w in caught} == {(__file__, call.__code__.co_firstlineno)}


def test_the_package_shows_its_public_names_only():
    assert dir(lf) == sorted(
        "LensError LensKeyError LensRuntimeError LensTypeError LensValidationError LensValueError "
        "LensWarning Trace concat extract plot_rdm plot_scores read schema trace write".split()
    )
    assert "func" in lf.schema.COLUMNS
    from lensframe_pd import tracing

    assert inspect.ismodule(tracing)
    assert tracing.trace is lf.trace
