from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(threads: None) -> None:
    """The networks are so small that several threads only wait for each other."""
    torch.set_num_threads(1)
