"""What a validation costs: said by check, and nothing done twice that need be done once."""

import gc
import json
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.capture import memory, snapshot
from lensframe_pd.validation.verdicts import CHECKS


def traced(n=3):
    layers = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(n)]
    with torch.no_grad():
        return lf.trace(nn.Sequential(*layers).eval(), torch.randn(3, 4), stimulus=list("abc"))


@pytest.mark.parametrize(
    ("given", "idle"),
    [({}, []), ({"downstream": None}, ["downstream"]), ({"alignment": None}, [])],
)
def test_what_each_check_took_is_said(given, idle):
    attrs = traced().validate(**given).attrs
    assert json.loads(json.dumps(attrs)) == attrs
    took = {check: attrs[f"{check}_seconds"] for check in CHECKS}
    assert {check for check, seconds in took.items() if seconds == 0.0} == {*idle}
    assert 0 < sum(took.values()) <= attrs["seconds"]


def test_of_a_frame_alone_it_is_said_too():
    trace = traced()
    attrs = trace.layers.lens.validate(trace._origin.model, torch.randn(3, 4)).attrs
    assert attrs["replay_seconds"] == attrs["dependence_seconds"] == 0.0
    assert attrs["invariants_seconds"] > 0


def test_what_the_model_holds_is_copied_once(monkeypatch):
    """All runs, the plain one, the traced one and those of alignment, begin from one copy."""
    kept = []
    take, alone = memory.KeptTogether.take, memory.KeptTensor.__init__

    def keep_with_others(self, tensor):
        place = take(self, tensor)
        if place is not None:
            kept.append(tensor)
        return place

    def keep(self, tensor):
        kept.append(tensor)
        alone(self, tensor)

    monkeypatch.setattr(memory.KeptTogether, "take", keep_with_others)
    monkeypatch.setattr(memory.KeptTensor, "__init__", keep)
    trace = traced()
    report = trace.validate()
    assert report["passed"].all()
    assert report.attrs["alignment_checked"] > 0
    weights = list(trace._origin.model.parameters())
    assert [sum(t is weight for t in kept) for weight in weights] == [1] * len(weights)


def test_no_compiler_is_imported():
    """It takes torch a second."""
    code = (
        "import sys, torch, lensframe_pd as lf\n"
        "trace = lf.trace(torch.nn.Linear(3, 2).eval(), torch.randn(4, 3), stimulus=range(4))\n"
        "assert trace.validate()['passed'].all()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class Held(nn.Module):
    """State of every kind that a run could leave otherwise."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.empty, self.listed, self.chosen = {}, [], set()
        self.register_buffer("nan", torch.tensor([float("nan"), -0.0, 1.0]))
        self.register_buffer("strided", torch.arange(12.0).view(3, 4).t())
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("halved", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("turning", torch.ones(2, dtype=torch.complex64))
        self.counts = torch.zeros((), dtype=torch.int64)

    def forward(self, x):
        self.empty["x"] = 1
        self.listed.append(2)
        self.chosen.add(3)
        self.counts += 1
        for buffer in (self.strided, self.halved, self.turning):
            buffer.mul_(2)
        self.nan[1] = 0.0
        self.flags.logical_not_()
        return self.fc(x) + self.strided.sum()


def test_all_that_a_run_changes_is_put_back():
    model = Held().eval()
    objects = [("model", model)]
    kept = snapshot.Snapshot(objects)
    before = {name: value.clone() for name, value in model.named_buffers()}
    for _ in range(2):
        with torch.no_grad():
            model(torch.ones(1, 4))
        kept.restore()
        assert (model.empty, model.listed, model.chosen) == ({}, [], set())
        assert model.counts == 0
        for name, value in model.named_buffers():
            bits = [t.contiguous().view(torch.uint8) for t in (value, before[name])]
            assert torch.equal(*bits), name
            assert value.stride() == before[name].stride()


def test_what_was_there_before_is_not_looked_through_meanwhile():
    """To look through all that was imported takes longer than to validate most models."""
    trace, seen = traced(), []
    found = gc.get_threshold()

    def note(phase, info):
        seen.append((info["generation"], gc.get_threshold()[2] == found[2]))

    for _ in range(found[2] + 1):
        gc.collect(1)  # after which all that there is is next
    try:
        gc.set_threshold(20, 1, found[2])
        gc.callbacks.append(note)
        assert trace.validate()["passed"].all()
        gc.callbacks.remove(note)
        assert gc.get_threshold() == (20, 1, found[2])
    finally:
        gc.set_threshold(*found)
    assert {generation for generation, is_as_before in seen if not is_as_before} == {0, 1}
    assert gc.get_freeze_count() == 0


def test_all_is_looked_through_in_the_end_where_only_validate_runs():
    trace = traced()
    node = [torch.ones(2)]
    node.append(node)
    alive = weakref.ref(node[0])
    gc.collect()  # it is old now
    del node
    found = gc.get_threshold()
    try:
        gc.set_threshold(1, 1, found[2])
        for _ in range(20):
            trace.validate()
            if alive() is None:
                break
    finally:
        gc.set_threshold(*found)
    assert alive() is None
