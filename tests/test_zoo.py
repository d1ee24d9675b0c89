"""A fixed sample of the zoo: traced without changing the output, and validated with every check."""

import pytest
from zoo.examine import examine
from zoo.sample import SAMPLE


@pytest.mark.parametrize("name", SAMPLE)
def test_traced_exactly_and_valid(name):
    found = examine(name)
    assert found.get("error") is None
    assert found["exact"], found["output"]
    assert found["passed"], found["reasons"]
    assert found["missed"] == []
    assert found["warnings"] == []
    assert found["v_replay_checked"] > 0.8 * found["n_rows"]
    assert found["v_downstream_checked"] > 0
    assert found["v_aten_gaps"] == 0
