import pytest
from rsatoolbox.inference import evaluate


@pytest.fixture
def drawn(monkeypatch):
    """The samples that rsatoolbox's bootstrap draws in a test: pairs of RDMs and of patterns."""
    found = []

    def remembered(data, **names):
        sample, rdms, patterns = bootstrap_sample(data, **names)
        found.append((rdms, patterns))
        return sample, rdms, patterns

    bootstrap_sample = evaluate.bootstrap_sample
    monkeypatch.setattr(evaluate, "bootstrap_sample", remembered)
    return found
