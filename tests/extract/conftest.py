import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Sums round by the number of threads, and the processes that tests begin have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
