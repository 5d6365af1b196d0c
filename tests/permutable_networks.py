"""Networks whose permutation symmetries are known, and weights to tell their units apart."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mdjax.models import Architecture, FlaxModel
from mdjax.models.layers import BatchNorm, Conv, dense, global_mean, placed
from mdjax.models.resnets import BasicBlock

IMAGES = jax.ShapeDtypeStruct((5, 8, 8, 1), jnp.float32)


class SmallResNet(nn.Module):
    """A stem and two blocks, one of them with a projected shortcut: ties, strides and statistics, quick to compile."""

    width: int
    convolution: str = "lax"

    @nn.compact
    def __call__(self, inputs, weights=None):
        hidden = placed(inputs, self.convolution)
        hidden = Conv(self.width, convolution=self.convolution, name="stem")(hidden)
        hidden = nn.relu(BatchNorm(self.convolution, name="bn")(hidden, weights))
        hidden = BasicBlock(self.width, 1, self.convolution, name="first")(hidden, weights)
        hidden = BasicBlock(2 * self.width, 2, self.convolution, name="second")(hidden, weights)
        return dense(10, global_mean(hidden, self.convolution), "linear")


def network(family: str, width: int, depth: int = 0, convolution: str = "lax"):
    if family == "small resnet":
        return FlaxModel(SmallResNet(width, convolution))
    return Architecture(family, width, IMAGES.shape[1:], 10, depth).model(convolution)


def abstract(model):
    variables = jax.eval_shape(model.module.init, jax.random.key(0), IMAGES)
    return variables["params"], variables.get("batch_stats", {})


def randomised(tree, seed: int, dtype=np.float32):
    """Positive random numbers in place of every weight and statistic, so that none is alike."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.uniform(0.2, 1.0, leaf.shape) - 0.1, dtype), tree)


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def distance(first, second) -> float:
    return float(np.linalg.norm(flat(first) - flat(second)))


def hidden(params, inputs):
    return jnp.tanh(inputs.reshape(len(inputs), -1) @ params["in"] / 10)


def image(params, inputs):
    return jax.lax.conv_general_dilated(
        inputs, params["in"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pooled(params, _, inputs):
    return nn.max_pool(jax.nn.gelu(image(params, inputs)), (2, 2), (2, 2)).reshape(len(inputs), -1) @ params["out"]


def averaged(params, _, inputs):
    return nn.avg_pool(image(params, inputs), (4, 4), (4, 4)).reshape(len(inputs), -1) @ params["out"]


def layer_norm(params, _, inputs):
    units = hidden(params, inputs)
    units = (units - units.mean(-1, keepdims=True)) / jnp.sqrt(units.var(-1, keepdims=True) + 1e-5)
    return (units * params["scale"]) @ params["out"]


def group_norm(params, _, inputs):
    units = hidden(params, inputs).reshape(len(inputs), 3, 2)
    return (units / jnp.abs(units).sum(-1, keepdims=True)).reshape(len(inputs), 6) @ params["out"]


def softmax(params, _, inputs):
    return jax.nn.softmax(hidden(params, inputs)) @ params["out"]


def masked(params, _, inputs):
    return (hidden(params, inputs) * np.arange(6)) @ params["out"]


def prefix_sums(params, _, inputs):
    return jnp.cumsum(hidden(params, inputs), axis=1) @ params["out"]


def sorted_units(params, _, inputs):
    return jnp.sort(hidden(params, inputs), axis=1) @ params["out"]


def halves(params, _, inputs):
    left, right = jnp.split(hidden(params, inputs), 2, axis=1)
    return (left * right) @ params["out"][:3]


def twice(params, _, inputs):
    units = hidden(params, inputs)
    return jnp.concatenate([units, units**2], axis=1) @ params["out"]


def unequal(params, _, inputs):
    units = hidden(params, inputs)
    return jnp.concatenate([units, inputs.reshape(len(inputs), -1)], axis=1) @ params["out"]


def crossed(params, _, inputs):
    units = hidden(params, inputs)
    return (units.reshape(-1, 2, 3) + units.reshape(-1, 3, 2).transpose(0, 2, 1)).reshape(-1, 6) @ params["out"]


def residual(params, _, inputs):
    units = hidden(params, inputs)
    return jax.checkpoint(lambda units: units + jnp.maximum(units @ params["mid"], 0))(units) @ params["out"]


def unused(params, _, inputs):
    return inputs.reshape(len(inputs), -1) @ params["out"]


def looped(params, _, inputs):
    units = jax.lax.fori_loop(0, 2, lambda _, units: jnp.tanh(units @ params["mid"]), hidden(params, inputs))
    return units @ params["out"]


FUNCTIONS = [
    # function, shapes of its weights, sizes of its groups
    (pooled, {"in": (3, 3, 1, 6), "out": (96, 10)}, (6,)),
    (averaged, {"in": (3, 3, 1, 6), "out": (24, 10)}, (6,)),
    (layer_norm, {"in": (64, 6), "scale": (6,), "out": (6, 10)}, (6,)),
    (group_norm, {"in": (64, 6), "out": (6, 10)}, (3, 2)),
    (softmax, {"in": (64, 6), "out": (6, 10)}, (6,)),
    (masked, {"in": (64, 6), "out": (6, 10)}, ()),
    (prefix_sums, {"in": (64, 6), "out": (6, 10)}, ()),
    (sorted_units, {"in": (64, 6), "out": (6, 10)}, ()),
    (halves, {"in": (64, 6), "out": (6, 10)}, ()),
    (twice, {"in": (64, 6), "out": (12, 10)}, (6,)),
    (unequal, {"in": (64, 6), "out": (70, 10)}, ()),
    (residual, {"in": (64, 6), "mid": (6, 6), "out": (6, 10)}, (6,)),
    (looped, {"in": (64, 6), "mid": (6, 6), "out": (6, 10)}, ()),
    (unused, {"out": (64, 10), "spare": (5, 1)}, (5,)),
]


def shapes(sizes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}
