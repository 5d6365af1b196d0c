"""Whether a family's networks can be asked what data ask, and read what they hold."""

from mdjax.errors import InputError
from mdjax.models.families import FAMILIES
from mdjax.tasks import Classification, MultiLabel, NextToken, Regression
from mdjax.zoo.datasets import Dataset


def check_asked(family: str, dataset: Dataset) -> None:
    """InputError for a decoder's networks and a task of the named ones that is not of each position, or others and one
    that is."""
    others = Classification | MultiLabel | Regression if family == "decoder" else NextToken
    if isinstance(dataset.task, others):
        raise InputError(
            f"The networks are of the family {family}, but the task of {dataset.name} is {dataset.task.name}. Say "
            "--task next-token (task=) for decoders, and for decoders alone."
        )


def check_read(family: str, dataset: Dataset) -> None:
    """InputError for whole numbers where networks read floats, and for floats of one axis where they read tokens."""
    reads_tokens = FAMILIES[family].reads_tokens
    if not dataset.reads_floats and not (reads_tokens and dataset.num_tokens):
        raise InputError(
            f"The inputs of {dataset.name} are {dataset.input_form}, but the networks of a grid read floats, and an "
            "encoder or decoder tokens. Give pixels as uint8 in an .npz, or floats."
        )
    if reads_tokens and dataset.reads_floats and (len(dataset.input_shape) == 1 or family == "decoder"):
        raise InputError(
            f"The inputs of {dataset.name} are {dataset.input_form}, but an encoder reads tokens or images, and a "
            "decoder tokens. Give whole numbers, or images."
        )
