"""Converters: the same function as in PyTorch, every entry accounted for, and no file that stops the others."""

import io
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch_checkpoints import stored_model
from torch_resnet import TorchResNet18, random_resnet

import converters
from converters import conversion, families, layouts, state_dicts
from converters.cli import main
from converters.layouts.contract import Candidate
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.zoo.store import Zoo

SUBSET = "checkpoint/different_knobs_subset_10/bs_128/normal/ResNet18_w2"
WIDE = "checkpoint/different_knobs_subset_noisy_05/bs_16/lr_decay/ResNet18_w3"


def save(root: Path, name: str, network: TorchResNet18, **options) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path, **options)
    return path


def convert(src: Path, out: Path) -> converters.Report:
    return converters.convert(src, out, show_progress=False)


def reasons(report: converters.Report) -> dict[str, str]:
    return {outcome.path.name: outcome.reason for outcome in report.refused}


def torch_logits(network: TorchResNet18, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.RandomState(0).normal(size=(4, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def networks() -> dict[tuple[int, int], TorchResNet18]:
    """Width and seed → a network; seed 9 is never to be taken."""
    return {(width, seed): random_resnet(width, 10 * width + seed) for width in (2, 3) for seed in (0, 1, 9)}


@pytest.fixture(scope="module")
def published(tmp_path_factory, networks) -> Path:
    """A small tree in the published layout: widths 2 and 3, two seeds, all three kinds of checkpoint."""
    root = tmp_path_factory.mktemp("published")
    save(root, f"{SUBSET}/net_exp_0.pkl", networks[2, 9])
    save(root, f"{SUBSET}/net_exp_0_best.pkl", networks[2, 0])
    save(root, f"{SUBSET}/net_exp_1.pkl", networks[2, 1], _use_new_zipfile_serialization=False)
    save(root, f"{WIDE}/net_exp_0_best.pkl", networks[3, 9])
    save(root, f"{WIDE}/net_exp_0_early_stopped_model.pkl", networks[3, 0])
    save(root, f"{WIDE}/net_exp_1.pkl", networks[3, 1])
    (root / SUBSET / "metrics").mkdir()
    (root / SUBSET / "metrics" / "hessian.pkl").write_bytes(b"not looked at")
    return root


@pytest.fixture(scope="module")
def converted(published, tmp_path_factory) -> tuple[converters.Report, Zoo]:
    out = tmp_path_factory.mktemp("out") / "zoo"
    return convert(published, out), Zoo(out)


def test_logits_equal_those_of_torch(converted, networks, images):
    _, zoo = converted
    assert zoo.data == "cifar10"
    assert len(zoo) == 4
    for row in zoo.manifest.itertuples():
        params, state = stored_model(zoo, row.model_id)
        model = zoo.architecture(row.group).model()
        logits = model.apply(params, state, images)
        expected = torch_logits(networks[row.width, row.seed], images)
        assert abs(expected).max() > 0.3
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        assert row.num_params == 2724 * row.width**2 + 257 * row.width + 10
        assert row.num_params == sum(value.numel() for value in networks[row.width, row.seed].parameters())
        assert row.status == "ok"


def test_facts_come_from_the_folders(converted):
    report, zoo = converted
    manifest = zoo.manifest.set_index("model_id")
    row = manifest.loc["resnet18-w3-bs16-subset_noisy_05-lr_decay-s0"]
    assert row["configuration"] == "resnet18-w3-bs16-subset_noisy_05-lr_decay"
    assert (row["batch_size"], row["data_share"], row["label_noise"]) == (16, 0.5, 0.1)
    assert (row["schedule"], row["checkpoint"], row["seed"]) == ("one_decay", "early_stopped", 0)
    row = manifest.loc["resnet18-w2-bs128-subset_10-normal-s0"]
    assert (row["batch_size"], row["data_share"], row["label_noise"]) == (128, 1.0, 0.0)
    assert (row["schedule"], row["checkpoint"]) == ("constant", "best")
    assert (row["momentum"], row["weight_decay"]) == (0.9, 5e-4)
    assert manifest["learning_rate"].isna().all()
    assert manifest["epochs"].isna().all()

    assert report.exit_code == 0
    assert [len(part) for part in (report.converted, report.skipped, report.refused)] == [4, 3, 0]
    skipped = {outcome.path.name for outcome in report.skipped}
    assert skipped == {"net_exp_0.pkl", "net_exp_0_best.pkl", "hessian.pkl"}


@pytest.mark.parametrize(
    ("folder", "share", "noise"),
    [
        ("subset_10", 1.0, 0.0),
        ("subset_01", 0.1, 0.0),
        ("subset_noisy_09", 0.9, 0.1),
        ("random_label_10", 1.0, 1.0),
        ("random_label_03", 1.0, 0.3),
        ("random_label_025", 1.0, 0.25),
        ("random_label_0", 1.0, 0.0),
    ],
)
def test_share_and_noise_of_each_kind_of_folder(tmp_path, networks, folder, share, noise):
    path = save(tmp_path, f"different_knobs_{folder}/bs_32/normal/ResNet18_w2/net_exp_4.pkl", networks[2, 0])
    (found,) = layouts.find(path.parent)
    assert isinstance(found, Candidate)
    assert (found.row["data_share"], found.row["label_noise"], found.seed) == (share, noise, 4)


@pytest.mark.parametrize("depth", range(1, 7))
def test_source_may_be_any_folder_of_the_tree(published, depth):
    src = published.joinpath(*Path(SUBSET).parts[: depth - 1])
    found = [claim for claim in layouts.find(src) if SUBSET in str(claim.path) and isinstance(claim, Candidate)]
    assert {candidate.model_id for candidate in found} == {
        "resnet18-w2-bs128-subset_10-normal-s0",
        "resnet18-w2-bs128-subset_10-normal-s1",
    }
    assert all(candidate.width == 2 for candidate in found)


# What is refused, with the reason; a good file beside it is converted all the same.


def changed(**changes) -> dict[str, torch.Tensor]:
    """A good state_dict with entries replaced, or left out by None; __ in a name stands for a dot."""
    entries = dict(random_resnet(2, 5).state_dict())
    entries.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in entries.items() if value is not None}


class _Command:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def good_bytes(**options) -> bytes:
    file = io.BytesIO()
    torch.save(changed(), file, **options)
    return file.getvalue()


def flipped() -> bytes:
    content = bytearray(good_bytes())
    place = content.index(changed()["conv1.weight"].numpy().tobytes())
    content[place] ^= 1
    return bytes(content)


BAD_CONTENT = {
    "missing entry": (lambda: changed(layer3__0__bn1__bias=None), "it lacks 1 of 122 entries, first layer3.0.bn1.bias"),
    "missing counter": (lambda: changed(bn1__num_batches_tracked=None), "first bn1.num_batches_tracked"),
    "surplus entry": (lambda: changed(extra=torch.ones(1)), "it has 1 unknown entries, first extra"),
    "prefix": (lambda: {f"net.{name}" if "bn" in name else name: value for name, value in changed().items()}, "lacks"),
    "shape": (
        lambda: changed(layer2__0__conv1__weight=torch.ones(4, 2, 1, 1)),
        "layer2.0.conv1.weight is float32[4, 2, 1, 1], but float32[4, 2, 3, 3] was expected",
    ),
    "transposed": (lambda: changed(linear__weight=torch.ones(16, 10)), "float32[16, 10], but float32[10, 16] was"),
    "classes": (lambda: changed(linear__bias=torch.ones(100)), "linear.bias is float32[100], but float32[10]"),
    "type": (lambda: changed(bn1__weight=torch.ones(2, dtype=torch.float64)), "bn1.weight is float64[2], but float32"),
    "sparse": (lambda: changed(linear__weight=torch.ones(10, 16).to_sparse()), "linear.weight is no plain array"),
    "no data": (lambda: changed(linear__weight=torch.ones(10, 16, device="meta")), "linear.weight is no plain array"),
    "counter": (lambda: changed(bn1__num_batches_tracked=torch.ones(2)), "bn1.num_batches_tracked is no whole number"),
    "list": (lambda: [torch.ones(2)], "it holds a list, not a state_dict"),
    "module": (
        lambda: torch.nn.Linear(2, 3),
        "it refers to torch.nn.modules.linear.Linear, which plain weights do not",
    ),
}

BAD_BYTES = {
    "empty": (lambda: b"", "it is empty"),
    "text": (lambda: b"hello", "it is truncated, damaged, or not written by torch.save"),
    "raw pickle": (lambda: pickle.dumps({"a": 1}), "it is truncated, damaged, or not written by torch.save"),
    "truncated": (lambda: good_bytes()[:40_000], "it is truncated"),
    "truncated old format": (lambda: good_bytes(_use_new_zipfile_serialization=False)[:-9], "it is truncated"),
    "a changed bit": (flipped, "does not fit its checksum"),
}


@pytest.mark.parametrize("case", [*BAD_CONTENT, *BAD_BYTES])
def test_bad_file_is_refused_with_its_reason(tmp_path, case):
    path = tmp_path / "bad.pkl"
    content, reason = BAD_CONTENT.get(case) or BAD_BYTES[case]
    if case in BAD_CONTENT:
        torch.save(content(), path)
    else:
        path.write_bytes(content())
    with pytest.raises(converters.RefusedError) as raised:
        families.to_flax(state_dicts.read_state_dict(path), Architecture("resnet18", 2))
    assert reason in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("how", ["zip", "old format", "raw", "raw protocol 2"])
def test_hostile_file_does_not_run(tmp_path, how):
    path, trace = tmp_path / "hostile.pkl", tmp_path / "ran"
    content = {"conv1.weight": _Command(f"touch {trace}")}
    if how.startswith("raw"):
        path.write_bytes(pickle.dumps(content, protocol=2 if how.endswith("2") else None))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(converters.RefusedError) as raised:
        state_dicts.read_state_dict(path)
    if how in ("zip", "old format"):
        assert "it refers to posix.system, which plain weights do not need; nothing was run" in str(raised.value)
    assert not trace.exists()


def test_bad_files_stop_no_other(tmp_path, networks, images, capsys):
    src, out, trace = tmp_path / "src", tmp_path / "zoo", tmp_path / "ran"
    folder = src / SUBSET
    save(src, f"{SUBSET}/net_exp_0.pkl", networks[3, 0])
    torch.save({"a": _Command(f"touch {trace}")}, folder / "net_exp_1.pkl")
    save(src, f"{SUBSET}/net_exp_2.pkl", networks[2, 0])
    (folder / "net_exp_3.pkl").write_bytes(b"")
    save(src, f"{SUBSET}/net_exp_4.pkl", networks[2, 1])
    save(src, f"{SUBSET}/net_50.pkl", networks[2, 1])
    save(src, f"{SUBSET.replace('normal', 'small_wd')}/net_exp_5.pkl", networks[2, 1])
    save(src, f"{SUBSET.replace('subset_10', 'subset_0')}/net_exp_6.pkl", networks[2, 1])
    with pytest.raises(SystemExit) as stopped:
        main([str(src), "--out", str(out)])
    assert stopped.value.code == 1
    assert not trace.exists()

    zoo = Zoo(out)
    assert list(zoo.manifest["seed"]) == [2, 4]
    params, state = jax.tree.map(lambda leaf: leaf[1], zoo.read_group(zoo.groups[0]))
    logits = zoo.architecture(zoo.groups[0]).model().apply(params, state, images)
    np.testing.assert_allclose(logits, torch_logits(networks[2, 1], images), atol=1e-5)

    lines = capsys.readouterr().out.splitlines()
    for name, reason in {
        "net_exp_0.pkl": "its width is 3, but its folder says 2",
        "net_exp_1.pkl": "it refers to posix.system",
        "net_exp_3.pkl": "it is empty",
        "net_50.pkl": "its name is not net_exp_SEED.pkl",
        "net_exp_5.pkl": "bs_128/small_wd/ResNet18_w2 are not named as in different_knobs_KIND_NN",
        "net_exp_6.pkl": "says that it was trained on no data",
    }.items():
        assert any("refused" in line and name in line and reason in line for line in lines), name
    assert any("converted" in line and " 2 " in line for line in lines)


def test_weights_that_are_not_finite_are_kept_and_marked(tmp_path):
    broken = random_resnet(2, 3)
    with torch.no_grad():
        broken.linear.bias[3] = torch.nan
    save(tmp_path, f"{SUBSET}/net_exp_0.pkl", broken)
    report = convert(tmp_path, tmp_path / "zoo")
    assert report.exit_code == 0
    assert list(Zoo(tmp_path / "zoo").manifest["status_code"]) == ["weights_not_finite"]


def test_damaged_preferred_file_is_not_replaced_by_another(tmp_path, networks):
    save(tmp_path, f"{SUBSET}/net_exp_0.pkl", networks[2, 0])
    (tmp_path / SUBSET / "net_exp_0_best.pkl").write_bytes(b"")
    report = convert(tmp_path, tmp_path / "zoo")
    assert reasons(report) == {"net_exp_0_best.pkl": "it is empty"}
    assert not report.converted
    assert len(Zoo(tmp_path / "zoo")) == 0


def test_same_model_in_two_trees_is_refused(tmp_path, networks):
    save(tmp_path, f"a/{SUBSET}/net_exp_0.pkl", networks[2, 0])
    second = save(tmp_path, f"b/{SUBSET}/net_exp_0.pkl", networks[2, 1])
    report = convert(tmp_path, tmp_path / "zoo")
    (refused,) = report.refused
    assert refused.path == second
    assert "convert one tree at a time" in refused.reason
    assert len(report.converted) == 1


# Groups, and going on after a kill.


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        # Five seeds to a configuration: whole ones, unless one alone is too large.
        ({"MAX_MODELS": 12}, [10, 10, 5]),
        ({"MAX_MODELS": 5}, [5, 5, 5, 5, 5]),
        ({"MAX_MODELS": 3}, [3, 2, 3, 2, 3, 2, 3, 2, 3, 2]),
        ({"MAX_BYTES": 7 * 1000}, [5, 5, 5, 5, 5]),
    ],
)
def test_groups_keep_configurations_together_within_their_limits(monkeypatch, limits, sizes):
    written = []

    class Recorder:
        groups = ()

        def append(self, name, architecture, rows, params, state):
            assert len(params["w"]) == len(rows)
            written.append([row["configuration"] for row in rows])

    for name, value in limits.items():
        monkeypatch.setattr(conversion, name, value)
    groups = conversion._Groups(Recorder())
    for configuration in range(5):
        for _ in range(5):
            groups.add(Architecture("mlp", 2), {"configuration": configuration}, ({"w": np.zeros(250, "f4")}, {}))
    groups.write_all()
    assert [len(group) for group in written] == sizes
    if max(sizes) > 4:
        assert all(len({*first} & {*second}) == 0 for first, second in itertools.pairwise(written))


