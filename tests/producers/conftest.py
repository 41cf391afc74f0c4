"""Quantized models are made with one thread."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread(torch_threads: None) -> None:
    torch.set_num_threads(1)
