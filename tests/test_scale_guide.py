"""The guide to large sweeps: its manifests are YAML, and its commands are ones that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mdjax.cli import _parser

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "scale.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.S | re.M)
MANIFESTS = [document for kind, block in BLOCKS if kind == "yaml" for document in yaml.safe_load_all(block)]


def commands() -> list[list[str]]:
    """Every mdjax command line of the guide, in code spans, blocks, quotes of other commands and manifests."""
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines()] + re.findall(
        r"`(mdjax [^`]*)`", TEXT
    )
    found = []
    for line in lines:
        for words in _words(line):
            if "mdjax" in words:
                found.append(words[words.index("mdjax") + 1 :])
    for manifest in MANIFESTS:
        for job in manifest["spec"]["replicatedJobs"] if manifest["kind"] == "JobSet" else ():
            for container in job["template"]["spec"]["template"]["spec"]["containers"]:
                found.append([*container["command"], *container["args"]][1:])
    return [words for words in found if words]


def _words(line: str) -> list[list[str]]:
    words = shlex.split(line, comments=True)
    return [words, *(shlex.split(word.partition("=")[2]) for word in words if word.startswith("--command="))]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_taken(words):
    options = _parser().parse_args(words)
    if words[0] == "measure":
        assert options.plan or options.out is not None


def test_all_commands_are_found():
    told = [words[0] for words in commands()]
    assert told.count("measure") >= 10
    assert {"train", "sweep"} <= set(told)


def test_manifests_hold_together():
    kinds = {manifest["kind"]: manifest for manifest in MANIFESTS}
    assert list(kinds) == ["ResourceFlavor", "ClusterQueue", "LocalQueue", "JobSet"]
    queue, job_set = kinds["LocalQueue"], kinds["JobSet"]
    assert queue["spec"]["clusterQueue"] == kinds["ClusterQueue"]["metadata"]["name"]
    assert job_set["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    assert job_set["metadata"]["namespace"] == queue["metadata"]["namespace"]
    group = kinds["ClusterQueue"]["spec"]["resourceGroups"][0]
    assert group["flavors"][0]["name"] == kinds["ResourceFlavor"]["metadata"]["name"]
    (job,) = job_set["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    asked = container["resources"]["requests"] | container["resources"]["limits"]
    quotas = {one["name"]: one["nominalQuota"] for one in group["flavors"][0]["resources"]}
    assert set(asked) == set(group["coveredResources"]) == set(quotas)
    assert job["template"]["spec"]["parallelism"] * int(asked["nvidia.com/gpu"]) <= quotas["nvidia.com/gpu"]


def test_links_lead_somewhere():
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line[:1] == "#"
    }
    for target in re.findall(r"\]\(([^)]*)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("http"):
            assert (ROOT / "docs" / target.partition("#")[0]).is_file()