def test_killed_conversion_goes_on(tmp_path, published, converted, monkeypatch):
    out, append = tmp_path / "zoo", Zoo.append

    def killed(zoo, group, *rest):
        if zoo.groups:
            raise KeyboardInterrupt
        append(zoo, group, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Zoo, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(published, out)
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and "groups" in path.parts}
    assert len(Zoo(out)) == 2

    report = convert(published, out)
    assert len(report.converted) == 2
    assert [o.reason for o in report.skipped].count("already in the zoo") == 2
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    _, uninterrupted = converted
    ours, theirs = (z.manifest.set_index("model_id")["weights_hash"].sort_index() for z in (Zoo(out), uninterrupted))
    assert ours.equals(theirs)

    report = convert(published, out)
    assert not report.converted
    assert report.exit_code == 0


def test_new_files_are_added_to_the_zoo(tmp_path, networks):
    src, out = tmp_path / "src", tmp_path / "zoo"
    save(src, f"{SUBSET}/net_exp_1.pkl", networks[2, 1])
    convert(src, out)
    save(src, f"{SUBSET}/net_exp_0.pkl", networks[2, 0])
    assert len(convert(src, out).converted) == 1
    zoo = Zoo(out)
    assert zoo.groups == ["resnet18-w2-d18-c10-0", "resnet18-w2-d18-c10-1"]
    assert sorted(zoo.manifest["seed"]) == [0, 1]


