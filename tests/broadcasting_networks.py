"""Networks by hand in which axes of size 1 stand against longer ones, or units take part in less common operations."""

import jax
import jax.numpy as jnp
from permutable_networks import hidden, image

IN, OUT = (64, 6), (6, 10)
KERNEL = (3, 3, 1, 6)


def flat(inputs):
    return inputs.reshape(len(inputs), -1)


def rbf(params, _, inputs):
    return jnp.exp(-jnp.sum((flat(inputs)[:, None, :] - params["c"][None]) ** 2, -1) / 10) @ params["out"]


def rbf_swapped(params, _, inputs):
    return jnp.exp(-jnp.sum((params["c"][None] - flat(inputs)[:, None, :]) ** 2, -1) / 10) @ params["out"]


def rbf_widths(params, _, inputs):
    distances = jnp.sum((params["c"][None] - flat(inputs)[:, None]) ** 2, -1, keepdims=True)
    return jnp.exp(-distances / params["width"][None] / 10)[..., 0] @ params["out"]


def differences(params, _, inputs):
    units = hidden(params, inputs)
    return jax.nn.softmax(units[:, :, None] - units[:, None, :]).max(1) @ params["out"]


def products(params, _, inputs):
    first, second = jnp.tanh(flat(inputs) @ params["in"] / 10), jnp.tanh(flat(inputs) @ params["other"] / 10)
    return (first[:, :, None] * second[:, None, :]).reshape(len(inputs), -1) @ params["out"]


def attention(params, _, inputs):
    query, key, value = (inputs[..., 0] @ params[name] for name in ("query", "key", "value"))
    scores = jax.nn.softmax(query @ key.transpose(0, 2, 1) / 10)
    return (scores @ value).mean(1) @ params["out"]


def additive_attention(params, _, inputs):
    tokens = inputs[..., 0]
    query, key = tokens @ params["query"], tokens @ params["key"]
    scores = jax.nn.softmax(jnp.tanh(query[:, :, None] + key[:, None]) @ params["score"] / 10, 2)
    return (scores * (tokens @ params["value"])[:, None]).sum(2).mean(1) @ params["out"]


def gated(params, _, inputs):
    return (hidden(params, inputs) * jax.nn.sigmoid(flat(inputs) @ params["gate"] / 10)) @ params["out"]


def gated_swapped(params, _, inputs):
    return (jax.nn.sigmoid(flat(inputs) @ params["gate"] / 10) / hidden(params, inputs)) @ params["out"]


def switched(params, _, inputs):
    units = hidden(params, inputs)
    units = jnp.where(units > params["threshold"][None], units, 0.1 * units)
    return jnp.where(units.mean(1, keepdims=True) > 0.5, units, -units) @ params["out"]


def clipped(params, _, inputs):
    units = hidden(params, inputs)
    return (jnp.clip(units, params["low"][None], 0.9) ** params["power"] + jnp.clip(units, 0.1, 0.3)) @ params["out"]


def clamped(params, _, inputs):
    units = hidden(params, inputs)
    return jax.lax.clamp(jnp.broadcast_to(params["low"], units.shape), units, 0.9 + 0 * units) @ params["out"]


def layer_norm(params, _, inputs):
    units = flat(inputs) @ params["in"]
    units = (units - units.mean(-1, keepdims=True)) * jax.lax.rsqrt(units.var(-1, keepdims=True) + 1e-5)
    return (params["scale"] * units + params["shift"]) @ params["out"]


def group_norm(params, _, inputs):
    units = hidden(params, inputs).reshape(len(inputs), 3, 2)
    units = (units - units.mean(-1, keepdims=True)) / (1 + units.std(-1, keepdims=True))
    return (params["scale"].reshape(1, 3, 2) * units).reshape(len(inputs), 6) @ params["out"]


