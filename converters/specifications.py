"""A torch.nn.Module that applies one layer after another → the text of a sequence (`mdjax.models.sequences`).

Its forward pass is traced (torch.fx), which runs the module's code on no numbers. What a trace does not show, such as
parts without gradient, has to be compared with the module itself.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.errors import RefusedError
from mdjax.errors import InputError, first_line
from mdjax.models.sequences import NONLINEARITIES, layers_of, shapes_of

_SHAPES = ("size", "dim")
_LARGEST_SIDE = 512


def specification(module: Any, prefix: str = "") -> str:
    """The layers of a module in eval mode as text, each named as its entries of the state_dict, without `prefix`.

    Raises RefusedError, naming the part, for a module that is no sequence of the layers that there are.
    """
    import torch

    try:
        graph = torch.fx.Tracer().trace(module)
    except Exception as error:  # the code is the user's own: it can raise anything
        raise RefusedError(f"its forward pass cannot be traced: {first_line(error)}") from None
    parts = dict(module.named_modules())
    names: dict[int, list[str]] = {}  # all names of a part, the first of which is that of a trace
    for name, part in module.named_modules(remove_duplicate=False):
        names.setdefault(id(part), []).append(name.removeprefix(prefix))
    words: list[str] = []
    named: dict[str, Any] = {}  # the layers so far, by the names of their entries
    last = None
    for node in graph.nodes:
        if node.op == "placeholder":
            if last is not None:
                raise RefusedError("its forward pass takes more than one tensor")
            last = node
        elif _is_shape(node):
            continue
        elif node.op == "output":
            if node.args != (last,):
                raise RefusedError("it returns something else than its last layer's outputs")
        else:
            others = [other for other in node.all_input_nodes if other is not last and not _is_shape(other)]
            if node.args[:1] != (last,) or others:
                raise RefusedError(f"its {node.name} reads something else than the layer before it")
            words.append(_repeated(node, parts, names, named) or _word(node, parts, prefix))
            last = node
    text = " ".join(filter(None, words))
    try:
        layers_of(text)
    except InputError as error:
        raise RefusedError(str(error).rstrip(".")) from None
    return text


def fitting_shape(text: str, arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Some input shape that a sequence of these arrays reads: a vector, or the least square images that fit.

    Raises RefusedError where there is none.
    """
    first = next(layer for layer in layers_of(text) if layer.features)
    weight = arrays.get(f"{first.key}.weight")
    if weight is None or weight.ndim < 2:
        raise RefusedError(f"it lacks the entry {first.key}.weight")
    if first.kind == "dense":
        return (weight.shape[1],)
    for side in range(1, _LARGEST_SIDE):
        shape = (side, side, weight.shape[1])
        try:
            shapes = shapes_of(text, shape)
        except InputError:
            continue
        read = [(layer, before) for layer, before in zip(layers_of(text), shapes) if layer.kind == "dense"]
        layer, before = read[0]
        if arrays.get(f"{layer.key}.weight", np.zeros((0, 0))).shape[1:] == before:
            return shape
    raise RefusedError("its layers fit no square images; give input_shape=HEIGHTxWIDTHxCHANNELS")


def _is_shape(node: Any) -> bool:
    """Whether a node only asks for a tensor's shape, as `x.size(0)` in `x.view(x.size(0), -1)`."""
    if node.op == "call_method":
        return node.target in _SHAPES
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] == "shape"
    if node.op == "call_function" and node.target in (operator.getitem, operator.floordiv, operator.mul):
        return all(_is_shape(other) for other in node.all_input_nodes)
    return False


def _repeated(node: Any, parts: Mapping[str, Any], names: Mapping[int, list[str]], named: dict[str, Any]) -> str:
    """The word for a layer that came before, called again or tied to this one in all its parameters; else "".

    parts: by their names in a trace.
    names: of a part, by its id; each call takes the next one, as a place of a Sequential that holds it twice.
    named: the layers so far by the names that were taken; this one is added.
    """
    part = parts[node.target] if node.op == "call_module" else None
    own = [] if part is None else [*part.parameters()]
    if not own:
        return ""
    name = next((name for name in names[id(part)] if name not in named), names[id(part)][0])
    for other, before in named.items():
        if part is before or (_module_word(part) == _module_word(before) and _same(own, [*before.parameters()])):
            if name in named:
                return f"@{other}"
            named[name] = part
            return f"{name}=@{other}"
    named[name] = part
    return ""


def _same(parameters: list[Any], others: list[Any]) -> bool:
    return len(parameters) == len(others) and all(one is other for one, other in zip(parameters, others))


def _word(node: Any, parts: Mapping[str, Any], prefix: str) -> str:
    """The word for one node of a trace, "" for what does nothing in eval mode; RefusedError for any other."""
    name = str(node.target if node.op in ("call_module", "call_method") else node.name)
    if node.op == "call_module":
        part = parts[node.target]
        word = _module_word(part)
        described = f"{name} ({type(part).__name__})"
        if word and word.startswith(_NAMED):
            word = f"{name.removeprefix(prefix)}={word}"
    else:
        word = _function_word(node)
        described = name
    if word is None:
        raise RefusedError(f"its {described} is none of the layers of a sequence, or has settings that they lack")
    return word


