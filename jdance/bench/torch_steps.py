"""Baselines: training and inference of the paper's network in PyTorch, in its fastest modes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from jdance.bench.torch_networks import FusedNet
from jdance.xla import cores

# torch.compile modes on GPUs; on CPUs, eager mode with channels last is fastest.
_MODES = {"compile": "default", "compile max-autotune": "max-autotune"}


def candidates(
    batch: dict[str, np.ndarray], classes: int, dtype: str, gpu: bool
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Returns (training step, inference) by the name of the mode, both synchronous.

    Args:
        batch: image uint8 [B, H, W, 3], features float32 [B, 18], label int32 [B].
        classes: number of motions.
        dtype: "bfloat16" runs under autocast.
        gpu: whether to run on a GPU, else on all CPU cores that this process may use.
    """
    torch.manual_seed(0)
    torch.set_num_threads(cores())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA does
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if gpu else "cpu")
    # Stays NHWC in memory.
    image = torch.tensor(batch["image"], device=device).permute(0, 3, 1, 2)
    features = torch.tensor(batch["features"], device=device)
    label = torch.tensor(batch["label"], dtype=torch.long, device=device)
    result = {}
    for name in ("channels last", *(_MODES if gpu else ())):
        net: Any = FusedNet(classes)
        net.to(device=device, memory_format=torch.channels_last)
        run = torch.compile(net, mode=_MODES[name]) if name in _MODES else net
        result[name] = _steps(net, run, (image, features), label, dtype, device)
    return result


def _steps(
    net: nn.Module, run: Any, inputs: Any, label: Any, dtype: str, device: torch.device
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    autocast = dtype == "bfloat16"

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def train() -> None:
        net.train()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = run(*inputs)
        nn.functional.cross_entropy(logits.float(), label).backward()
        optimizer.step()
        wait()

    def infer() -> None:
        net.eval()
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=autocast),
        ):
            torch.softmax(run(*inputs).float(), -1)
        wait()

    return train, infer
