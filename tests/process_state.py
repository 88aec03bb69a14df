"""Every test finds what a process has only one of as every other test finds it, whatever ran before."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator

import pytest

SEED = 0
# A shell that starts something in the background has it ignore Ctrl-C, and whatever it starts in turn: tests
# send it, and expect what a terminal gets.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _same_process_state() -> Iterator[None]:
    """Set the switches that numbers depend on before; put environment, folder and signals back after."""
    _settle()
    environment, folder = dict(os.environ), os.getcwd()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    os.chdir(folder)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    # PYTEST_CURRENT_TEST is pytest's own, and changes between here and there.
    for name in [name for name in os.environ.keys() - environment if not name.startswith("PYTEST_")]:
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if not name.startswith("PYTEST_")})


def _settle() -> None:
    """Generators at one seed; libraries that are loaded at one thread and the defaults of a new process."""
    random.seed(SEED)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(SEED)
    if (cv2 := sys.modules.get("cv2")) is not None:
        cv2.setNumThreads(1)
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "set_num_threads"):
        torch.manual_seed(SEED)
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
        torch.backends.mkldnn.deterministic = False
