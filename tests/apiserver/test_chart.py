# SPDX-License-Identifier: Apache-2.0
"""The chart: what it renders is taken by a real API server, over a matrix of values; what is misspelt is refused."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane, ControlPlaneError
from tests.cluster.toolchain import tool
from tests.meta.crds import DIRECTORY, texts

CHART = Path(__file__).parents[2] / "charts" / "sluicegate"
NAMESPACE = "sluicegate-system"
CLUSTER_WIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}

SWITCHES = ["tls.enabled=false", "auth.enabled=false", "injector.enabled=false", "networkPolicy.enabled=true"]
MATRIX = [
    *(list(chosen) for size in (0, 1, 2) for chosen in itertools.combinations(SWITCHES, size)),
    ["requireInjection.enabled=true", "podDisruptionBudget.enabled=false", "crds.keep=false", "tls.keep=false"],
    ["requireInjection.enabled=true", "requireInjection.actions={Warn,Audit}", "rbac.aggregateView=false"],
    ["tls.existingSecret=mine", "injector.existingSecret=mine", "injector.caBundle=Y2E="],
    ["injector.existingSecret=mine", "injector.webhookAnnotations.cert-manager\\.io/inject-ca-from=a/b"],
    ["injector.excludedNamespaces=null", "sidecar.resources=null", "requireInjection.enabled=true"],
    ["fullnameOverride=other", "image.digest=sha256:" + "0" * 64, "imagePullSecrets={a,b}", "commonLabels.team=x"],
    ["broker.nodeSelector.disk=ssd", "broker.priorityClassName=system-cluster-critical", "injector.podAnnotations.a=b"],
    [
        "sidecar.environment.HTTPS_PROXY=http://proxy:3128",
        "sidecar.resources.limits.cpu=1",
        "sidecar.imagePullSecrets={a,b}",
        "crds.enabled=false",
    ],
]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(tool("helm")), *arguments], capture_output=True, text=True, timeout=60, check=False)


def rendered(*arguments: str) -> list[dict[str, Any]]:
    done = helm("template", "release", str(CHART), "--namespace", NAMESPACE, *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def with_account(name: str, **labels: str) -> list[dict[str, Any]]:
    """A namespace and its default ServiceAccount, which the controller manager would make."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}},
    ]


@pytest.fixture(scope="module", autouse=True)
def namespace(plane: ControlPlane) -> None:
    plane.apply(*with_account(NAMESPACE))


