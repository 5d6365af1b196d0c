"""Hugging Face's layouts of transformers: outputs, gradients and Hessian products are PyTorch's, every entry counts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_transformers import NETWORKS, network

import mdjax
from converters import convert, recognise, to_flax, to_state_dict
from converters.errors import RefusedError
from converters.reports import OutcomeCode
from mdjax.cli import main
from mdjax.table import read_table
from mdjax.zoo.store import Zoo

LENGTH = 11
VARIANTS = {
    "bert": "h4 mlp40 tokens23 positions12 segments2 post pooler eps1e-12",
    "gpt2": "h4 positions12 gelutanh",
    "vit": "h4 mlp40 patch2 classtoken eps1e-12",
    "llama": "h4 kv2 mlp40 rms rotary500 swiglu nobias untied",
}


def arrays_of(module):
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def inputs_of(name, count=3):
    random = np.random.default_rng(0)
    if name == "vit":
        return random.normal(size=(count, 8, 8, 3)).astype(np.float32)
    return random.integers(0, 23, (count, LENGTH)).astype(np.int32)


def as_torch(x):
    return torch.from_numpy(np.array(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x, order="C")).to(
        torch.float32 if x.ndim == 4 else torch.int64
    )


def folder_of(path, name, **changes):
    """A folder as `save_pretrained` leaves it."""
    path.mkdir(parents=True, exist_ok=True)
    module = network(name)
    entries = {key: value for key, value in module.state_dict().items() if (name, key) != ("gpt2", "lm_head.weight")}
    save_file({key: value.contiguous() for key, value in entries.items()}, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(module.config | changes))
    return module


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_derivatives_are_pytorchs(name):
    module, x = network(name), inputs_of(name)
    arrays = arrays_of(module)
    architecture = recognise(arrays, {"config": module.config})
    assert architecture.variant == VARIANTS[name]
    params, state = to_flax(arrays, architecture)
    model, weights = architecture.model(), list(dict(module.named_parameters()).values())
    logits = module(as_torch(x))
    np.testing.assert_allclose(model.apply(params, state, x), logits.detach(), rtol=1e-5, atol=1e-5)

    # Of a function of the logits that is curved, along a direction with an entry for every weight.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # which can be differentiated twice
        logits = module(as_torch(x))
    loss = (logits.square().mean() + logits.mean()) / 2
    gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    direction = {key: np.random.default_rng(1).normal(size=a.shape).astype(np.float32) for key, a in arrays.items()}
    if name == "gpt2":
        direction["lm_head.weight"] = direction["transformer.wte.weight"]
    named = [key for key, _ in module.named_parameters()]
    slope = sum((g * torch.from_numpy(direction[key])).sum() for g, key in zip(gradients, named))
    products = torch.autograd.grad(slope, weights, allow_unused=True)

    def curved(p):
        found = model.apply(p, state, jnp.asarray(x))
        return (jnp.mean(jnp.square(found)) + jnp.mean(found)) / 2

    along = to_flax(direction, architecture)[0]
    own = jax.jit(lambda p: jax.jvp(jax.grad(curved), (p,), (along,)))(params)
    for found, expected in zip(own, (gradients, products), strict=True):
        stored = to_state_dict(found, state, architecture)
        whole = {
            key: np.zeros(arrays[key].shape) if e is None else e.detach().numpy() for key, e in zip(named, expected)
        }
        scale = max(float(np.abs(value).max()) for value in whole.values())
        for key, value in whole.items():
            np.testing.assert_allclose(stored[key], value, rtol=1e-4, atol=1e-5 * scale, err_msg=key)


@pytest.mark.parametrize("name", NETWORKS)
def test_entries_come_back_bit_for_bit(name):
    arrays = arrays_of(module := network(name))
    architecture = recognise(arrays, {"config": module.config})
    back = to_state_dict(*to_flax(arrays, architecture), architecture)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[key], arrays[key]) for key in arrays)


def test_older_and_shorter_names_are_the_same_network():
    """Of bodies saved alone, buffers that were stored, norms' first names, and ViT's in memory since version 5."""
    for name in NETWORKS:
        arrays, config = arrays_of(module := network(name)), module.config
        architecture = recognise(arrays, {"config": config})
        others = dict(arrays)
        if name == "bert":
            others = {
                k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in arrays.items()
            }
            others["bert.embeddings.position_ids"] = np.arange(12)[None]
        if name == "gpt2":
            del others["lm_head.weight"]
            others = {k.removeprefix("transformer."): v for k, v in others.items()}
            for block in range(2):
                others[f"h.{block}.attn.bias"] = np.tril(np.ones((1, 1, 12, 12), bool))
                others[f"h.{block}.attn.masked_bias"] = np.float32(-1e4) * np.ones(())
        if name == "llama":
            others["model.layers.0.self_attn.rotary_emb.inv_freq"] = 500.0 ** -(np.arange(2, dtype=np.float32) / 2)
        if name == "vit":
            for new, old in (("q", "attention.query"), ("k", "attention.key"), ("v", "attention.value")):
                others = {k.replace(f"attention.{old}.", f"attention.{new}_proj."): v for k, v in others.items()}
            pairs = (("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"))
            for old, new in (*pairs, ("output.dense", "mlp.fc2"), ("encoder.layer.", "layers.")):
                others = {k.replace(old, new): v for k, v in others.items()}
        assert others.keys() != arrays.keys()
        assert recognise(others, {"config": config}) == architecture
        found, expected = (jax.tree.leaves(to_flax(each, architecture)) for each in (others, arrays))
        assert all(map(np.array_equal, found, expected))


def _without(name):
    return lambda arrays, config: arrays.pop(name)


def _says(**changes):
    return lambda arrays, config: config.update(changes)


def _drops(key):
    return lambda arrays, config: config.pop(key)


def _adds(name, array):
    return lambda arrays, config: arrays.update({name: array})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bert", _drops("num_attention_heads"), "do not tell how many heads its attention has. Put its config.json"),
        ("bert", _says(num_attention_heads="4"), "'4', which is no number of heads"),
        ("bert", _says(num_attention_heads=3), "does not part into 3 heads"),
        ("bert", _says(model_type="roberta"), "those of a BERT, but its config.json says model_type 'roberta'"),
        ("bert", _says(position_embedding_type="relative_key"), "position_embedding_type 'relative_key'"),
        ("bert", _says(hidden_act="mish"), "its nonlinearity is mish"),
        ("bert", _says(layer_norm_eps=0), "layer_norm_eps 0, which no norm can add"),
        ("bert", _without("classifier.weight"), "has no head classifier.weight but classifier"),
        (
            "bert",
            _without("bert.encoder.layer.1.output.dense.bias"),
            "lacks 1 of 41 entries, first bert.encoder.layer.1",
        ),
        (
            "bert",
            _adds("bert.encoder.layer.1.adapter.weight", np.ones(3, np.float32)),
            "1 unknown entries, first bert.",
        ),
        ("bert", _adds("bert.embeddings.position_ids", np.zeros((1, 12), int)), "position_ids is a constant"),
        ("gpt2", _says(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx True"),
        ("gpt2", _adds("lm_head.weight", np.ones((23, 16), np.float32)), "differ, but are tied to each other"),
        ("gpt2", _adds("score.weight", np.ones((2, 16), np.float32)), "1 unknown entries, first score.weight"),
        ("gpt2", _adds("transformer.h.0.attn.bias", np.ones((1, 1, 12, 12), bool)), "attn.bias is a constant"),
        ("llama", _says(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "says rope_scaling"),
        ("llama", _says(rope_parameters={"rope_type": "yarn"}), "but only the default ones are known"),
        ("llama", _says(head_dim=8), "says head_dim 8"),
        ("llama", _says(sliding_window=8), "says sliding_window 8"),
        ("llama", _without("lm_head.weight"), "has no head lm_head.weight"),
        ("llama", _adds("model.layers.0.self_attn.q_proj.bias", np.ones(16, np.float32)), "lacks "),
        ("vit", _says(image_size=10), "its entry vit.embeddings.position_embeddings is"),
    ],
)
def test_what_is_not_known_or_other_is_refused(name, change, message):
    arrays, config = arrays_of(module := network(name)), dict(module.config)
    change(arrays, config)
    with pytest.raises(RefusedError) as error:
        recognise(arrays, {"config": config})
    assert message in str(error.value)


def test_heads_may_be_told():
    arrays = arrays_of(network("gpt2"))
    assert recognise(arrays, {"heads": 4}).variant == VARIANTS["gpt2"]
    assert recognise(arrays, {"heads": 2, "nonlinearity": "relu"}).variant == "h2 positions12 relu"
    with pytest.raises(RefusedError, match="the base of its rotary positions"):
        recognise(arrays_of(network("llama")), {"heads": 4})


@pytest.mark.slow
def test_folders_are_converted_and_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    modules = {name: folder_of(tmp_path / "runs" / name, name) for name in NETWORKS}
    (tmp_path / "runs" / "bert" / "training_args.bin").write_bytes(b"whatever a trainer keeps")
    report = convert("runs", "zoo", show_progress=False)
    codes = {outcome.path.name: outcome.status for outcome in report.outcomes}
    assert codes == {"model.safetensors": OutcomeCode.CONVERTED, "training_args.bin": OutcomeCode.SKIPPED}
    shapes = {row["model_id"]: row["input_shape"] for _, row in Zoo("zoo").manifest.iterrows()}
    assert shapes == {f"runs/{name}/model.safetensors": "8x8x3" if name == "vit" else "?" for name in NETWORKS}

    x = inputs_of("gpt2", 40)
    y = np.roll(x, -1, 1)
    np.savez("text.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    found = mdjax.check("runs/gpt2", data="next-token:text.npz", preset="fast", show_progress=False)
    logits = modules["gpt2"](as_torch(x[:30])).flatten(0, -2)
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[:30].astype(np.int64)).flatten())
    assert found.table.models["train_loss"].iloc[0] == pytest.approx(expected.item(), rel=1e-5)
    assert "decoder of width 16" in found.checked
    convert("runs/gpt2", "own", show_progress=False)
    main(["measure", "own", "--out", "table", "--data", "next-token:text.npz", "--metrics", "losses"])
    assert read_table("table").models["test_loss"].iloc[0] == found.table.models["test_loss"].iloc[0]


def test_heads_are_of_no_other_network(tmp_path):
    layers = [torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)]
    torch.save(torch.nn.Sequential(*layers).state_dict(), tmp_path / "net.pt")
    facts = {"heads": 4, "nonlinearity": "relu"}
    (outcome,) = convert(tmp_path, None, facts=facts, dry_run=True, show_progress=False).outcomes
    assert "heads were given, but a sequence has none" in outcome.reason


def test_transformers_own_models_are_the_same(tmp_path):
    """Where it is installed: of random weights, saved by it and read from its folder."""
    transformers = pytest.importorskip("transformers")
    shared = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    text = shared | {"vocab_size": 23, "max_position_embeddings": 12}
    images = shared | {"image_size": 8, "patch_size": 2}
    gpt2 = {"vocab_size": 23, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 12}
    cases = [
        ("bert", transformers.BertForSequenceClassification, transformers.BertConfig, text | {"num_labels": 3}),
        ("gpt2", transformers.GPT2LMHeadModel, transformers.GPT2Config, gpt2),
        ("vit", transformers.ViTForImageClassification, transformers.ViTConfig, images),
        ("llama", transformers.LlamaForCausalLM, transformers.LlamaConfig, text | {"num_key_value_heads": 2}),
        ("llama", transformers.LlamaForCausalLM, transformers.LlamaConfig, text | {"tie_word_embeddings": True}),
    ]
    for number, (name, network_class, config_class, fields) in enumerate(cases):
        torch.manual_seed(number)
        module = network_class(config_class(**fields)).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        module.save_pretrained(tmp_path / str(number))
        report = convert(tmp_path / str(number), tmp_path / f"zoo{number}", show_progress=False)
        zoo = Zoo(tmp_path / f"zoo{number}")
        assert len(zoo.manifest) == 1, report
        architecture = zoo.architecture(zoo.groups[0])
        params, state = jax.tree.map(lambda leaf: leaf[0], zoo.read_group(zoo.groups[0]))
        x = inputs_of(name)
        found = architecture.model().apply(params, state, x)
        np.testing.assert_allclose(found, module(as_torch(x)).logits.detach(), rtol=1e-5, atol=1e-5)
