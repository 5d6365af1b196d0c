"""Files of trees: what is damaged, foreign or missing is refused."""

import json

import pytest

from mdjax.diagnosis.trees import load_trees
from mdjax.errors import InputError


def damaged(text: str, **changes: object) -> str:
    content = json.loads(text)
    content["trees"][0] |= changes
    return json.dumps(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a JSON file of trees"),
        (lambda text: "[1, 2]", "no file of MD trees"),
        (lambda text: text.replace('"version": 3', '"version": 1'), "has version 1, expected 3.*Grow and save"),
        (lambda text: text.replace('"version": 3', '"version": 9'), "has version 9, expected 3"),
        (lambda text: damaged(text, population=0), "names a population that it does not hold"),
        (lambda text: text.replace('"spread": 0.0', '"spread": -1'), "spread is not a finite positive number"),
        (lambda text: damaged(text, shares=[[0.5, 0.5]]), "shares do not fit 4 leaves"),
        (lambda text: damaged(text, gains=[1]), "cannot be understood"),
        (lambda text: damaged(text, single_tree={"question": "width"}), "lacks the field 'method'"),
        (lambda text: "[" * 100_000, "not a JSON file of trees"),
        (lambda text: json.dumps({**json.loads(text), "trees": []}), "holds no trees"),
        (lambda text: text.replace('"preset"', '"presets"'), "lacks the field 'preset'"),
        (lambda text: damaged(text, question="size"), "no question 'size'"),
        (lambda text: damaged(text, splits=[]), "its splits do not form one tree|cannot be understood"),
        (lambda text: text.replace('"above": 1', '"above": 0'), "its splits do not form one tree"),
        (lambda text: text.replace('"above": 1', '"above": 7'), "its splits do not form one tree"),
        (lambda text: text.replace('"at_most": "small"', '"at_most": "tiny"'), "a leaf is none of small, large"),
        (lambda text: damaged(text, leaf_counts=[[1, 2]]), "leaf_counts do not fit 4 leaves"),
        (lambda text: damaged(text, classes=["a", "b"]), "classes are"),
        (lambda text: damaged(text, feature_ranges={}), "lacks the field 'train_error'"),
        (lambda text: damaged(text, smoothing=0), "smoothing is 0"),
    ],
)
def test_foreign_and_damaged_files_are_refused(published_trees, tmp_path, spoil, message):
    path = tmp_path / "trees.json"
    published_trees["optimizer"].save(path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(InputError, match=message):
        load_trees(path)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read the trees in .*absent\.json"):
        load_trees(tmp_path / "absent.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a JSON file"):
        load_trees(tmp_path / "binary")
