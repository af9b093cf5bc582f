"""Tests that take a device: a CPU here, and `DGR_TEST_DEVICE=cuda pytest tests/devices` where there is a GPU."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    return torch.device(os.environ.get("DGR_TEST_DEVICE", "cpu"))


@pytest.fixture
def close(device):
    """Compares tensors of the device with those of a CPU, whose sums are in another order."""

    def assert_close(found, expected, rtol=1e-4, atol=1e-5):
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=rtol, atol=atol)

    return assert_close
