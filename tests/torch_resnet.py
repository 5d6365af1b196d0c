"""The paper's ResNet-18 in PyTorch, written from its description: the independent reference for converters."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride > 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class TorchResNet18(nn.Module):
    """Logits of 32×32 images [b, 3, 32, 32]; eval mode unless told otherwise."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, stride in enumerate((1, 2, 2, 2)):
            outputs = width * 2**stage
            blocks = nn.Sequential(Block(channels, outputs, stride), Block(outputs, outputs, 1))
            self.add_module(f"layer{stage + 1}", blocks)
            channels = outputs
        self.linear = nn.Linear(channels, 10)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.linear(nn.functional.avg_pool2d(x, 4).flatten(1))


def random_resnet(width: int, seed: int) -> TorchResNet18:
    """With every parameter and statistic moved off its initial value, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(seed)
    network = TorchResNet18(width)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("num_batches_tracked"):
                value.fill_(391)
            elif name.endswith("running_var"):
                value.copy_(noise.exp())
            elif value.ndim == 1:
                # BatchNorm scales around 1; shifts, means and the last bias around 0.
                value.copy_(0.5 * noise + (name.endswith("weight")))
            else:
                value.copy_(noise / value[0].numel() ** 0.5)
    return network