# Bad usage.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing", "--out", "{tmp}/zoo"], "There is no file or folder"),
        (["{tmp}", "--out", "{tmp}/zoo"], "There are no checkpoints in"),
        (["{published}", "--out", "{tmp}/other"], "holds models trained on 'digits', not 'cifar10'"),
        (["{published}", "--out", "/dev/null/zoo"], "Cannot write the zoo"),
        (["{published}"], "No place for the zoo. Name it: --out ZOO"),
        (["{published}", "--out", "{tmp}/zoo", "--format", "pickles"], "Unknown format 'pickles'. Choose auto or one"),
        (["{published}", "--out", "{tmp}/zoo", "--format", "modelzoos"], "There are no checkpoints in"),
        (["{published}", "--out", "{tmp}/zoo", "--data", "nist"], "Unknown data 'nist'. Choose one of digits"),
    ],
)
def test_bad_usage_exits_with_2(tmp_path, published, capsys, arguments, message):
    Zoo.create(tmp_path / "other", data="digits")
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(tmp=tmp_path, published=published) for argument in arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_or_old_torch_is_told(published, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "2.9.1+cpu")
        with pytest.raises(InputError, match=r"torch is 2\.9\.1\+cpu, but before 2\.10 .* 'mdjax\[torch\]'"):
            convert(published, tmp_path / "zoo")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"needs torch, which is not installed\. Run pip install 'mdjax\[torch\]'"):
        convert(published, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_help_loads_neither_torch_nor_jax():
    code = (
        "import sys, converters.cli\n"
        "try: converters.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'jax', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
