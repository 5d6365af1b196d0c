"""Every family that is converted, in PyTorch, written from its description: independent references for converters."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

STAGES = {
    10: (1, 1, 1, 1),
    14: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def perturbed(network: nn.Module, seed: int) -> nn.Module:
    """With every parameter and statistic moved off its initial value, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("num_batches_tracked"):
                value.fill_(391)
            elif name.endswith("running_var"):
                value.copy_((0.5 * noise).exp())
            elif value.ndim == 1:
                # BatchNorm scales around 1; shifts, means and biases around 0.
                value.copy_(0.3 * noise + name.endswith("weight"))
            else:
                value.copy_(noise * (1.5 / value[0].numel()) ** 0.5)
    return network.eval()


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)


class Block(nn.Module):
    """A residual block of any layout: its shortcut is called by the layout's name."""

    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool, shortcut: str):
        super().__init__()
        outputs = 4 * features if bottleneck else features
        sizes = [(1, features, 1), (3, features, stride), (1, outputs, 1)]
        if not bottleneck:
            sizes = [(3, features, stride), (3, features, 1)]
        channels = inputs
        for number, (size, width, step) in enumerate(sizes, start=1):
            self.add_module(f"conv{number}", convolution(channels, width, size, step))
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
            channels = width
        self.count, self.name = len(sizes), shortcut
        if stride > 1 or inputs != outputs:
            self.add_module(shortcut, nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = torch.relu(y) if number < self.count else y
        return torch.relu(y + (getattr(self, self.name)(x) if hasattr(self, self.name) else x))


class ResidualFunction(nn.Module):
    """The block of pytorch-cifar100: everything but the shortcut in one list."""

    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool, shortcut: str):
        super().__init__()
        outputs = 4 * features if bottleneck else features
        layers = [convolution(inputs, features, 1 if bottleneck else 3, 1 if bottleneck else stride)]
        layers += [nn.BatchNorm2d(features), nn.ReLU()]
        if bottleneck:
            layers += [convolution(features, features, 3, stride), nn.BatchNorm2d(features), nn.ReLU()]
        layers += [convolution(features, outputs, 1 if bottleneck else 3), nn.BatchNorm2d(outputs)]
        self.residual_function = nn.Sequential(*layers)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.residual_function(x) + self.shortcut(x))


