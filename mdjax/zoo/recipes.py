"""How networks of a grid are trained: the optimizer, its learning rate over time, and changes of the images."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mdjax.errors import InputError, brief

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "step", "cosine")
AUGMENTATIONS = ("none", "flip", "crop", "flip+crop")

_STEPS = (0.5, 0.75)
"""Fractions of the training after which the schedule "step" divides the learning rate by ten."""


class Rates(NamedTuple):
    """The optimizer's settings of one model, or of every model of a stack [models]."""

    learning_rate: jax.Array
    momentum: jax.Array
    weight_decay: jax.Array


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What networks that are trained together share of their training.

    `optimizer`: "sgd" with momentum, whose weight decay is added to the gradient, or "adamw", whose weight decay is
    decoupled (β₁ = 0.9, β₂ = 0.999, ε = 1e-8; it has no momentum of its own). `schedule` of the learning rate:
    "constant", "step" (a tenth after half of the training, a hundredth after three quarters) or "cosine" (to 0),
    after it rose from 0 over the fraction `warmup` of all steps. `augmentation` of images: "none", "flip" (left to
    right, half of them), "crop" (shifted by up to an eighth of a side, zeros coming in) or "flip+crop".

    InputError for values that mean nothing.
    """

    optimizer: str = "sgd"
    schedule: str = "constant"
    warmup: float = 0.0
    augmentation: str = "none"

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("augmentation", AUGMENTATIONS)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {brief(getattr(self, name))}. Choose one of {', '.join(choices)}.")
        number = isinstance(self.warmup, int | float) and not isinstance(self.warmup, bool)
        if not number or not 0 <= self.warmup < 1:
            raise InputError(f"warmup is {brief(self.warmup)}. Give a fraction of the training from 0 to below 1.")
        object.__setattr__(self, "warmup", float(self.warmup))

    @property
    def text(self) -> str:
        """What tells the recipe from the usual one, for a configuration's name: "" or "-adamw-cosine"."""
        usual = Recipe()
        parts = [
            getattr(self, name) for name in ("optimizer", "schedule") if getattr(self, name) != getattr(usual, name)
        ]
        parts += [f"warmup{self.warmup!r}"] if self.warmup else []
        parts += [self.augmentation] if self.augmentation != usual.augmentation else []
        return "".join(f"-{part}" for part in parts)

    def check(self, input_shape: tuple[int, ...]) -> None:
        """InputError where examples of this shape are no images that could be augmented."""
        if self.augmentation != "none" and len(input_shape) != 3:
            raise InputError(
                f"augmentation is {self.augmentation!r}, but the inputs have the shape {input_shape} and are no images "
                "of (height, width, channels). Set it to none."
            )

    def transformation(self, rates: Rates, num_steps: Any) -> optax.GradientTransformation:
        """The optimizer of one model.

        rates: of the model.
        num_steps: of its whole training, a number that may be traced.
        """
        rate: Any = rates.learning_rate
        if self.schedule != "constant" or self.warmup:
            rate = lambda step: rates.learning_rate * self.factor(step, num_steps)  # noqa: E731
        if self.optimizer == "adamw":
            return optax.adamw(rate, weight_decay=rates.weight_decay)  # pyright: ignore[reportArgumentType]
        return optax.chain(
            optax.add_decayed_weights(rates.weight_decay),
            optax.sgd(rate, momentum=rates.momentum),  # pyright: ignore[reportArgumentType]
        )

    def factor(self, step: Any, num_steps: Any) -> jax.Array:
        """The learning rate of a step over its greatest value; steps are counted from 0."""
        time = step / num_steps
        rising = (step + 1) / jnp.maximum(self.warmup * num_steps, 1) if self.warmup else 1.0
        after = jnp.clip((time - self.warmup) / (1 - self.warmup), 0, 1)
        if self.schedule == "cosine":
            falling = (1 + jnp.cos(jnp.pi * after)) / 2
        elif self.schedule == "step":
            falling = 10.0 ** -sum((time >= at).astype(jnp.float32) for at in _STEPS)
        else:
            falling = jnp.ones_like(time)
        return jnp.minimum(rising, 1.0) * falling

    def augmented(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Images [b, rows, columns, c], each changed at random; the images themselves where nothing is augmented."""
        flip_key, crop_key = jax.random.split(key)
        if "flip" in self.augmentation:
            is_flipped = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
            images = jnp.where(is_flipped, images[:, :, ::-1], images)
        if "crop" in self.augmentation:
            rows, columns = images.shape[1:3]
            most = jnp.array([max(1, rows // 8), max(1, columns // 8)])
            pads = [(0, 0), *[(int(side), int(side)) for side in (max(1, rows // 8), max(1, columns // 8))], (0, 0)]
            starts = jax.random.randint(crop_key, (len(images), 2), 0, 2 * most + 1)

            def cropped(image: jax.Array, start: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (rows, columns, image.shape[2]))

            images = jax.vmap(cropped)(jnp.pad(images, pads), starts)
        return images
