"""What a file holds → the one state_dict in it, and the training facts beside it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from converters.errors import RefusedError
from converters.tensors import Unplain

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "model_ema_state_dict")
_OPTIMIZERS = ("optimizer_state", "optimizer_state_dict", "optimizer", "optimizer_states")
_MOST_LISTED = 5
_LONGEST = 40

_NETWORK = re.compile(r"(?:module|_orig_mod|model|net|network|backbone|encoder|classifier)\.")
_MEASURE = re.compile(
    r"(?:(?:train|training|val|valid|validation|test|eval)_)?"
    r"(?:criterion|criteria|criterions|loss|losses|loss_fn|loss_func|loss_function|metric|metrics|acc|accuracy|top[15]|"
    r"f1|f1_score|auroc|auc|precision|recall|mse|mae|confmat|confusion_matrix)"
    r"(?:_(?:train|val|valid|test|fn|metric|metrics))?\."
)
"""How training frameworks call the one part that is the network, and the criterion and metrics beside it."""


def unwrap(content: Any, *, ema: bool = False) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """(the state_dict of a checkpoint, training facts beside it); with `ema`, that of the averaged weights.

    Facts: `epoch` as the file counts it; `learning_rate`, `momentum` and `weight_decay` of an optimizer's first group
    (the rate it began with) or of Lightning's hyper-parameters, with its `batch_size`. Raises RefusedError where
    there is no state_dict, or more than one.
    """
    if (own := _own_state(content)) is not None:
        content = own
    if not isinstance(content, Mapping):
        raise RefusedError(f"it holds a {type(content).__name__}, not a state_dict")
    if not content:
        raise RefusedError("it holds nothing")
    if _is_state_dict(content):
        if ema:
            raise RefusedError("it holds one state_dict and no averaged weights beside it")
        return content, {}
    names = _AVERAGES if ema else _WRAPPERS
    found = {name: inner for name in names if (inner := _inner(content.get(name))) is not None}
    if not found and not ema:
        # Under any other name, where there is only one.
        others = {name: _inner(value) for name, value in content.items() if name not in (*_AVERAGES, *_OPTIMIZERS)}
        found = {str(name): inner for name, inner in others.items() if inner is not None}
    if len(found) != 1:
        raise RefusedError(_missing(content, sorted(found), ema=ema))
    (inner,) = found.values()
    return inner, _facts(content)


def without_measures(entries: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """A state_dict without the entries of a criterion or of metrics beside the network, and what was left out, or "".

    Only where all others are of one part, named as frameworks name a network.
    """
    measures = [name for name in entries if _MEASURE.match(name)]
    others = [name for name in entries if not _MEASURE.match(name)]
    if not measures or not others or len({name.partition(".")[0] for name in others}) > 1:
        return entries, ""
    if not _NETWORK.match(others[0]):
        return entries, ""
    owners = sorted({name.partition(".")[0] for name in measures})
    return {name: entries[name] for name in others}, f"entries of {_listed(owners)}"


def _own_state(value: Any) -> Mapping[str, Any] | None:
    """The state_dict of a whole module, which only a trusted file can hold."""
    import torch

    return value.state_dict() if isinstance(value, torch.nn.Module) else None


def _inner(value: Any) -> Mapping[str, Any] | None:
    if (own := _own_state(value)) is not None:
        return own
    if not isinstance(value, Mapping):
        return None
    if _is_state_dict(value):
        return value
    # Wrapped twice, as {"model": {"state_dict": ...}}.
    inner = [value[name] for name in _WRAPPERS if _is_state_dict(value.get(name))]
    return inner[0] if len(inner) == 1 else None


def _is_state_dict(value: Any) -> bool:
    """Whether most entries are tensors, all under texts: folding then names an entry that is none in its refusal."""
    import torch

    if not isinstance(value, Mapping) or not value:
        return False
    tensors = sum(isinstance(entry, torch.Tensor | Unplain) for entry in value.values())
    return tensors > len(value) / 2 and all(isinstance(name, str) for name in value)


def _missing(content: Mapping[Any, Any], found: list[str], *, ema: bool) -> str:
    if found:
        return f"it holds {len(found)} state_dicts: {_listed(found)}"
    lists = [value for value in (content, *content.values()) if isinstance(value, Mapping) and "shadow_params" in value]
    averaged = [name for name in _AVERAGES if _inner(content.get(name)) is not None]
    if lists and not averaged:
        return (
            "its averaged weights are a list without names (shadow_params, of torch_ema). Load them in Python "
            "(ema.copy_to(model.parameters())) and save model.state_dict()"
        )
    if averaged and not ema:
        return f"it holds averaged weights alone ({averaged[0]}). Take them with --ema (in Python: ema=True)"
    what = f"averaged weights (none of {', '.join(_AVERAGES)})" if ema else "state_dict"
    return f"it holds no {what}; its entries are {_listed(content)}"


def _listed(names: Iterable[Any]) -> str:
    """The first of some names, none of them long."""
    names = list(names)
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(map(_short, names[:_MOST_LISTED])) + more


def _short(name: Any) -> str:
    if isinstance(name, tuple | bytes):  # which may be far longer than what it is made of
        return f"a {type(name).__name__}"
    text = str(name)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if isinstance(epoch := content.get("epoch"), int) and not isinstance(epoch, bool):
        facts["epoch"] = epoch
    for name in _OPTIMIZERS:
        state = content.get(name)
        state = state[0] if isinstance(state, list) and state else state
        groups = state.get("param_groups") if isinstance(state, Mapping) else None
        if isinstance(groups, list) and groups and isinstance(groups[0], Mapping):
            known = {"initial_lr": "learning_rate", "momentum": "momentum", "weight_decay": "weight_decay"}
            facts |= {fact: groups[0][key] for key, fact in known.items() if key in groups[0]}
    if isinstance(given := content.get("hyper_parameters"), Mapping):
        known = {"lr": "learning_rate", "learning_rate": "learning_rate", "batch_size": "batch_size"}
        known |= {"weight_decay": "weight_decay", "momentum": "momentum"}
        facts |= {fact: given[key] for key, fact in known.items() if key in given}
    return facts
