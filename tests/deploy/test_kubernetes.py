"""The manifests of each overlay, rendered: their schemas, and whether they are those of the program."""

import copy
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import kubernetes_validate
import program
import pytest
import yaml

FOLDER = program.DEPLOY / "kubernetes"
OVERLAYS = ["development", "staging", "production"]
# The oldest version whose pods can sleep before they stop, and a new one.
VERSIONS = ["1.30", "1.36"]
# The kinds that each service has, once.
KINDS = ["Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"]


def in_old_words(folder):
    """Says the same in the words of kubectl 1.20, which is Debian 12's."""
    for path in folder.glob("overlays/*/kustomization.yaml"):
        kustomization = yaml.safe_load(path.read_text())
        kustomization["patchesStrategicMerge"] = [patch["path"] for patch in kustomization.pop("patches")]
        kustomization["bases"] = [name for name in kustomization["resources"] if not name.endswith(".yaml")]
        kustomization["resources"] = [name for name in kustomization["resources"] if name.endswith(".yaml")]
        path.write_text(yaml.safe_dump(kustomization))


@functools.cache
def rendered(overlay):
    """What would be applied, by kind and name."""
    kubectl = os.environ["PHASEGATE_TEST_KUBECTL"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "kubernetes"
        shutil.copytree(FOLDER, folder)
        version = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=True).stdout
        if 'Minor:"20"' in version:
            in_old_words(folder)
        command = [kubectl, "kustomize", folder / "overlays" / overlay]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    documents = list(yaml.safe_load_all(answer.stdout))
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(found) == len(documents)
    return found


def settings(overlay):
    """The environment of every pod."""
    maps = [document["data"] for (kind, _), document in rendered(overlay).items() if kind == "ConfigMap"]
    assert len(maps) == 1
    return maps[0]


def pod_specs(overlay):
    for (kind, name), document in rendered(overlay).items():
        if kind in ("Deployment", "Job"):
            yield name, document["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_matches_its_schema(overlay, version):
    for document in rendered(overlay).values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_knows_what_is_wrong():
    deployment = rendered("production")["Deployment", "phasegate-instance"]
    for change in [
        lambda spec: spec.update(terminationGracePeriod=30),
        lambda spec: spec["containers"][0]["readinessProbe"].update(periodSeconds="two"),
        lambda spec: spec["containers"][0].update(resource={}),
    ]:
        wrong = copy.deepcopy(deployment)
        change(wrong["spec"]["template"]["spec"])
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", program.SERVICES)
def test_every_service_has_the_same_kinds_and_agrees_with_the_program(overlay, name, tmp_path):
    objects = rendered(overlay)
    assert all((kind, f"phasegate-{name}") in objects for kind in KINDS)
    deployment = objects["Deployment", f"phasegate-{name}"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    peers = program.check_service(name, container["args"], settings(overlay), tmp_path)
    for other, (host, port) in peers.items():
        service = objects["Service", host]["spec"]
        assert port == service["ports"][0]["port"] == program.SERVICES[other]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"service": program.SERVICES[name], "admin": program.ADMIN_PORT}
    assert all(container[probe]["httpGet"]["port"] == "admin" for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
    # The process takes up to 10 s after the pause before it is told.
    assert spec["terminationGracePeriodSeconds"] >= container["lifecycle"]["preStop"]["sleep"]["seconds"] + 10
    mounted = container["volumeMounts"][0]["mountPath"]
    assert settings(overlay)["PHASEGATE_CONFIG"] == f"{mounted}/settings.toml"
    assert settings(overlay)["PHASEGATE_SECRET_FILE"] == f"{mounted}/secret"
    secrets = [source["secret"]["name"] for source in spec["volumes"][0]["projected"]["sources"]]
    assert secrets == [f"phasegate-{name}", "phasegate"]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", program.SERVICES)
def test_copies_are_found_scaled_and_never_all_taken_away(overlay, name):
    objects = rendered(overlay)
    deployment = objects["Deployment", f"phasegate-{name}"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    service = objects["Service", f"phasegate-{name}"]["spec"]
    # Callers balance by themselves, so they must see every copy.
    assert (service.get("clusterIP") == "None") == (name != "gateway")
    selectors = [
        service["selector"],
        deployment["spec"]["selector"]["matchLabels"],
        objects["PodDisruptionBudget", f"phasegate-{name}"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy", f"phasegate-{name}"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    scaler = objects["HorizontalPodAutoscaler", f"phasegate-{name}"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == f"phasegate-{name}" and "replicas" not in deployment["spec"]
    assert scaler["minReplicas"] >= (1 if overlay == "development" else 2) and scaler["minReplicas"] < scaler["maxReplicas"]
    assert objects["PodDisruptionBudget", f"phasegate-{name}"]["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_is_root_or_writes_or_speaks_to_the_cluster(overlay):
    pods = list(pod_specs(overlay))
    assert len(pods) >= 8
    for name, spec in pods:
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"} and "memory" in container["resources"]["limits"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_written_down(overlay):
    assert not any(kind == "Secret" for kind, _ in rendered(overlay))
    assert not re.search(r"(?i)password|://[^/\s]*:[^/\s]*@", str(settings(overlay)))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_with_data_is_migrated_as_itself(overlay):
    spec = rendered(overlay)["Job", "phasegate-migrate"]["spec"]["template"]["spec"]
    names = [name for name in program.SERVICES if name != "gateway"]
    assert [container["args"] for container in spec["containers"]] == [["admin", "migrate", name] for name in names]
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert secrets[container["volumeMounts"][0]["name"]] == f"phasegate-{container['name']}"
        assert {variable["name"] for variable in container["env"]} <= program.variables()
        assert container["image"] == rendered(overlay)["Deployment", "phasegate-instance"]["spec"]["template"]["spec"]["containers"][0]["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everybody_may_talk_to_whom_they_must(overlay):
    for name, port in program.SERVICES.items():
        policy = rendered(overlay)["NetworkPolicy", f"phasegate-{name}"]["spec"]
        assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
        out = [entry for rule in policy["egress"] for entry in rule["ports"]]

        def lets_out(number):
            return any(entry["port"] <= number <= entry.get("endPort", entry["port"]) for entry in out)

        assert all(lets_out(other) for other in program.SERVICES.values() if other != 7460), name
        assert lets_out(6379) and lets_out(4317) and lets_out(53), name
        assert lets_out(5432) == (name != "gateway"), name
        assert lets_out(587) == (name == "notification"), name
        entered = [entry["port"] for rule in policy["ingress"] for entry in rule["ports"]]
        assert entered == ["service", "admin"], f"{name} on {port}"
