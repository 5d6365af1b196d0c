"""What the user says of files: --fact, --name and --facts, from the command line to the zoo's manifest."""

import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch_checkpoints import SUBSET, convert, reasons, save, write
from torch_resnet import random_resnet
from torch_zoo import config, write_trial

from converters import NoteCode
from converters.cli import main
from converters.naming import Pattern
from mdjax.errors import InputError
from mdjax.zoo.store import Zoo

PATTERN = "{family}_width{width}_b{batch_size}_seed{seed}*"


def ran(*arguments: object) -> int:
    """The exit status of mdjax-convert."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture
def folder(tmp_path) -> Path:
    """One folder of two widths, two batch sizes and two seeds, as many keep their runs."""
    for width, batch_size, seed in itertools.product((3, 4), (32, 256), (0, 1)):
        content = {"linear.weight": torch.ones(width, 6)}
        write(tmp_path / "src", f"net_width{width}_b{batch_size}_seed{seed}_final.pt", content=content)
    return tmp_path / "src"


@pytest.fixture
def published(tmp_path) -> Path:
    for seed in (0, 1):
        save(tmp_path / "src", f"{SUBSET.replace('subset', 'subset_noisy')}/net_exp_{seed}.pkl", random_resnet(2, seed))
    return tmp_path / "src"


def test_a_pattern_says_what_names_mean(tmp_path, folder, capsys):
    assert ran(folder, "--out", tmp_path / "no") == 1
    assert ran(folder, "--out", tmp_path / "zoo", "--name", PATTERN) == 0
    assert "family is sequence by the weights, not net as names say (8 files" in capsys.readouterr().out
    manifest = Zoo(tmp_path / "zoo").manifest
    assert manifest.groupby(["configuration", "width", "batch_size"]).size().tolist() == [2] * 4
    assert sorted(manifest["seed"]) == [0] * 4 + [1] * 4
    assert manifest["configuration"].str.startswith("src/family=net-width=").all()
    assert len(convert(folder, tmp_path / "zoo", name=PATTERN).skipped) == 8
    refused = convert(folder, tmp_path / "zoo").refused
    assert len(refused) == 8
    assert all("already in the zoo, where its configuration is src/family=net" in one.reason for one in refused)


def test_a_table_says_what_files_are(tmp_path, folder):
    paths = sorted(folder.iterdir())
    facts = {
        "file": [path.name for path in paths],
        "seed": [0, 1] * 4,
        "batch_size": [8, 8, 16, 16] * 2,
        "label_noise": 0.1,
        "logged_test_acc": [0.1 * number for number in range(8)],
    }
    pd.DataFrame(facts).to_csv(tmp_path / "facts.csv", index=False)
    assert ran(folder, "--out", tmp_path / "zoo", "--facts", tmp_path / "facts.csv") == 0
    manifest = Zoo(tmp_path / "zoo").manifest.sort_values("model_id")
    assert manifest["batch_size"].tolist() == facts["batch_size"]
    assert manifest["seed"].tolist() == facts["seed"]
    assert set(manifest["label_noise"]) == {0.1}
    assert manifest.groupby("configuration").size().tolist() == [2] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,batchsize\na.pt,3\n", "unknown column 'batchsize'"),
        ("name,batch_size\na.pt,3\n", "Give each column once, one of them 'file'"),
        ("file,batch_size\na.pt,3\nc.pt,3\n", "line 3: there is no file"),
        ("file,batch_size\na.pt,many\n", "line 2: batch_size is 'many'. Give a whole number"),
        ("file,label_noise\na.pt,10\n", "line 2: label_noise is '10'. Give a fraction between 0 and 1"),
        ("file,batch_size\na.pt,3\n./a.pt,4\n", "has a row already"),
        ("file,batch_size\na.pt,3,4\n", "has 3 cells for 2 columns"),
        ("", "Give each column once"),
    ],
)
def test_a_table_that_is_wrong_is_refused(tmp_path, text, message):
    write(tmp_path / "src", "a.pt", "b.pt")
    (tmp_path / "facts.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "src", tmp_path / "zoo", facts_file=tmp_path / "facts.csv")
    assert not (tmp_path / "zoo").exists()


def test_files_without_a_row_or_of_another_name_are_refused(tmp_path):
    write(tmp_path / "src", "a/b8_seed1.pt", "a/c.pt")
    (tmp_path / "facts.csv").write_text("file,momentum\na/b8_seed1.pt,0.5\n")
    report = convert(
        tmp_path / "src", tmp_path / "zoo", name="b{batch_size}_seed{seed}", facts_file=tmp_path / "facts.csv"
    )
    assert reasons(report) == {"c.pt": "its name does not fit the pattern 'b{batch_size}_seed{seed}'"}
    (row,) = Zoo(tmp_path / "zoo").manifest.to_dict("records")
    assert (row["batch_size"], row["momentum"], row["seed"]) == (8, 0.5, 1)
    report = convert(tmp_path / "src", None, dry_run=True, facts_file=tmp_path / "facts.csv")
    assert reasons(report) == {"c.pt": f"{tmp_path / 'facts.csv'} has no row for it"}


def test_a_table_for_a_single_file_and_for_a_folder_given_by_a_detour(tmp_path, monkeypatch):
    write(tmp_path / "src", "a.pt")
    (tmp_path / "src/facts.csv").write_text("file,batch_size\na.pt,9\n")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    for number, src in enumerate(("../src", "../src/a.pt")):
        convert(Path(src), tmp_path / str(number), facts_file="../src/facts.csv")
        assert Zoo(tmp_path / str(number)).manifest["batch_size"].tolist() == [9]


def test_statements_that_contradict_each_other_are_refused(tmp_path):
    write(tmp_path / "src", "b8.pt")
    (tmp_path / "facts.csv").write_text("file,batch_size\nb8.pt,9\n")
    options = {"name": "b{batch_size}*", "facts_file": tmp_path / "facts.csv"}
    (refused,) = convert(tmp_path / "src", None, dry_run=True, **options).refused
    assert refused.reason == f"its batch_size is given as 8, but {tmp_path / 'facts.csv'} says 9"
    (refused,) = convert(tmp_path / "src", None, dry_run=True, name="b{batch_size}*", facts={"batch_size": 7}).refused
    assert refused.reason == "its batch_size is given as 7, but its name or its row says 8"


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("{seed}.pt", "12.pt", {"seed": 12}),
        ("*{seed}*", "run-12_x.pth.tar", {"seed": 12}),
        ("lr{learning_rate}_s{seed}", "lr1e-3_s2.pth.tar", {"learning_rate": 1e-3, "seed": 2}),
        ("lr{learning_rate}*", "lr0.05.pt", {"learning_rate": 0.05}),
        (
            "{optimizer}/b{batch_size}/seed{seed}_*",
            "src/sgd/b8/seed0_last.pt",
            {"optimizer": "sgd", "batch_size": 8, "seed": 0},
        ),
        ("{kind}-e{epoch}.ckpt", "a-b-e20.ckpt", {"kind": "a-b", "epoch": 20}),
        ("b{batch_size}*", "a8.pt", None),
        ("noise{label_noise}*", "noise10.pt", None),
        ("a+b{seed}", "a+b1.pt", {"seed": 1}),
        ("a+b{seed}", "aab1.pt", None),
    ],
)
def test_patterns(pattern, path, fields):
    assert Pattern(pattern).fields(Path(path)) == fields


@pytest.mark.parametrize("pattern", ["*", "{}", "{seed", "seed}", "{0}", "a.pt"])
def test_patterns_that_cannot_be_read(tmp_path, pattern):
    write(tmp_path / "src", "a.pt")
    with pytest.raises(InputError, match="Put names in braces"):
        convert(tmp_path / "src", None, dry_run=True, name=pattern)


def test_folders_that_a_pattern_describes_are_no_configurations(tmp_path):
    write(tmp_path / "src", *(f"x/s{seed}/b{size}.pt" for seed in (0, 1) for size in (8, 16)))
    convert(tmp_path / "src", tmp_path / "zoo", name="s{seed}/b{batch_size}")
    manifest = Zoo(tmp_path / "zoo").manifest
    assert manifest.groupby("batch_size")["seed"].agg(sorted).tolist() == [[0, 1], [0, 1]]
    assert manifest.groupby("configuration").size().tolist() == [2, 2]
    assert manifest["configuration"].str.startswith("src/x/batch_size=").all()


def test_an_epoch_in_a_pattern_is_one_in_the_manifest(tmp_path):
    write(tmp_path / "src", "n5_s1.pt", "n9_s1.pt")
    convert(tmp_path / "src", tmp_path / "zoo", name="n{epoch}_s{seed}")
    manifest = Zoo(tmp_path / "zoo").manifest
    assert sorted(manifest["epoch"]) == sorted(manifest["epochs"]) == [5, 9]
    assert manifest["configuration"].nunique() == 2


def test_a_fact_wins_over_the_layout_and_that_is_said(tmp_path, published, capsys):
    assert ran(published, "--out", tmp_path / "zoo", "--fact", "label_noise=0", "--fact", "epochs=150") == 0
    assert "label_noise is 0.0 as given, not 0.1 as names, configs or the file say (2 files" in capsys.readouterr().out
    manifest = Zoo(tmp_path / "zoo").manifest
    assert manifest["label_noise"].tolist() == [0.0, 0.0]
    assert manifest["epochs"].tolist() == [150, 150]
    assert manifest["batch_size"].tolist() == [128, 128]
    assert len(convert(published, tmp_path / "zoo", facts={"label_noise": 0}).skipped) == 2
    for facts in ({"label_noise": 0.2}, {"momentum": 0.5}, {"data_share": 0.5}):
        refused = convert(published, tmp_path / "zoo", facts=facts).refused
        assert len(refused) == 2
        assert f"already in the zoo, where its {next(iter(facts))} is" in refused[0].reason


def test_a_fact_wins_over_configs_and_over_what_a_file_holds(tmp_path):
    write_trial(tmp_path / "zoos/trial", config(), [1])
    report = convert(tmp_path / "zoos", tmp_path / "a", facts={"nonlinearity": "tanh", "learning_rate": 0.5})
    row = Zoo(tmp_path / "a").manifest.iloc[0]
    assert (row["nonlinearity"], row["learning_rate"]) == ("tanh", 0.5)
    assert "tanh" in row["variant"].split()
    assert [note.code for note in report.notes] == [NoteCode.OVERRIDDEN] * len(report.notes)
    content = {"state_dict": {"fc.weight": torch.ones(3, 4)}, "hyper_parameters": {"lr": 0.2, "batch_size": 64}}
    write(tmp_path / "src", "a.ckpt", content=content)
    report = convert(tmp_path / "src", tmp_path / "b", facts={"batch_size": 32})
    assert Zoo(tmp_path / "b").manifest[["batch_size", "learning_rate"]].iloc[0].tolist() == [32, 0.2]
    (note,) = report.notes
    assert "batch_size is 32 as given, not 64" in note.sentence


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"label_nose": 0}, "Unknown fact 'label_nose'"),
        ({"width": 4}, "The weights tell width"),
        ({"seed": 4}, "Files do not share their seed"),
        ({"batch_size": 1.5}, "batch_size is 1.5. Give a whole number"),
        ({"label_noise": "much"}, "label_noise is 'much'. Give a number"),
        ({"max_pool": "perhaps"}, "Give true or false"),
        ({"input_shape": (9, 9, 1)}, "input_shape is 9x9x1, but the data digits has inputs of 8x8x1"),
        ({"input_shape": "1x8x8"}, "input_shape is 1x8x8, but the data digits has inputs of 8x8x1"),
        ({"input_shape": (4, 4, 4)}, "input_shape is 4x4x4, but the data digits has inputs of 8x8x1"),
    ],
)
def test_facts_that_can_have_no_effect_are_errors(tmp_path, facts, message):
    write(tmp_path / "src", "a.pt")
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "src", tmp_path / "zoo", facts=facts, data="digits")


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"max_pool": False}, "max_pool is false, but a sequence has no stem that a pool could follow"),
        ({"max_pool": True}, "max_pool is true, but a sequence has no stem that a pool could follow"),
        ({"nonlinearity": "relu"}, "a nonlinearity was given, but its only layer is followed by none"),
        ({"specification": "linear=dense3", "nonlinearity": "relu"}, "give only one of the two"),
    ],
)
def test_facts_that_a_network_cannot_have_are_reasons(tmp_path, facts, reason):
    write(tmp_path / "src", "a.pt")
    (refused,) = convert(tmp_path / "src", None, dry_run=True, facts=facts).refused
    assert reason in refused.reason


@pytest.mark.parametrize("shape", ["1x8x8", "4x4x4", "8x8x1", "64"])
def test_a_file_whose_input_shape_is_not_that_of_the_data_is_refused(tmp_path, shape):
    write(tmp_path / "src", "a.pt", content={"linear.weight": torch.ones(10, 64)})
    (tmp_path / "facts.csv").write_text(f"file,input_shape\na.pt,{shape}\n")
    report = convert(tmp_path / "src", None, dry_run=True, data="digits", facts_file=tmp_path / "facts.csv")
    wrong = {"a.pt": f"its input_shape is given as {shape}, but the data has inputs of 8x8x1"}
    assert reasons(report) == (wrong if shape in ("1x8x8", "4x4x4") else {})
