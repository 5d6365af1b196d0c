"""Conversions: groups, facts and data; files that stop no other; killed ones go on."""

import itertools
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch_checkpoints import LINEAR, STATE, SUBSET, Command, convert, reasons, save, saved, torch_logits, write
from torch_refused import REFUSED
from torch_resnet import random_resnet

import converters
import mdjax
from converters import groups
from converters.cli import main
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.zoo.data import load
from mdjax.zoo.store import Zoo


def test_bad_files_stop_no_other(tmp_path, networks, images, capsys):
    src, out, trace = tmp_path / "src", tmp_path / "zoo", tmp_path / "ran"
    folder = src / SUBSET
    save(src, f"{SUBSET}/net_exp_0.pkl", networks[3, 0])
    torch.save({"a": Command(f"touch {trace}")}, folder / "net_exp_1.pkl")
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


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        # Five seeds to a configuration: whole ones, unless one alone is too large.
        ({"MAX_MODELS": 12}, [10, 10, 5]),
        ({"MAX_MODELS": 5}, [5, 5, 5, 5, 5]),
        ({"MAX_MODELS": 3}, [3, 2, 3, 2, 3, 2, 3, 2, 3, 2]),
        ({"MAX_BYTES": 7 * 1000}, [5, 5, 5, 5, 5]),
        # By a clock that goes on by a second a look: the rest of a configuration waits for the next turn.
        ({"MAX_SECONDS": 7.0, "_MAX_FRACTION": 1.0}, [5, 10, 5, 5]),
        ({"MAX_SECONDS": 7.0, "_MAX_FRACTION": 0.05}, [5, 20]),
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
        monkeypatch.setattr(groups, name, value)
    seconds = itertools.count()
    clock = seconds.__next__ if "MAX_SECONDS" in limits else time.monotonic
    monkeypatch.setattr(groups, "time", types.SimpleNamespace(monotonic=clock))
    waiting = groups.Groups(Recorder())
    for configuration in range(5):
        for _ in range(5):
            waiting.add(Architecture("mlp", 2), {"configuration": configuration}, ({"w": np.zeros(250, "f4")}, {}))
    waiting.write_all()
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


def test_a_folder_with_two_networks_is_two_configurations(tmp_path):
    write(tmp_path / "src", "seed0.pt", "seed1.pt")
    write(tmp_path / "src", "wide_seed0.pt", content={"w.weight": torch.ones(5, 4)})
    convert(tmp_path / "src", tmp_path / "zoo")
    manifest = Zoo(tmp_path / "zoo").manifest
    sizes = manifest.groupby("configuration").size()
    assert sorted(sizes) == [1, 2]
    assert all(name.startswith("src-sequence-w") for name in sizes.index)


def test_what_a_file_holds_beside_its_weights_is_known(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.8, weight_decay=1e-4)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.001
    write(tmp_path, "a.pt", content={"state_dict": LINEAR, "optimizer": optimizer.state_dict(), "epoch": 3})
    lightning = {"state_dict": LINEAR, "hyper_parameters": {"lr": 0.2, "batch_size": 64, "name": "x"}, "epoch": 4}
    write(tmp_path, "b.ckpt", content=lightning)
    convert(tmp_path, tmp_path / "zoo")
    manifest = Zoo(tmp_path / "zoo").manifest.set_index("model_id")
    first, second = manifest.loc[f"{tmp_path.name}/a.pt"], manifest.loc[f"{tmp_path.name}/b.ckpt"]
    assert (first["learning_rate"], first["momentum"], first["weight_decay"], first["epoch"]) == (0.1, 0.8, 1e-4, 3)
    assert (second["learning_rate"], second["batch_size"], second["epoch"]) == (0.2, 64, 4)


def test_averaged_weights_are_another_model(tmp_path):
    averaged = {name: value + 1 for name, value in LINEAR.items()}
    write(tmp_path / "src", "a.pt", content={"state_dict": LINEAR, "state_dict_ema": averaged})
    convert(tmp_path / "src", tmp_path / "zoo")
    convert(tmp_path / "src", tmp_path / "zoo", ema=True)
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.manifest["model_id"].tolist() == ["src/a.pt", "src/a.pt-ema"]
    assert zoo.manifest["weights_hash"].nunique() == zoo.manifest["configuration"].nunique() == 2


def test_a_zoo_finds_its_data_from_another_folder(tmp_path, monkeypatch):
    write(tmp_path / "src", "a.pt", content={"fc.weight": torch.ones(10, 64)})
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    digits = load("digits")
    np.savez("own.npz", **{name: getattr(digits, name) for name in ("x_train", "y_train", "x_test", "y_test")})
    convert("src", "zoo", data="own.npz")
    assert Zoo("zoo").data == str(tmp_path / "own.npz")
    monkeypatch.chdir(tmp_path / "other")
    assert mdjax.measure("../zoo", metrics="losses", show_progress=False).models["status"].tolist() == ["ok"]
    # A zoo that names them from this folder stays as it is.
    monkeypatch.chdir(tmp_path)
    header = Path("zoo/zoo.json")
    header.write_text(header.read_text().replace(str(tmp_path / "own.npz"), "own.npz"))
    (skipped,) = convert("src", "zoo", data="own.npz").outcomes
    assert skipped.reason == "already in the zoo" and Zoo("zoo").data == "own.npz"


