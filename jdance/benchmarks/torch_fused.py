"""The paper's fused network in PyTorch: what `models.build(config.base().model)` is, stated again.

The backbone is `torch_resnet`'s; see `jdance/models/fusion.py` for what the parts mean.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from jdance.benchmarks.torch_resnet import ChannelGate, ResNet
from jdance.models.fusion import MEAN, STD


class SpatialThenChannel(nn.Module):
    """CBAM1 on [B, C, H, W]: one 7x7 filter with a bias on (mean, maximum), then the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)
        self.channel = ChannelGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.stack([x.mean(1), x.amax(1)], 1)
        return self.channel(x * torch.sigmoid(self.conv(summary)))


def dense(widths: list[int], dropout: float) -> nn.Sequential:
    """Dense layers with ReLU and dropout: [B, widths[0]] -> [B, widths[-1]]."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class FusedNet(nn.Module):
    """(image uint8 [B, 3, H, W], features float32 [B, 18]) -> logits float32 [B, classes]."""

    def __init__(self, classes: int = 6, dropout: float = 0.5):
        super().__init__()
        self.backbone = ResNet((3, 4, 6, 3), (1, 3, 1))
        del self.backbone.fc
        self.attention = SpatialThenChannel(2048)
        self.dropout = nn.Dropout(dropout)
        self.keypoints = dense([18, 256, 512, 512, 512, 512], dropout)
        self.image = dense([2048, 512], dropout)
        self.fusion = dense([1024, 512, 512, 256, 256], dropout)
        self.logits = nn.Linear(256, classes)
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        x = (image - self.mean) / self.std
        net: Any = self.backbone
        x = nn.functional.max_pool2d(torch.relu(net.bn1(net.conv1(x))), 3, 2, 1)
        x = net.layer4(self.dropout(net.layer3(net.layer2(net.layer1(x)))))
        x = self.image(self.attention(x).mean((2, 3)))
        valid = (features != 0).any(-1, keepdim=True)
        known = torch.where(valid, self.keypoints(features), 0.0)
        return self.logits(self.fusion(torch.cat([known.to(x.dtype), x], 1))).float()