def excited(params, _, inputs):
    maps = jax.nn.relu(image(params, inputs))
    weights = jax.nn.sigmoid(jax.nn.relu(maps.mean((1, 2)) @ params["squeeze"]) @ params["excite"])
    return (maps * weights[:, None, None]).mean((1, 2)) @ params["out"]


def excited_outside(params, _, inputs):
    maps = image(params, inputs)
    return (params["excite"][None, None, None] - maps.mean((1, 2), keepdims=True) * maps).max((1, 2)) @ params["out"]


def modulated(params, _, inputs):
    gain = (flat(inputs) @ params["gain"])[:, None, None, :]
    return jnp.maximum(gain, image(params, inputs)).mean((1, 2)) @ params["out"]


def depthwise(params, _, inputs):
    numbers = ("NHWC", "HWIO", "NHWC")
    maps = jax.lax.conv_general_dilated(
        image(params, inputs), params["depth"], (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=6
    )
    return maps.mean((1, 2)) @ params["out"]


def bilinear(params, _, inputs):
    first, second = jnp.tanh(flat(inputs) @ params["in"] / 10), jnp.tanh(flat(inputs) @ params["other"] / 10)
    return jnp.einsum("bi,ijk,bj->bk", first, params["out"], second)


def factorised(params, _, inputs):
    return hidden(params, inputs) @ (params["left"] * params["right"]) @ params["out"]


def maxout(params, _, inputs):
    return (flat(inputs) @ params["in"]).reshape(len(inputs), 6, 3).max(-1) @ params["out"]


def experts(params, _, inputs):
    units = jnp.tanh(jnp.einsum("bi,eih->beh", flat(inputs), params["in"]) / 10)
    chosen = jax.nn.softmax(flat(inputs) @ params["gate"] / 10)
    return (chosen[..., None] * jnp.einsum("beh,eho->beo", units, params["out"])).sum(1)


def prototypes(params, _, inputs):
    units = hidden(params, inputs)
    units = units / jnp.linalg.norm(units, axis=1, keepdims=True)
    return (units[:, :, None] * (params["out"] / jnp.linalg.norm(params["out"], axis=0, keepdims=True))[None]).sum(1)


def squeezed(params, _, inputs):
    units = jax.nn.silu(hidden(params, inputs)[:, :, None]).squeeze(-1).T
    return jnp.expand_dims(jax.nn.gelu(units), (0, 3))[0, ..., 0].T @ params["out"]


def stacked(params, _, inputs):
    units = hidden(params, inputs)
    return (
        jnp.stack([units, units * params["scale"][None], units.mean(1, keepdims=True) + units], 1).max(1)
        @ params["out"]
    )


def padded(params, _, inputs):
    units = jnp.pad(hidden(params, inputs)[:, None], ((0, 0), (1, 1), (0, 0)), constant_values=0.5)
    return (units * params["scale"]).min(1) @ params["out"]


def scanned(params, _, inputs):
    units, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h * w[None]), None), hidden(params, inputs), params["many"])
    return units @ params["out"]


def vectorised(params, _, inputs):
    one = jax.vmap(lambda x, c: jnp.exp(-jnp.sum((c - x) ** 2) / 10), (None, 0))
    return jax.vmap(one, (0, None))(flat(inputs), params["c"]) @ params["out"]


@jax.custom_jvp
def shrunk(units, threshold):
    return jnp.sign(units) * jnp.maximum(jnp.abs(units) - threshold, 0)


shrunk.defjvps(lambda t, out, *_: t, lambda t, out, *_: -t * jnp.ones_like(out))


@jax.custom_vjp
def scaled(units, factor):
    return factor * units


scaled.defvjp(lambda units, factor: (factor * units, (units, factor)), lambda res, g: (g * res[1], g * res[0]))


def customised(params, _, inputs):
    return scaled(shrunk(hidden(params, inputs), params["scale"][None] / 10), params["gain"][:, None].T) @ params["out"]


