"""Trainings of several settings in one folder: what their names call the seed, and settings that are words."""

import pytest
import torch
from torch_checkpoints import LINEAR, convert, reasons, write

from converters import NoteCode
from converters.layouts.files import seed_in, without_seed
from converters.naming import suggestion
from mdjax.zoo.store import Zoo


def put(folder, *names: str):
    for number, name in enumerate(names):
        write(folder, name, content={key: value + number for key, value in LINEAR.items()})
    return folder


@pytest.mark.parametrize(
    ("name", "seed", "rest"),
    [
        ("w8_adam_s0.pt", 0, "w8_adam-pt"),
        ("adam-s-12", 12, "adam"),
        ("s3", 3, ""),
        ("rng4_adam", 4, "adam"),
        ("adam_randomseed7", 7, "adam"),
        ("vit_s16_seed2", 2, "vit_s16"),
        ("vit_s16_s2", 2, "vit_s16"),
        ("adam_s0.5", None, "adam_s0.5"),
        ("loss3", None, "loss3"),
        ("nets_3", None, "nets_3"),
    ],
)
def test_what_a_seed_is_called(name, seed, rest):
    assert seed_in(name) == seed
    assert without_seed(name) == rest


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (("w8_adam_s0.pt", "w8_adam_s1.pt", "w8_sgd_s0.pt", "w8_sgd_s1.pt"), "w{width}_{setting1}_s{seed}"),
        (("adam_seed_0.pt", "sgd_seed_0.pt", "adam_seed_1.pt", "sgd_seed_1.pt"), "{family}_seed_{seed}*"),
        (("s0/adam.pt", "s0/sgd.pt", "s1/adam.pt", "s1/sgd.pt"), ""),
    ],
)
def test_trainings_with_one_seed_however_it_is_written(tmp_path, names, pattern):
    report = convert(put(tmp_path / "src", *names), tmp_path / "zoo")
    if not pattern:  # a folder of its own for each seed tells its files apart
        assert Zoo(tmp_path / "zoo").manifest.groupby("configuration")["seed"].agg(sorted).tolist() == [[0, 1]] * 2
        return
    assert len(report.refused) == 4
    assert all("are two trainings with the seed" in reason for reason in reasons(report).values())
    assert all(f"--name {pattern!r}" in reason for reason in reasons(report).values())
    report = convert(tmp_path / "src", tmp_path / "named", name=pattern)
    assert len(report.converted) == 4
    assert Zoo(tmp_path / "named").manifest.groupby("configuration")["seed"].agg(sorted).tolist() == [[0, 1]] * 2


@pytest.mark.parametrize(
    ("names", "noted"),
    [
        (("adam_0.pt", "adam_1.pt", "sgd_0.pt", "sgd_1.pt"), ("adam_0.pt", "sgd_0.pt")),
        (("relu_run1.pt", "tanh_run1.pt"), ("relu_run1.pt", "tanh_run1.pt")),
        (("adam_0.pt", "adam_1.pt", "sgd_2.pt", "sgd_3.pt"), ("adam_0.pt", "sgd_2.pt")),
        (("net_0.pt", "net_1.pt"), ()),
        (("alice.pt", "bob.pt"), ()),
        (("a1.pt", "b2.pt"), ()),
        (("net_0_best.pt", "net_0_last.pt", "net_1_best.pt"), ()),
    ],
)
def test_settings_that_are_words_are_said(tmp_path, names, noted):
    report = convert(put(tmp_path / "src", *names), None, dry_run=True)
    assert not report.refused
    assert [note.code for note in report.notes] == [NoteCode.SETTINGS_DIFFER] * bool(noted)
    if noted:
        (note,) = report.notes
        assert note.sentence.startswith(f"{noted[0]} and {noted[1]} count as seeds of one configuration")
        pattern = suggestion(noted)
        assert f"--name {pattern!r}" in note.sentence
        named = convert(tmp_path / "src", tmp_path / "zoo", name=pattern)
        assert not named.notes
        assert not named.refused
        assert Zoo(tmp_path / "zoo").manifest["configuration"].nunique() == 2


def test_an_index_is_no_setting_beside_one_that_is_told(tmp_path):
    write(tmp_path / "src", *(f"net_b{size}_{number}.pt" for size in (8, 16) for number in (0, 1)))
    for number, path in enumerate(sorted((tmp_path / "src").iterdir())):
        torch.save({name: value + number for name, value in LINEAR.items()}, path)
    (note,) = convert(tmp_path / "src", None, dry_run=True).notes
    assert "seem to tell another batch_size" in note.sentence