def test_lint_finds_nothing_in_the_values_for_larger_installations():
    done = helm("lint", "--strict", str(CHART), "-f", str(CHART / "values-ha.yaml"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", MATRIX, ids=[",".join(values) or "defaults" for values in MATRIX])
def test_lint_finds_nothing_and_the_api_server_takes_what_is_rendered(plane: ControlPlane, values: list[str]):
    settings = [part for value in values for part in ("--set", value)]
    linted = helm("lint", "--strict", str(CHART), *settings)
    assert linted.returncode == 0, linted.stdout
    documents = rendered(*settings)
    plane.apply(*documents, dry_run=True)
    for document in documents:
        metadata = document["metadata"]
        assert ("namespace" in metadata) != (document["kind"] in CLUSTER_WIDE), metadata
        assert metadata["labels"]["app.kubernetes.io/instance"] == "release"


def test_values_that_look_like_numbers_stay_words(plane: ControlPlane):
    words = ["tls.existingSecret=12", "auth.audience=12", "imagePullSecrets={1,true}", "injector.priorityClassName=1"]
    settings = [part for word in words for part in ("--set-string", word)]
    plane.apply(*rendered(*settings), dry_run=True)
    plane.apply(*with_account("123"))
    plane.apply(*rendered("--namespace", "123"), dry_run=True)


def test_the_values_for_larger_installations_render_too(plane: ControlPlane):
    documents = rendered("-f", str(CHART / "values-ha.yaml"))
    plane.apply(*documents, dry_run=True)
    (webhooks,) = [d["webhooks"] for d in documents if d["kind"] == "MutatingWebhookConfiguration"]
    assert {webhook["failurePolicy"] for webhook in webhooks} == {"Fail"}


def test_every_pod_meets_the_restricted_standard(plane: ControlPlane):
    plane.apply(*with_account("restricted", **{"pod-security.kubernetes.io/enforce": "restricted"}))

    def admit(name: str, spec: dict[str, Any]) -> None:
        metadata = {"name": name, "namespace": "restricted"}
        plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, dry_run=True)

    admitted = 0
    for document in rendered():
        if document["kind"] in ("Pod", "Deployment"):
            spec = document["spec"].get("template", document)["spec"]
            admit(document["metadata"]["name"], {**spec, "serviceAccountName": "default"})
            admitted += 1
    assert admitted == 4
    with pytest.raises(ControlPlaneError, match="PodSecurity"):
        admit("open", {"containers": [{"name": "a", "image": "a"}]})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("brokr.resources=1", "brokr"),
        ("broker.replicas=3", "replicas"),
        ("injector.failurePolicy=ignore", "failurePolicy"),
        ("injector.replicas=0", "replicas"),
        ("image.digest=abc", "digest"),
        ("operator.resync=soon", "resync"),
        ("injector.timeoutSeconds=31", "timeoutSeconds"),
        ("logLevel=loud", "logLevel"),
        ("requireInjection.actions={Refuse}", "actions"),
        ("injector.caBundle=!", "caBundle"),
        ("injector.excludedNamespaces={a b}", "excludedNamespaces"),
    ],
)
def test_a_misspelt_value_is_refused_by_name(value: str, words: str):
    done = helm("template", "release", str(CHART), "--set", value)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("release", "injector.existingSecret=mine", "injector.existingSecret needs injector.caBundle"),
        ("release", "injector.caBundle=Y2E=", "injector.caBundle is for injector.existingSecret only"),
        ("release", "requireInjection.enabled=true,requireInjection.actions={Deny,Warn}", "exclude each other"),
        ("release", "commonLabels.app\\.kubernetes\\.io/component=x", "commonLabels: app.kubernetes.io/component"),
        ("1st", "logLevel=info", "set fullnameOverride"),
        ("a.b", "logLevel=info", "set fullnameOverride"),
    ],
)
def test_what_would_fail_or_do_nothing_in_the_cluster_is_refused_with_the_way_out(name: str, values: str, words: str):
    done = helm("template", name, str(CHART), "--set", values)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_notes_say_what_comes_next_and_warn_of_what_is_switched_off(plane: ControlPlane):
    def notes(*values: str) -> str:
        place = ("-n", "elsewhere", "--kubeconfig", str(plane.kubeconfig), "--set", "crds.enabled=false")
        done = helm("install", "trial", str(CHART), "--dry-run=client", *place, *values)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("\nNOTES:\n")[2]

    told = notes()
    for words in (
        "kubectl sluicegate check -n elsewhere",
        "helm test trial -n elsewhere",
        'sluicegate.dev/inject: "true"',
    ):
        assert words in told
    assert "WARNING" not in told
    unsafe = notes("--set", "auth.enabled=false", "--set", "tls.enabled=false")
    assert "WARNING: auth.enabled is false" in unsafe
    assert "WARNING: tls.enabled is false" in unsafe


def test_the_definitions_in_the_chart_are_current():
    written = {path.name: path.read_text() for path in DIRECTORY.glob("*.yaml")}
    assert written == texts(), "run `make crds`"


def test_the_oldest_kubernetes_takes_the_defaults_and_is_told_what_it_cannot_do():
    assert rendered("--kube-version", "1.29.0")
    for version, values, words in (
        ("1.29.4", ("--set", "requireInjection.enabled=true"), "needs Kubernetes 1.30"),
        ("1.28.9", (), "incompatible with Kubernetes v1.28.9"),
    ):
        done = helm("template", "release", str(CHART), "--kube-version", version, *values)
        assert done.returncode != 0
        assert words in done.stderr