def test_the_data_is_that_of_the_layout_or_as_given(tmp_path):
    src = tmp_path / "src"
    write(src, "a.pt", content={"fc.weight": torch.ones(10, 64)})
    digits = convert(src, tmp_path / "digits", data="digits")
    assert Zoo(tmp_path / "digits").data == "digits"
    assert Zoo(tmp_path / "digits").fingerprint is not None
    assert Zoo(tmp_path / "digits").manifest["input_shape"].tolist() == ["8x8x1"]
    assert digits.exit_code == 0
    assert (
        convert(src, tmp_path / "cifar", data="cifar10")
        .refused[0]
        .reason.startswith("its first layer reads 64 numbers, but input_shape is (32, 32, 3)")
    )
    # A zoo that is there says what the data is, where the files do not.
    write(src, "b.pt", content={"fc.weight": torch.ones(10, 64)})
    assert len(convert(src, tmp_path / "digits").converted) == 1
    write(src, "run/checkpoint/ckpt.pth", "c/checkpoint-1.pt")
    (src / "c" / "command.sh").write_text("python train.py --dataset CIFAR10")
    with pytest.raises(InputError, match="holds models trained on 'digits', not 'cifar10'"):
        convert(src, tmp_path / "digits")


def test_dry_run_writes_nothing_and_counts_what_is_there(tmp_path):
    write(tmp_path / "src", "a.pt", "b.pt")
    report = convert(tmp_path / "src", None, dry_run=True)
    assert (report.zoo, len(report.converted)) == (None, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]
    convert(tmp_path / "src", tmp_path / "zoo")
    write(tmp_path / "src", "c.pt")
    before = sorted(tmp_path.rglob("*"))
    report = convert(tmp_path / "src", tmp_path / "zoo", dry_run=True)
    assert [len(report.converted), len(report.skipped)] == [1, 2]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_process_that_is_killed_goes_on(tmp_path):
    src, out = tmp_path / "src", tmp_path / "zoo"
    write(src, *(f"c{number // 4:02d}/seed{number % 4}.pt" for number in range(60)))
    code = (
        "import sys, time\n"
        "from converters import conversion, groups\n"
        "groups.MAX_SECONDS, groups._MAX_FRACTION = 0, 1e9\n"
        "append = conversion.Zoo.append\n"
        "def slow(*arguments):\n"
        "    append(*arguments); print('group', flush=True); time.sleep(0.2)\n"
        "conversion.Zoo.append = slow\n"
        f"conversion.convert({str(src)!r}, {str(out)!r}, show_progress=False)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "group\n"
        process.send_signal(signal.SIGKILL)
    there = len(Zoo(out))
    assert 2 <= there < 16  # of 256 that a group may have, what was read is kept
    report = convert(src, out)
    assert len(report.converted) == 60 - there
    assert len(report.skipped) == there
    whole = Zoo(out).manifest
    convert(src, tmp_path / "undisturbed")
    columns = ["model_id", "configuration", "seed", "weights_hash"]
    ours, theirs = (
        m[columns].sort_values("model_id").to_numpy() for m in (whole, Zoo(tmp_path / "undisturbed").manifest)
    )
    assert (ours == theirs).all()


def test_a_sweep_goes_on_whatever_a_file_is(tmp_path, monkeypatch, capsys, low_limits):
    src, out = tmp_path / "src", tmp_path / "zoo"
    src.mkdir()
    monkeypatch.chdir(src)
    for name, (content, _) in REFUSED.items():
        (src / name).write_bytes(content())
    torch.save({"conv.weight": Command(f"touch {src}/ran")}, src / "hostile.pt")
    (src / "folder.pt").mkdir()
    os.mkfifo(src / "pipe.pt")
    (src / "gone.pt").symlink_to("nowhere")
    (src / "loop").symlink_to(src)
    (src / "notes.txt").write_text("not looked at")
    (src / "seed7.pth").write_bytes(saved({"linear.weight": torch.ones(3, 4), "linear.bias": torch.ones(3)}))
    with pytest.raises(SystemExit) as stopped:
        main([str(src), "--out", str(out), "--dry-run"])
    assert stopped.value.code == 1
    assert not out.exists()
    with pytest.raises(SystemExit) as stopped:
        main([str(src), "--out", str(out)])
    assert stopped.value.code == 1
    assert not (src / "ran").exists()
    lines = capsys.readouterr().out.splitlines()
    shown, lines = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert any("would be converted" in line for line in shown)
    expected = {name: reason for name, (_, reason) in REFUSED.items()}
    expected |= {"hostile.pt": "it refers to posix.system", "pipe.pt": "it is no regular file"}
    expected |= {"gone.pt": "it does not exist"}
    for name, reason in expected.items():
        assert any("refused" in line and f"/{name} " in line and reason in line for line in lines), name
    assert sum("refused" in line for line in lines) == len(expected)
    assert Zoo(out).manifest["model_id"].tolist() == ["src/seed7.pth"]
    assert Zoo(out).manifest["seed"].tolist() == [7]


def test_an_unreadable_file_and_folder_are_told(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    torch.save({"linear.weight": torch.ones(3, 4)}, tmp_path / "good.pt")
    torch.save(STATE, tmp_path / "model.pt")
    scandir, opened = os.scandir, Path.open

    def refuse(name, proceed):
        def call(path, *arguments, **options):
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return proceed(path, *arguments, **options)

        return call

    # Rather than by modes, which do not stop the superuser.
    monkeypatch.setattr(os, "scandir", refuse("closed", scandir))
    monkeypatch.setattr(Path, "open", refuse("model.pt", opened))
    report = converters.convert(tmp_path, tmp_path / "zoo", show_progress=False)
    assert {outcome.path.name: outcome.reason for outcome in report.refused} == {
        "closed": "it cannot be opened: Permission denied",
        "model.pt": "it cannot be read: Permission denied",
    }
    assert [outcome.path.name for outcome in report.converted] == ["good.pt"]
