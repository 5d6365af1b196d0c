"""The guide to large sweeps: its manifests hold together."""

import yaml
from documents import blocks

from mdjax.cli import _parser

MANIFESTS = [
    manifest
    for block in blocks("docs/scale.md")
    if block.language == "yaml"
    for manifest in yaml.safe_load_all(block.text)
]


def test_the_job_sets_command_is_taken():
    for manifest in MANIFESTS:
        for job in manifest["spec"]["replicatedJobs"] if manifest["kind"] == "JobSet" else ():
            for container in job["template"]["spec"]["template"]["spec"]["containers"]:
                options = _parser().parse_args([*container["command"], *container["args"]][1:])
                assert options.out is not None


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