def test_uninstalling_keeps_policies_and_what_running_pods_trust_unless_told_otherwise():
    def kept(*arguments: str) -> set[str]:
        held = [
            d for d in rendered(*arguments) if "helm.sh/resource-policy" in (d["metadata"].get("annotations") or {})
        ]
        return {f"{d['kind']} {d['metadata']['name']}" for d in held}

    definitions = {"CustomResourceDefinition providerpools.sluicegate.dev"}
    definitions |= {"CustomResourceDefinition tenantpolicies.sluicegate.dev"}
    assert kept() == definitions | {"Secret release-sluicegate-broker-tls"}
    assert kept("--set", "crds.keep=false", "--set", "tls.keep=false") == set()


def test_each_part_is_probed_spread_protected_and_by_digest():
    digest = "sha256:" + "a" * 64
    documents = rendered("--set", f"image.digest={digest}", "--set", "image.repository=registry.example/own")
    parts = {d["metadata"]["name"]: d for d in documents if d["kind"] == "Deployment"}
    assert len(parts) == 3
    budgets = {d["metadata"]["name"]: d["spec"]["maxUnavailable"] for d in documents if "DisruptionB" in d["kind"]}
    assert budgets == dict.fromkeys(parts, 1), "which never keeps a node from being drained"
    for name, deployment in parts.items():
        spec = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert container["image"] == f"registry.example/own@{digest}"
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        if deployment["spec"]["replicas"] > 1:
            assert spec["topologySpreadConstraints"], name
        else:
            assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    policies = [d for d in rendered("--set", "networkPolicy.enabled=true") if d["kind"] == "NetworkPolicy"]
    assert {policy["metadata"]["name"] for policy in policies} == set(parts)
    for policy in policies:
        deployment = parts[policy["metadata"]["name"]]["spec"]
        assert policy["spec"]["podSelector"] == deployment["selector"]
        open_ports = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        (container,) = deployment["template"]["spec"]["containers"]
        assert open_ports == {port["containerPort"] for port in container["ports"]}
    (injector,) = parts["release-sluicegate-injector"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "SLUICEGATE_INJECTOR_IMAGE", "value": f"registry.example/own@{digest}"} in injector["env"]


@pytest.mark.parametrize(
    ("values", "readers"),
    [
        ([], [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}]),
        (
            ["--set", "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring"],
            [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
        ),
    ],
)
def test_a_network_policy_lets_in_who_has_business_there(values: list[str], readers: list[dict[str, Any]]):
    policies = {
        d["metadata"]["name"].removeprefix("release-sluicegate-"): d["spec"]
        for d in rendered("--set", "networkPolicy.enabled=true", *values)
        if d["kind"] == "NetworkPolicy"
    }

    def rule(port: int, **peers: Any) -> dict[str, Any]:
        return {"ports": [{"port": port, "protocol": "TCP"}], **peers}

    assert {name: spec["policyTypes"] for name, spec in policies.items()} == {name: ["Ingress"] for name in policies}
    assert {name: spec["ingress"] for name, spec in policies.items()} == {
        "broker": [rule(15051, **{"from": [{"namespaceSelector": {}}]}), rule(15090, **{"from": readers})],
        "operator": [rule(8080, **{"from": readers})],
        "injector": [rule(8443), rule(8080, **{"from": readers})],
    }


OURS = ("get", "list", "watch")
RIGHTS: dict[str, dict[str, tuple[str, ...]]] = {
    "broker": {
        "configmaps release-sluicegate-snapshot": ("get",),
        "configmaps release-sluicegate-broker-ca": ("get", "patch"),
        "secrets release-sluicegate-broker-tls": ("get", "update"),
        "tokenreviews.authentication.k8s.io": ("create",),
    },
    "operator": {
        "providerpools.sluicegate.dev": OURS,
        "tenantpolicies.sluicegate.dev": OURS,
        "providerpools/status.sluicegate.dev": ("patch",),
        "tenantpolicies/status.sluicegate.dev": ("patch",),
        "namespaces": OURS,
        "customresourcedefinitions.apiextensions.k8s.io": ("list", "watch"),
        "configmaps release-sluicegate-snapshot": ("get", "patch"),
        "configmaps release-sluicegate-broker-ca": ("get",),
    },
    "injector": {
        "secrets release-sluicegate-injector-tls": ("get", "update"),
        "configmaps release-sluicegate-broker-ca": ("get",),
        "providerpools.sluicegate.dev": OURS,
        "mutatingwebhookconfigurations.admissionregistration.k8s.io release-sluicegate-injector": ("get", "patch"),
    },
    "policy-viewer": {"tenantpolicies.sluicegate.dev": OURS},
    "policy-editor": {
        f"{name}.sluicegate.dev": (*OURS, "create", "update", "patch", "delete")
        for name in ("tenantpolicies", "providerpools")
    },
    "cli": {
        "deployments.apps": ("get", "list"),
        "configmaps release-sluicegate-broker-ca": ("get",),
        "configmaps release-sluicegate-snapshot": ("get",),
        "pods": ("get", "list"),
        "pods/portforward": ("create",),
        "serviceaccounts/token release-sluicegate-viewer": ("create",),
    },
}
IN_THE_CLUSTER = {"tokenreviews", "providerpools", "tenantpolicies", "namespaces", "customresourcedefinitions"} | {
    "mutatingwebhookconfigurations"
}


