"""The residual networks in PyTorch, implemented from the papers with torchvision's tensor names.

He et al. (2016): blocks and stages, stride in the 3x3 convolution. Woo et al. (2018): channel, then
spatial attention at the end of each block's branch, with batch norm in the spatial gate.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from jdance.models.fused import MEAN, STD


class ChannelGate(nn.Module):
    """Mc(F) F, with a shared MLP for average and max pooling over space."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )

    def forward(self, x):
        gate = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * torch.sigmoid(gate)[:, :, None, None]


class SpatialGate(nn.Module):
    """Ms(F) F; the convolution takes the maximum over channels, then the mean."""

    def __init__(self):
        super().__init__()
        self.spatial: Any = nn.Module()
        self.spatial.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.spatial.bn = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)

    def forward(self, x):
        summary = torch.stack([x.amax(1), x.mean(1)], 1)
        return x * torch.sigmoid(self.spatial.bn(self.spatial.conv(summary)))


class CBAM(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.ChannelGate, self.SpatialGate = ChannelGate(channels), SpatialGate()

    def forward(self, x):
        return self.SpatialGate(self.ChannelGate(x))


class Block(nn.Module):
    """A residual block; kernels (3, 3) make a basic block, (1, 3, 1) a bottleneck."""

    def __init__(self, inputs, inner, stride, kernels, cbam):
        super().__init__()
        outputs = inner * (1 if len(kernels) == 2 else 4)
        self.depth = len(kernels)
        strided = len(kernels) - 2  # the first 3x3
        channels = inputs
        for i, kernel in enumerate(kernels):
            last = i == self.depth - 1
            width = outputs if last else inner
            conv = nn.Conv2d(
                channels, width, kernel, stride if i == strided else 1, kernel // 2, bias=False
            )
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(width))
            channels = width
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        if cbam:
            self.cbam = CBAM(outputs)

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = torch.relu(y)
        if hasattr(self, "cbam"):
            y = self.cbam(y)
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    layer1: Any  # layer1 to layer4 are set by name below
    layer2: Any
    layer3: Any
    layer4: Any

    def __init__(self, blocks, kernels, cbam=False, classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        expansion = 1 if len(kernels) == 2 else 4
        channels = 64
        for stage, count in enumerate(blocks):
            inner = 64 * 2**stage
            layer = nn.Sequential()
            for i in range(count):
                stride = 2 if stage and not i else 1
                layer.append(Block(channels, inner, stride, kernels, cbam))
                channels = expansion * inner
            self.add_module(f"layer{stage + 1}", layer)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


def build(name, seed=0):
    """Builds a network with random weights and random running statistics."""
    blocks, kernels = {
        "resnet18": ((2, 2, 2, 2), (3, 3)),
        "resnet50": ((3, 4, 6, 3), (1, 3, 1)),
        "cbam_resnet50": ((3, 4, 6, 3), (1, 3, 1)),
    }[name]
    net = ResNet(blocks, kernels, cbam=name.startswith("cbam"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, tensor in net.state_dict().items():
            if path.endswith("num_batches_tracked"):
                continue
            if path.endswith("running_var") or (tensor.ndim == 1 and path.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.1, generator=generator)
            else:
                fan_in = tensor[0].numel()
                tensor.normal_(0, fan_in**-0.5, generator=generator)
    return net


class SpatialThenChannel(nn.Module):
    """CBAM1 on [B, C, H, W]: spatial attention on (mean, maximum) with a bias, then channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)
        self.channel = ChannelGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.stack([x.mean(1), x.amax(1)], 1)
        return self.channel(x * torch.sigmoid(self.conv(summary)))


def dense(widths: list[int], dropout: float) -> nn.Sequential:
    """Builds dense layers with ReLU and dropout: [B, widths[0]] -> [B, widths[-1]]."""
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
        keypoints = torch.where(valid, self.keypoints(features), 0.0)
        return self.logits(self.fusion(torch.cat([keypoints.to(x.dtype), x], 1))).float()
