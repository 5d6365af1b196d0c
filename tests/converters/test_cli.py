"""The command mdjax-convert: usage, exit status, and facts as text."""

import subprocess
import sys

import pytest
import torch
from torch_checkpoints import write

from converters.cli import main
from mdjax.zoo.store import Zoo


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


def test_help_loads_neither_torch_nor_jax():
    code = (
        "import sys, converters.cli\n"
        "try: converters.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'jax', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_facts_that_weights_do_not_tell_may_be_given(tmp_path, capsys):
    layers = {"fc1.weight": torch.ones(5, 12), "fc1.bias": torch.ones(5), "fc2.weight": torch.ones(3, 5)}
    write(tmp_path / "src", "a.pt", content=layers)
    command = [str(tmp_path / "src"), "--out", str(tmp_path / "zoo")]
    for more, code in (([], 1), (["--fact", "nonlinearity=tanh", "--fact", "input_shape=2x2x3"], 0)):
        with pytest.raises(SystemExit) as stopped:
            main([*command, *more])
        assert stopped.value.code == code
    assert "its weights do not tell its nonlinearity" in capsys.readouterr().out
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.manifest["input_shape"].tolist() == ["2x2x3"]
    assert "tanh" in zoo.architecture(zoo.groups[0]).variant
    for fact in ("nonlinearity", "input_shape=2x", "=3", "nonlinearty=tanh"):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--fact", fact])
        assert stopped.value.code == 2
        assert "mdjax-convert: error: " in capsys.readouterr().err


def as_command(module, *arguments):
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [("converters", ["src", "--dry-run"], "sequence-w3"), ("converters.cli", ["--help"], "usage: mdjax-convert")],
)
def test_the_package_is_the_command(tmp_path, monkeypatch, module, arguments, told):
    write(tmp_path / "src", "a.pt")
    monkeypatch.chdir(tmp_path)
    done = as_command(module, *arguments)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    failed = as_command(module, "src")
    assert failed.returncode == 2
    assert "mdjax-convert: error: No place for the zoo" in failed.stderr
