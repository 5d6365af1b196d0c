"""Copies are one model, whatever their form; trainings that share a seed number are none of each other's seeds."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch_checkpoints import LINEAR, convert, reasons, save, write
from torch_resnet import random_resnet

import mdjax
from converters import NoteCode
from mdjax.zoo.store import Zoo

OTHER = {name: value * 2 for name, value in LINEAR.items()}


def put(path: Path, state=LINEAR) -> Path:
    """Write a state_dict in the form that the file's ending asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"epoch": 5, "state_dict": state} if path.suffix == ".tar" else state, path)
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("model_best.pth.tar", "checkpoint.pth.tar"),
        ("a.pt", "a.safetensors"),
        ("a.pt", "b.pth.tar"),
        ("seed0.pt", "seed0.safetensors"),
        ("seed0.pt", "seed1.pt"),
        ("seed2_best.pt", "seed2_last.pt"),
        ("run_seed1/best.pt", "run_seed2/best.pt"),
    ],
)
def test_equal_weights_of_a_configuration_are_one_model(tmp_path, first, second):
    src = tmp_path / "src"
    paths = {name: put(src / name) for name in (first, second)}
    report = convert(src, tmp_path / "zoo")
    assert [outcome.path for outcome in report.converted] == [paths[first]]
    (copied,) = report.copies
    assert (copied.path, copied.copy_of, copied.status) == (paths[second], paths[first], "skipped")
    assert f"a copy of {paths[first]}" in copied.reason
    assert report.exit_code == 0
    # Given again, the zoo's model is the original; and a copy that comes later is one too.
    put(src / Path(first).parent / "z.pt")
    again = convert(src, tmp_path / "zoo")
    assert {outcome.path for outcome in again.copies} >= {paths[second]}
    assert all(outcome.copy_of == paths[first] for outcome in again.copies)
    assert len(Zoo(tmp_path / "zoo")) == (1 if "/" not in first else 2)


def test_copies_are_measured_once(tmp_path):
    state = {"1.weight": torch.randn(8, 64), "1.bias": torch.zeros(8), "3.weight": torch.randn(10, 8)}
    put(tmp_path / "src/model_best.pth.tar", state)
    shutil.copyfile(tmp_path / "src/model_best.pth.tar", tmp_path / "src/checkpoint.pth.tar")
    convert(tmp_path / "src", tmp_path / "zoo", data="digits", facts={"nonlinearity": "relu"})
    table = mdjax.measure(tmp_path / "zoo", metrics="losses", preset="fast", show_progress=False)
    assert table.configurations["num_models"].tolist() == [1]


def test_networks_that_diverged_alike_are_no_copies(tmp_path):
    broken = {name: torch.full_like(value, torch.nan) for name, value in LINEAR.items()}
    for seed in (0, 1):
        put(tmp_path / f"src/seed{seed}.pt", broken)
    assert len(convert(tmp_path / "src", tmp_path / "zoo").converted) == 2


def test_equal_weights_in_two_configurations_are_said(tmp_path):
    paths = [put(tmp_path / f"src/{folder}/seed0.pt") for folder in ("lr0.1", "lr0.2")]
    report = convert(tmp_path / "src", tmp_path / "zoo")
    assert len(report.converted) == 2
    (note,) = report.notes
    assert note.code == NoteCode.SAME_WEIGHTS
    assert all(str(path) in note.sentence for path in paths)


def test_copies_in_the_published_layout(tmp_path):
    folder = "different_knobs_subset_10/bs_128/normal/ResNet18_w2"
    first = save(tmp_path / "src", f"{folder}/net_exp_0.pkl", random_resnet(2, 0))
    second = save(tmp_path / "src", f"{folder}/net_exp_1.pkl", random_resnet(2, 0))
    report = convert(tmp_path / "src", tmp_path / "zoo")
    assert [(outcome.path, outcome.copy_of) for outcome in report.copies] == [(second, first)]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (("m_b32_seed0_final.pt", "m_b256_seed0_final.pt"), "{family}_b{batch_size}_seed{seed}*"),
        (("lr0.1-seed0.pt", "lr0.01-seed0.pt"), "lr{learning_rate}-seed{seed}*"),
        (("alice_seed3.pt", "bob_seed3.pt"), "{family}_seed{seed}*"),
        (("w4_lr0.1/seed1.pt", "w4_lr0.1/x_seed1.pt"), "{family}_width{width}_b{batch_size}_seed{seed}*"),
    ],
)
def test_two_trainings_with_one_seed_are_refused_with_both_names(tmp_path, names, pattern):
    for name, state in zip(names, (LINEAR, OTHER)):
        put(tmp_path / "src" / name, state)
    put(tmp_path / "src/other/seed9.pt")
    report = convert(tmp_path / "src", tmp_path / "zoo")
    assert [outcome.path.name for outcome in report.converted] == ["seed9.pt"]
    assert report.exit_code == 1
    for reason in reasons(report).values():
        assert all(Path(name).name in reason for name in names)
        assert f"--name {pattern!r}" in reason
        assert "--facts FILE.csv" in reason


def test_a_training_that_comes_later_with_a_seed_of_the_zoo_is_refused(tmp_path):
    put(tmp_path / "src/a_seed0.pt")
    convert(tmp_path / "src", tmp_path / "zoo")
    put(tmp_path / "src/b_seed0.pt", OTHER)
    report = convert(tmp_path / "src", tmp_path / "zoo")
    assert "b_seed0.pt and " in reasons(report)["b_seed0.pt"]
    assert "a_seed0.pt are two trainings with the seed 0" in reasons(report)["b_seed0.pt"]
    assert len(Zoo(tmp_path / "zoo")) == 1


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("model_best.pth.tar", "checkpoint.pth.tar"),
        ("best.pt", "last.pt"),
        ("x_seed1_best.pt", "x_seed1_final.pt"),
        ("early_stopped.pt", "best.pt"),
        ("net-best.ckpt", "net.ckpt"),
    ],
)
def test_checkpoints_of_one_training_are_no_seeds_of_each_other(tmp_path, taken, left):
    put(tmp_path / "src" / taken)
    put(tmp_path / "src" / left, OTHER)
    report = convert(tmp_path / "src", tmp_path / "zoo")
    assert [outcome.path.name for outcome in report.converted] == [taken]
    assert [outcome.reason for outcome in report.skipped] == [
        f"another checkpoint of its training run is preferred: {tmp_path / 'src' / taken}"
    ]
    (tmp_path / "src" / taken).write_bytes(b"")
    report = convert(tmp_path / "src", None, dry_run=True)
    assert not report.converted
    assert reasons(report) == {taken: "it is empty"}


def test_many_files_of_a_folder_are_said_to_count_as_seeds(tmp_path):
    write(tmp_path / "src", *(f"net_b{16 * (1 + number % 2)}_{number}.pt" for number in range(46)))
    notes = {note.code: note.sentence for note in convert(tmp_path / "src", None, dry_run=True).notes}
    assert set(notes) == {NoteCode.MANY_SEEDS, NoteCode.SETTINGS_DIFFER}
    assert f"46 files of {tmp_path / 'src'} count as 46 seeds" in notes[NoteCode.MANY_SEEDS]
    assert "--name '{family}_b{batch_size}*'" in notes[NoteCode.MANY_SEEDS]
    assert "net_b32_1.pt" in notes[NoteCode.SETTINGS_DIFFER]
    report = convert(tmp_path / "src", None, dry_run=True, name="{family}_b{batch_size}_{seed}*")
    assert [note.code for note in report.notes] == [NoteCode.NETWORK_DIFFERS]