_NAMED = ("conv", "dense", "batchnorm")


def _module_word(part: Any) -> str | None:
    from torch import nn

    if isinstance(part, nn.Identity | nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.AlphaDropout):
        return ""
    if isinstance(part, nn.Linear):
        return f"dense{part.out_features}" + ("" if part.bias is not None else "nobias")
    if isinstance(part, nn.Conv2d):
        usual = part.groups == 1 and part.padding_mode == "zeros" and _one(part.dilation) == 1
        size, stride = _one(part.kernel_size), _one(part.stride)
        padding = {"valid": 0, "same": (size or 0) // 2}.get(str(part.padding))
        padding = _one(part.padding) if padding is None else padding
        usual = usual and (part.padding != "same" or (stride == 1 and (size or 0) % 2 == 1))
        word = f"conv{part.out_channels}k{size}s{stride}p{padding}" + ("" if part.bias is not None else "nobias")
        return word if usual and None not in (size, stride, padding) else None
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        return "batchnorm" if part.eps == 1e-5 and part.affine and part.track_running_stats else None
    if isinstance(part, nn.MaxPool2d):
        usual = _one(part.dilation) == 1 and not part.ceil_mode and not part.return_indices
        return _pool("max", part.kernel_size, part.stride, part.padding) if usual else None
    if isinstance(part, nn.AvgPool2d):
        usual = not part.ceil_mode and part.count_include_pad and part.divisor_override is None
        return _pool("mean", part.kernel_size, part.stride, part.padding) if usual else None
    if isinstance(part, nn.AdaptiveAvgPool2d):
        return "globalmean" if _one(part.output_size) == 1 else None
    if isinstance(part, nn.Flatten):
        return "flatten" if (part.start_dim, part.end_dim) == (1, -1) else None
    return _nonlinearity(type(part).__name__.lower(), lambda name, default: getattr(part, name, default))


def _function_word(node: Any) -> str | None:
    import torch

    def given(name: str, default: Any, position: int = 1) -> Any:
        return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)

    # Of functions the namesakes elsewhere, as of a user's own, may be something else.
    namespaces = (torch, torch.nn.functional)
    name = node.target if node.op == "call_method" else str(getattr(node.target, "__name__", ""))
    if node.op == "call_function":
        found = [key for space in namespaces for key in _FUNCTIONS if getattr(space, key, None) is node.target]
        if not found:
            return None
        name = found[0]
    match name:
        case "dropout" | "alpha_dropout" | "dropout2d":
            return "" if given("training", True, 2) is False else None
        case "contiguous":
            return ""
        case "flatten":
            return "flatten" if (given("start_dim", 0), given("end_dim", -1, 2)) == (1, -1) else None
        case "view" | "reshape":
            # To [b, n]; a comparison with the module itself finds where the sizes mean something else.
            sizes = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
            return "flatten" if len(sizes) == 2 else None
        case "max_pool2d":
            usual = not given("ceil_mode", False, 5) and _one(given("dilation", 1, 4)) == 1
            usual = usual and not given("return_indices", False, 6)
            return _pool(
                "max", given("kernel_size", None), given("stride", None, 2), given("padding", 0, 3), usual=usual
            )
        case "avg_pool2d":
            usual = not given("ceil_mode", False, 4) and given("count_include_pad", True, 5) is True
            usual = usual and given("divisor_override", None, 6) is None
            return _pool(
                "mean", given("kernel_size", None), given("stride", None, 2), given("padding", 0, 3), usual=usual
            )
        case "adaptive_avg_pool2d":
            return "globalmean" if _one(given("output_size", None)) == 1 else None
        case "mean":
            axes = given("dim", None)
            axes = sorted(axis % 4 for axis in axes) if isinstance(axes, list | tuple) else axes
            return "globalmean" if axes == [2, 3] and not given("keepdim", False, 2) else None
    return _nonlinearity(name, given)


_FUNCTIONS = ("dropout", "alpha_dropout", "dropout2d", "flatten", "reshape", "max_pool2d", "avg_pool2d", "mean")
_FUNCTIONS += ("adaptive_avg_pool2d", "relu", "relu_", "leaky_relu", "tanh", "sigmoid", "silu", "gelu", "elu")


def _nonlinearity(name: str, given: Callable[[str, Any], Any]) -> str | None:
    """The word for a nonlinearity with PyTorch's default constants."""
    word = name.replace("_", "")
    usual = {"leakyrelu": ("negative_slope", 0.01), "elu": ("alpha", 1.0), "gelu": ("approximate", "none")}
    constant, expected = usual.get(word, ("", None))
    return word if word in NONLINEARITIES and (not constant or given(constant, expected) == expected) else None


def _pool(kind: str, size: Any, stride: Any, padding: Any, *, usual: bool = True) -> str | None:
    size, stride, padding = _one(size), _one(size if stride in (None, []) else stride), _one(padding)
    return f"{kind}{size}s{stride}p{padding}" if usual and None not in (size, stride, padding) else None


def _one(value: Any) -> int | None:
    """The number that holds for both axes of an image; None where they differ."""
    numbers = set(value) if isinstance(value, tuple | list) else {value}
    return numbers.pop() if len(numbers) == 1 and all(isinstance(number, int) for number in numbers) else None