def held(documents: list[dict[str, Any]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """What each role may do; of a resource that stands in two rules, both."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for document in documents:
        if document["kind"] not in ("Role", "ClusterRole"):
            continue
        rights = found.setdefault(document["metadata"]["name"].removeprefix("release-sluicegate-"), {})
        for rule in document["rules"]:
            assert rule.keys() <= {"apiGroups", "resources", "resourceNames", "verbs"}
            for group, resource, name in itertools.product(
                rule["apiGroups"], rule["resources"], rule.get("resourceNames", [""])
            ):
                what = f"{resource}{'.' if group else ''}{group}{' ' if name else ''}{name}"
                rights[what] = (*rights.get(what, ()), *rule["verbs"])
                cluster_wide = resource.partition("/")[0] in IN_THE_CLUSTER
                assert document["kind"] == ("ClusterRole" if cluster_wide else "Role"), what
    return found


@pytest.mark.parametrize(
    ("values", "spared"),
    [
        ("", ()),
        ("networkPolicy.enabled=true,requireInjection.enabled=true,image.digest=sha256:" + "0" * 64, ()),
        ("tls.existingSecret=mine", ("broker secrets release-sluicegate-broker-tls",)),
        (
            "tls.enabled=false",
            ("broker secrets release-sluicegate-broker-tls", "broker configmaps release-sluicegate-broker-ca"),
        ),
        (
            "auth.enabled=false",
            ("broker tokenreviews.authentication.k8s.io", "cli serviceaccounts/token release-sluicegate-viewer"),
        ),
        (
            "injector.existingSecret=mine,injector.caBundle=Y2E=",
            (
                "injector secrets release-sluicegate-injector-tls",
                "injector mutatingwebhookconfigurations.admissionregistration.k8s.io release-sluicegate-injector",
            ),
        ),
        ("injector.enabled=false", tuple(f"injector {what}" for what in RIGHTS["injector"])),
    ],
)
def test_nobody_gets_more_rights_than_their_part_needs(values: str, spared: tuple[str, ...]):
    documents = rendered(*(["--set", values] if values else []))
    wanted = {
        role: {what: verbs for what, verbs in rights.items() if f"{role} {what}" not in spared}
        for role, rights in RIGHTS.items()
    }
    assert held(documents) == {role: rights for role, rights in wanted.items() if rights}
    for document in documents:
        labels = document["metadata"]["labels"]
        assert "rbac.authorization.k8s.io/aggregate-to-edit" not in labels
        assert "rbac.authorization.k8s.io/aggregate-to-admin" not in labels


def test_rights_are_given_to_each_part_alone_and_what_people_get_is_bound_by_hand():
    bound = {
        (d["kind"], d["roleRef"]["kind"], d["roleRef"]["name"], *(s["kind"], s["name"], s["namespace"]))
        for d in rendered()
        if d["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for s in d["subjects"]
    }
    parts = [f"release-sluicegate-{part}" for part in ("broker", "operator", "injector")]
    assert bound == {
        (f"{kind}Binding", kind, part, "ServiceAccount", part, NAMESPACE)
        for part in parts
        for kind in ("Role", "ClusterRole")
    }