def cumulated(params, _, inputs):
    maps = jax.lax.cumlogsumexp(jnp.cumsum(image(params, inputs), 1), 2) - params["scale"][None, None, None]
    return jax.lax.reduce_precision(maps, 8, 23).mean((1, 2)) @ params["out"]


def gathered(params, _, inputs):
    return hidden(params, inputs)[:, jnp.array([1, 0, 2, 5, 4, 3])] * params["scale"][None] @ params["out"]


def squared(params, _, inputs):
    units = hidden(params, inputs)[:, None, :]
    return jnp.sum((units - params["table"][None]) ** 2, 1) @ params["out"]


BROADCASTING = [
    # function, shapes of its weights, sizes of its groups
    (rbf, {"c": (7, 64), "out": (7, 10)}, (7,)),
    (rbf_swapped, {"c": (7, 64), "out": (7, 10)}, (7,)),
    (rbf_widths, {"c": (7, 64), "width": (7, 1), "out": (7, 10)}, (7,)),
    (vectorised, {"c": (7, 64), "out": (7, 10)}, (7,)),
    (differences, {"in": IN, "out": OUT}, (6,)),
    (products, {"in": IN, "other": (64, 3), "out": (18, 10)}, (6, 3)),
    (attention, {"query": (8, 6), "key": (8, 6), "value": (8, 5), "out": (5, 10)}, (6, 5)),
    (
        additive_attention,
        {"query": (8, 6), "key": (8, 6), "value": (8, 5), "score": (6, 1), "out": (5, 10)},
        (6, 5),
    ),
    (gated, {"in": IN, "gate": (64, 1), "out": OUT}, (6,)),
    (gated_swapped, {"in": IN, "gate": (64, 1), "out": OUT}, (6,)),
    (switched, {"in": IN, "threshold": (6,), "out": OUT}, (6,)),
    (clipped, {"in": IN, "low": (6,), "power": (1, 6), "out": OUT}, (6,)),
    (clamped, {"in": IN, "low": (1, 6), "out": OUT}, (6,)),
    (layer_norm, {"in": IN, "scale": (1, 6), "shift": (6,), "out": OUT}, (6,)),
    (group_norm, {"in": IN, "scale": (6,), "out": OUT}, (3, 2)),
    (excited, {"in": KERNEL, "squeeze": (6, 3), "excite": (3, 6), "out": OUT}, (6, 3)),
    (excited_outside, {"in": KERNEL, "excite": (6,), "out": OUT}, (6,)),
    (modulated, {"in": KERNEL, "gain": (64, 6), "out": OUT}, (6,)),
    # What goes through grouped convolutions, gathers and loops keeps its order.
    (depthwise, {"in": KERNEL, "depth": (3, 3, 1, 6), "out": OUT}, ()),
    (bilinear, {"in": IN, "other": (64, 4), "out": (6, 4, 10)}, (6, 4)),
    (factorised, {"in": IN, "left": (6, 1), "right": (1, 5), "out": (5, 10)}, (6, 5)),
    (maxout, {"in": (64, 18), "out": OUT}, (6, 3)),
    (experts, {"in": (3, 64, 6), "gate": (64, 3), "out": (3, 6, 10)}, (3, 6)),
    (prototypes, {"in": IN, "out": OUT}, (6,)),
    (squeezed, {"in": IN, "out": OUT}, (6,)),
    (stacked, {"in": IN, "scale": (6,), "out": OUT}, (6,)),
    (padded, {"in": IN, "scale": (3, 6), "out": OUT}, (6,)),
    (scanned, {"in": IN, "many": (2, 6), "out": OUT}, ()),
    (customised, {"in": IN, "scale": (6,), "gain": (6,), "out": OUT}, (6,)),
    (cumulated, {"in": KERNEL, "scale": (6,), "out": OUT}, (6,)),
    (gathered, {"in": IN, "scale": (6,), "out": OUT}, ()),
    (squared, {"in": IN, "table": (4, 6), "out": OUT}, (6, 4)),
]
