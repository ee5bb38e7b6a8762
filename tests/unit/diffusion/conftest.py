from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(threads: None) -> None:
    """Tensors here are tiny: threads only cost."""
    torch.set_num_threads(1)