class TorchResNet(nn.Module):
    """A ResNet with the names of "cifar", "cifar100" or "torchvision"."""

    def __init__(self, layout: str, depth: int, width: int, classes: int, stem: str = "3x3"):
        super().__init__()
        bottleneck = depth not in (10, 18, 34)
        large = stem == "7x7"
        first = nn.Conv2d(3, width, 7 if large else 3, 2 if large else 1, padding=3 if large else 1, bias=False)
        if layout == "cifar100":
            self.conv1 = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU())
        else:
            self.conv1, self.bn1 = first, nn.BatchNorm2d(width)
        self.pool = nn.Identity() if stem == "3x3" else nn.MaxPool2d(3, 2, 1)
        block = ResidualFunction if layout == "cifar100" else Block
        shortcut = "downsample" if layout == "torchvision" else "shortcut"
        channels, self.stages = width, []
        for stage, count in enumerate(STAGES[depth]):
            blocks = []
            for number in range(count):
                features = width * 2**stage
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(block(channels, features, stride, bottleneck, shortcut))
                channels = 4 * features if bottleneck else features
            self.stages.append(f"conv{stage + 2}_x" if layout == "cifar100" else f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.head = "linear" if layout == "cifar" else "fc"
        self.add_module(self.head, nn.Linear(channels, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = self.pool(torch.relu(self.bn1(x)) if hasattr(self, "bn1") else x)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class TorchVGG(nn.Module):
    """The layers of dnn-mode-connectivity's VGG: blocks of convolutions (and BatchNorm), three linear layers."""

    def __init__(self, depth: int, width: int, classes: int, norm: bool):
        super().__init__()
        counts = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
        self.layer_blocks = nn.ModuleList()
        channels = 3
        for count, factor in zip(counts, (1, 2, 4, 8, 8), strict=True):
            block = nn.ModuleList()
            for _ in range(count):
                block.append(convolution(channels, width * factor, 3, bias=True))
                channels = width * factor
                if norm:
                    block.append(nn.BatchNorm2d(channels))
            self.layer_blocks.append(block)
        hidden = [nn.Dropout(), nn.Linear(channels, channels), nn.ReLU()]
        hidden += [nn.Dropout(), nn.Linear(channels, channels), nn.ReLU()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(channels, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.layer_blocks:
            for place, layer in enumerate(block):
                x = layer(x)
                if place + 1 == len(block) or isinstance(block[place + 1], nn.Conv2d):
                    x = torch.relu(x)
            x = functional.max_pool2d(x, 2)
        return self.classifier(x.flatten(1))


class PreactivationBlock(nn.Module):
    def __init__(self, inputs: int, sizes: list[tuple[int, int, int]], bias: bool, shortcut: str):
        super().__init__()
        channels, stride = inputs, max(step for _, _, step in sizes)
        for number, (size, width, step) in enumerate(sizes, start=1):
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
            self.add_module(f"conv{number}", convolution(channels, width, size, step, bias))
            channels = width
        self.count, self.name = len(sizes), shortcut
        if stride > 1 or inputs != channels:
            self.add_module(shortcut, nn.Sequential(convolution(inputs, channels, 1, stride, bias)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"conv{number}")(torch.relu(getattr(self, f"bn{number}")(y)))
        return y + (getattr(self, self.name)(x) if hasattr(self, self.name) else x)


class TorchPreResNet(nn.Module):
    def __init__(self, depth: int, width: int, classes: int):
        super().__init__()
        bottleneck = depth >= 44
        self.conv1 = convolution(3, width, 3)
        channels = width
        for stage in range(3):
            blocks = []
            for number in range((depth - 2) // (9 if bottleneck else 6)):
                features, stride = width * 2**stage, 2 if stage > 0 and number == 0 else 1
                sizes = [(3, features, stride), (3, features, 1)]
                if bottleneck:
                    sizes = [(1, features, 1), (3, features, stride), (1, 4 * features, 1)]
                blocks.append(PreactivationBlock(channels, sizes, False, "downsample"))
                channels = sizes[-1][1]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn, self.fc = nn.BatchNorm2d(channels), nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(torch.relu(self.bn(x)).mean((2, 3)))


class TorchWideResNet(nn.Module):
    def __init__(self, depth: int, width: int, classes: int):
        super().__init__()
        self.conv1 = convolution(3, 16, 3, bias=True)
        channels = 16
        for stage in range(3):
            blocks = []
            for number in range((depth - 4) // 6):
                features, stride = 16 * width * 2**stage, 2 if stage > 0 and number == 0 else 1
                sizes = [(3, features, 1), (3, features, stride)]
                blocks.append(PreactivationBlock(channels, sizes, True, "shortcut"))
                channels = features
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn1, self.linear = nn.BatchNorm2d(channels), nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(torch.relu(self.bn1(x)).mean((2, 3)))


NONLINEARITIES = {
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}


class ModelZooCNN(nn.Module):
    """CNN-s, CNN-l and CNN3 of the published zoos: a list of layers, with or without dropout among them."""

    def __init__(self, kind: str, channels: int, nonlinearity: str, dropout: float, classes: int = 10):
        super().__init__()
        features, sizes, inputs = {
            "CNN-s": ((8, 6, 4), (5, 5, 2), 36),
            "CNN-l": ((6, 9, 6), (5, 5, 2), 54),
            "CNN3": ((16, 32, 15), (3, 3, 3), 60),
        }[kind]
        dropped = [nn.Dropout(dropout)] if dropout > 0 or kind == "CNN3" else []
        layers = []
        for place, (width, size) in enumerate(zip(features, sizes, strict=True)):
            layers.append(nn.Conv2d(channels, width, size))
            pooled = place < 2 or kind == "CNN3"
            layers += ([nn.MaxPool2d(2, 2)] if pooled else []) + [NONLINEARITIES[nonlinearity]()]
            layers += dropped if pooled else []
            channels = width
        layers += [
            nn.Flatten(),
            nn.Linear(inputs, 20),
            NONLINEARITIES[nonlinearity](),
            *dropped,
            nn.Linear(20, classes),
        ]
        self.module_list = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.module_list:
            x = layer(x)
        return x


def mlp(*sizes: int, nonlinearity: str = "relu", bias: bool = True) -> nn.Sequential:
    """Linear layers called fc1, fc2, ..., over a flattened image."""
    layers = OrderedDict(flat=nn.Flatten())
    for number in range(1, len(sizes)):
        layers[f"fc{number}"] = nn.Linear(sizes[number - 1], sizes[number], bias=bias)
        layers[f"act{number}"] = NONLINEARITIES[nonlinearity]() if number < len(sizes) - 1 else nn.Identity()
    return nn.Sequential(layers)


class OwnMLP(nn.Module):
    """mdjax's own MLP and CNN, by mdjax's names."""

    def __init__(self, inputs: int, width: int, depth: int, classes: int):
        super().__init__()
        for layer in range(depth):
            self.add_module(f"hidden{layer}", nn.Linear(inputs if layer == 0 else width, width))
        self.linear, self.depth = nn.Linear(width, classes), depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in range(self.depth):
            x = torch.relu(getattr(self, f"hidden{layer}")(x))
        return self.linear(x)


class OwnCNN(nn.Module):
    def __init__(self, channels: int, width: int, depth: int, classes: int):
        super().__init__()
        for layer in range(depth):
            features = width * 2**layer
            self.add_module(f"conv{layer}", convolution(channels, features, 3, 1 if layer == 0 else 2, bias=True))
            channels = features
        self.linear, self.depth = nn.Linear(channels, classes), depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in range(self.depth):
            x = torch.relu(getattr(self, f"conv{layer}")(x))
        return self.linear(x.mean((2, 3)))


class Mixed(nn.Module):
    """Every kind of layer that a specification knows, in two lists."""

    SPECIFICATION = (
        "features: conv5k3s2p1nobias batchnorm elu mean2s1p1 conv4k2 gelu max3s2p1 "
        "classifier: flatten batchnorm silu dropout dense7 batchnorm sigmoid dense6nobias leakyrelu dense3"
    )

    def __init__(self) -> None:
        super().__init__()
        features = [nn.Conv2d(3, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5), nn.ELU(), nn.AvgPool2d(2, 1, 1)]
        self.features = nn.Sequential(*features, nn.Conv2d(5, 4, 2), nn.GELU(), nn.MaxPool2d(3, 2, 1))
        hidden = [nn.Flatten(), nn.BatchNorm1d(24), nn.SiLU(), nn.Dropout(), nn.Linear(24, 7), nn.BatchNorm1d(7)]
        last = [nn.Sigmoid(), nn.Linear(7, 6, bias=False), nn.LeakyReLU(), nn.Linear(6, 3)]
        self.classifier = nn.Sequential(*hidden, *last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x))
