"""The rendered manifests: what a pod may, what it is told, when it is asked whether it works, and how it ends.

Nothing here needs a cluster, so nothing here shows that one takes the manifests; tests/deploy/test_static_checks.py
holds them against the schemas of Kubernetes.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from yarl import URL

from deploy import render, secrets
from libs.common import connection, postgres
from libs.common.settings import KNOWN_VARIABLES, CommonSettings, load
from libs.common.topology import DISPATCHER_DUE
from libs.common.version import VERSION
from services.dispatcher.settings import DispatcherSettings
from services.ingest.limits import TIMEOUT_S_MAX
from services.ingest.settings import IngestSettings
from services.mailer.settings import MailerSettings
from services.scheduler.settings import SchedulerSettings
from tests.deploy.manifests import (
    COMPONENTS,
    PRODUCTION,
    SERVERS,
    SERVICES,
    VARIANTS,
    Thing,
    container_of,
    faults,
    labels_of,
    lasting,
    name_of,
    named,
    of_kind,
    pod_of,
    port_numbers,
    selects,
    things,
    workloads,
)

COMPOSE = yaml.safe_load((render.ROOT / "compose.yaml").read_text())
SETTINGS: dict[str, type[CommonSettings]] = {
    "ingest": IngestSettings,
    "scheduler": SchedulerSettings,
    "dispatcher": DispatcherSettings,
    "mailer": MailerSettings,
}
SECRETS = secrets.files(secrets.new_passwords(), "rabbitmq", "postgres", "redis")

every_variant = pytest.mark.parametrize("variant", VARIANTS)
each_service = pytest.mark.parametrize("service", SERVICES)


def test_install_yaml_is_what_the_evaluation_overlay_renders_to() -> None:
    assert render.INSTALL.read_text() == render.install(), "run `make k8s`"


def test_no_secret_is_in_the_repository() -> None:
    files = [*render.ROOT.glob("k8s/**/*.yaml"), *render.ROOT.glob("deploy/rabbitmq/*.yaml")]
    assert len(files) > 15
    written = [thing for path in files for thing in yaml.safe_load_all(path.read_text())]
    generated = [thing for variant in VARIANTS for thing in things(variant)]
    kinds = {thing["kind"] for thing in [*written, *generated]}
    assert "Secret" not in kinds
    assert not [thing for thing in written if "secretGenerator" in thing]


@every_variant
def test_everything_is_in_the_namespace_that_admits_restricted_pods_only(variant: str) -> None:
    [namespace] = of_kind(variant, "Namespace")
    assert namespace["metadata"]["name"] == "carillon"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {thing["metadata"]["namespace"] for thing in things(variant) if thing is not namespace} == {"carillon"}


@every_variant
def test_every_pod_runs_without_root_without_token_and_without_service_variables(variant: str) -> None:
    def is_restricted(workload: Thing) -> bool:
        pod = pod_of(workload)
        context = pod["securityContext"]
        return (
            context["runAsNonRoot"] is True
            and context["runAsUser"] > 0
            and context["runAsGroup"] > 0
            and context["seccompProfile"] == {"type": "RuntimeDefault"}
            and pod["automountServiceAccountToken"] is False
            and pod["enableServiceLinks"] is False
            and not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        )

    assert faults(variant, is_restricted, among=workloads) == []


@every_variant
def test_every_container_has_a_read_only_root_and_no_capability(variant: str) -> None:
    def is_restricted(workload: Thing) -> bool:
        return bool(
            container_of(workload)["securityContext"]
            == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        )

    assert faults(variant, is_restricted, among=workloads) == []


@every_variant
def test_every_container_asks_for_cpu_and_memory_and_is_limited_in_memory_alone(variant: str) -> None:
    def is_bounded(workload: Thing) -> bool:
        resources = container_of(workload)["resources"]
        return set(resources["requests"]) == {"cpu", "memory"} and set(resources["limits"]) == {"memory"}

    assert faults(variant, is_bounded, among=workloads) == []


@every_variant
def test_every_image_has_a_tag_that_stays(variant: str) -> None:
    def is_pinned(workload: Thing) -> bool:
        tag = container_of(workload)["image"].rpartition(":")[2]
        return re.fullmatch(r"v?\d+(\.\d+)*(-[a-z]+)*", tag) is not None

    assert faults(variant, is_pinned, among=workloads) == []


@every_variant
def test_every_lasting_container_has_all_three_probes_on_ports_it_names(variant: str) -> None:
    for workload in lasting(variant):
        container, ports = container_of(workload), port_numbers(workload)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            way = container[probe].get("httpGet") or container[probe].get("tcpSocket")
            assert way is None or way["port"] in ports, f"{name_of(workload)}: {probe}"
            assert way or container[probe]["exec"]["command"]


@every_variant
def test_volumes_and_mounts_are_the_same_set_and_tmp_can_be_written(variant: str) -> None:
    for workload in workloads(variant):
        volumes = {volume["name"] for volume in pod_of(workload).get("volumes", ())}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
        mounts = container_of(workload)["volumeMounts"]
        assert {mount["name"] for mount in mounts} == volumes, name_of(workload)
        if name_of(workload).startswith("carillon-"):
            assert {"name": "tmp", "mountPath": "/tmp"} in mounts


@every_variant
def test_every_workload_selects_its_own_pods_and_no_others(variant: str) -> None:
    for workload in lasting(variant):
        selected = [
            name_of(other) for other in workloads(variant) if selects(workload["spec"]["selector"], labels_of(other))
        ]
        assert selected == [name_of(workload)]


@every_variant
def test_the_ports_of_a_service_are_named_by_its_pods(variant: str) -> None:
    for service in of_kind(variant, "Service"):
        [target] = [w for w in lasting(variant) if selects({"matchLabels": service["spec"]["selector"]}, labels_of(w))]
        for port in service["spec"]["ports"]:
            assert port_numbers(target)[port["targetPort"]] == port["port"]


@each_service
def test_live_means_the_process_and_ready_means_its_servers_too(service: str) -> None:
    container = container_of(named("evaluation", "Deployment", f"carillon-{service}"))
    paths = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert {container[probe]["httpGet"]["port"] for probe in paths} == {"admin"}
    assert {container[probe]["timeoutSeconds"] for probe in paths} == {3}  # above admin.READY_CHECK_S


@each_service
def test_the_ports_are_those_that_a_service_listens_on_by_default(service: str) -> None:
    deployment = named("evaluation", "Deployment", f"carillon-{service}")
    expected = {"admin": SETTINGS[service].model_fields["admin_port"].default}
    if service == "ingest":
        expected["http"] = IngestSettings.model_fields["port"].default
    assert port_numbers(deployment) == expected
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == str(expected["admin"])
    assert annotations["prometheus.io/path"] == "/metrics"


@each_service
def test_a_pod_may_take_longer_to_end_than_its_drain_needs(service: str) -> None:
    deployment = named("evaluation", "Deployment", f"carillon-{service}")
    links_s, pool_s = 2 * connection.CLOSE_TIMEOUT_S, postgres.CLOSE_S
    needed_s = _pre_stop_s(deployment) + _drain_s(deployment) + links_s + pool_s
    assert pod_of(deployment)["terminationGracePeriodSeconds"] > needed_s


def test_ingest_waits_for_the_last_requests_before_it_stops_listening() -> None:
    assert _pre_stop_s(named("evaluation", "Deployment", "carillon-ingest")) == 5


def test_a_rollout_cuts_off_no_call_however_long_it_may_take() -> None:
    assert _drain_s(named("evaluation", "Deployment", "carillon-dispatcher")) > TIMEOUT_S_MAX


@every_variant
def test_whoever_runs_twice_is_spread_and_taken_away_one_at_a_time(variant: str) -> None:
    twice = {"carillon-ingest", "carillon-scheduler", "carillon-dispatcher"}
    for workload in lasting(variant):
        if name_of(workload) not in twice:
            assert workload["spec"]["replicas"] == 1, f"{name_of(workload)} needs a disruption budget now"
            continue
        [budget] = [
            thing["spec"]
            for thing in of_kind(variant, "PodDisruptionBudget")
            if selects(thing["spec"]["selector"], labels_of(workload))
        ]
        assert budget["maxUnavailable"] == 1
        spread = pod_of(workload)["topologySpreadConstraints"]
        assert {rule["topologyKey"] for rule in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert all(selects(rule["labelSelector"], labels_of(workload)) for rule in spread)
        assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert len(list(of_kind(variant, "PodDisruptionBudget"))) == len(twice)


@each_service
def test_a_service_has_an_identity_of_its_own(service: str) -> None:
    name = f"carillon-{service}"
    assert pod_of(named("production", "Deployment", name))["serviceAccountName"] == name
    assert named("production", "ServiceAccount", name)["automountServiceAccountToken"] is False


def test_nobody_has_rights_on_the_cluster() -> None:
    kinds = {thing["kind"] for variant in VARIANTS for thing in things(variant)}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


@every_variant
def test_every_variable_is_one_that_the_services_know(variant: str) -> None:
    for workload in workloads(variant):
        if name_of(workload).startswith("carillon-"):
            assert set(_environment(variant, workload)) <= KNOWN_VARIABLES


@pytest.mark.parametrize("variant", ["evaluation", "production"])
@each_service
def test_a_service_starts_with_what_it_is_told(variant: str, service: str, tmp_path: Path) -> None:
    deployment = named(variant, "Deployment", f"carillon-{service}")
    files = dict(SECRETS[service])
    if (variant, service) == ("production", "mailer"):  # docs/kubernetes.md has it added
        files["carillon_smtp_url"] = "smtps://carillon:password@mail.example.com:465"
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    settings = load(SETTINGS[service], _environment(variant, deployment), secrets_dir=tmp_path)
    assert settings.amqp_url.get_secret_value() == SECRETS[service]["carillon_amqp_url"]


@every_variant
def test_secrets_are_those_that_the_generator_prints_mounted_where_they_are_looked_for(variant: str) -> None:
    printed = {thing["metadata"]["name"] for thing in yaml.safe_load_all(secrets.manifests(SECRETS, "carillon"))}
    mounted = {name_of(workload): _secrets_of(workload) for workload in workloads(variant)}
    mounted.pop("mailpit", None)
    expected = {
        name: {name if name.startswith("carillon-") else f"carillon-{name}": "/run/secrets"} for name in mounted
    }
    assert mounted == expected
    used = {secret for secrets_ in mounted.values() for secret in secrets_}
    assert used <= printed
    if variant.startswith("evaluation"):
        assert used == printed


def test_the_servers_in_the_secrets_are_services_of_the_evaluation() -> None:
    addresses = {
        (service["metadata"]["name"], port["port"])
        for service in of_kind("evaluation", "Service")
        for port in service["spec"]["ports"]
    }
    urls = [URL(content) for files in SECRETS.values() for name, content in files.items() if name.endswith("_url")]
    urls.append(
        URL(_environment("evaluation", named("evaluation", "Deployment", "carillon-mailer"))["CARILLON_SMTP_URL"])
    )
    assert {(url.host, url.port) for url in urls} <= addresses
    assert len(urls) == 11


def test_the_servers_of_the_evaluation_read_the_files_of_their_secrets() -> None:
    postgres_ = {
        env["name"]: env["value"] for env in container_of(named("evaluation", "StatefulSet", "postgres"))["env"]
    }
    redis = container_of(named("evaluation", "StatefulSet", "redis"))["args"]
    definitions = (render.ROOT / "deploy/rabbitmq/definitions.conf").read_text()
    assert postgres_["POSTGRES_PASSWORD_FILE"] == _file_of("postgres", "postgres_password")
    assert redis[:2] == ["redis-server", _file_of("redis", "redis.conf")]
    assert f"load_definitions = {_file_of('rabbitmq', 'definitions.json')}" in definitions.splitlines()
    assert postgres_["POSTGRES_USER"] == postgres_["POSTGRES_DB"] == secrets.DATABASE


@pytest.mark.parametrize("server", SERVERS)
def test_the_servers_of_the_evaluation_are_those_of_compose(server: str) -> None:
    [workload] = [workload for workload in lasting("evaluation") if name_of(workload) == server]
    assert container_of(workload)["image"] == COMPOSE["services"][server]["image"]


def test_the_broker_gets_the_files_that_compose_gives_it_at_the_same_places() -> None:
    broker = named("evaluation", "StatefulSet", "rabbitmq")
    [volume] = [volume for volume in pod_of(broker)["volumes"] if volume["name"] == "config"]
    contents = named("evaluation", "ConfigMap", volume["configMap"]["name"])["data"]
    mounted = {m["mountPath"]: contents[m["subPath"]] for m in container_of(broker)["volumeMounts"] if "subPath" in m}
    in_compose = [
        volume.split(":") for volume in COMPOSE["services"]["rabbitmq"]["volumes"] if str(volume).startswith("./")
    ]
    memory = mounted.pop("/etc/rabbitmq/conf.d/30-memory.conf")
    assert mounted == {target: (render.ROOT / source).read_text() for source, target, _ in in_compose}
    assert "/etc/rabbitmq/advanced.config" in mounted
    [told_mb] = re.findall(r"^total_memory_available_override_value = (\d+)MB$", memory, re.M)
    assert container_of(broker)["resources"]["limits"]["memory"] == "2Gi"
    assert int(told_mb) * 10**6 < 2 * 2**30


@every_variant
def test_our_own_images_and_the_set_up_job_bear_the_release(variant: str) -> None:
    ours = [workload for workload in workloads(variant) if name_of(workload).startswith("carillon-")]
    images = {container_of(workload)["image"].rpartition("/")[2] for workload in ours}
    assert images == {f"carillon-{name}:{VERSION}" for name in ("setup", *SERVICES)}
    [job] = of_kind(variant, "Job")
    assert job["metadata"]["name"] == f"carillon-setup-{VERSION.replace('.', '-')}"


@every_variant
def test_the_set_up_job_is_tried_again_and_then_makes_room_for_itself(variant: str) -> None:
    [job] = of_kind(variant, "Job")
    assert job["spec"]["backoffLimit"] >= 10
    assert 0 < job["spec"]["ttlSecondsAfterFinished"] <= 600
    assert pod_of(job)["restartPolicy"] == "OnFailure"


@every_variant
def test_who_needs_the_rungs_is_told_the_same_ones(variant: str) -> None:
    told = {name_of(workload): _environment(variant, workload) for workload in workloads(variant)}
    assert (
        told["carillon-setup"]["CARILLON_RETRY_SCHEDULE_S"] == told["carillon-dispatcher"]["CARILLON_RETRY_SCHEDULE_S"]
    )


@pytest.mark.parametrize("variant", VARIANTS[2:])
def test_what_is_scaled_by_a_component_has_no_number_of_its_own(variant: str) -> None:
    scalers = [*of_kind(variant, "HorizontalPodAutoscaler", "ScaledObject")]
    targets = [named(variant, "Deployment", scaler["spec"]["scaleTargetRef"]["name"]) for scaler in scalers]
    assert {name_of(target) for target in targets} == {"carillon-ingest", "carillon-dispatcher"}
    assert not [name_of(target) for target in targets if "replicas" in target["spec"]]
    assert {scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount")) for scaler in scalers} == {2}


def test_keda_looks_at_the_dispatchers_queue_with_the_dispatchers_login() -> None:
    scaled, login = _component("keda-dispatcher", "scaledobject.yaml")
    [trigger] = scaled["spec"]["triggers"]
    assert (scaled["apiVersion"], scaled["kind"], trigger["type"]) == ("keda.sh/v1alpha1", "ScaledObject", "rabbitmq")
    assert (trigger["metadata"]["queueName"], trigger["metadata"]["mode"]) == (DISPATCHER_DUE, "QueueLength")
    assert trigger["authenticationRef"]["name"] == login["metadata"]["name"]
    assert login["kind"] == "TriggerAuthentication"
    [reference] = login["spec"]["secretTargetRef"]
    assert (reference["parameter"], reference["name"]) == ("host", "carillon-dispatcher")
    assert reference["key"] in SECRETS["dispatcher"]


def test_the_pod_monitors_scrape_what_prometheus_yml_scrapes() -> None:
    prometheus = yaml.safe_load((render.ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"] if job["job_name"] != "prometheus"}
    all_pods, queues = _component("podmonitor", "podmonitor.yaml")
    assert {all_pods["kind"], queues["kind"]} == {"PodMonitor"}
    scraped = {name_of(w) for w in lasting("evaluation") if "admin" in port_numbers(w)}
    assert all(selects(all_pods["spec"]["selector"], labels_of(w)) for w in lasting("evaluation"))
    assert all_pods["spec"]["jobLabel"] == "app.kubernetes.io/name"
    assert scraped | {queues["metadata"]["name"]} == set(jobs)
    [endpoint], expected = queues["spec"]["podMetricsEndpoints"], jobs["rabbitmq-queues"]
    assert (endpoint["path"], endpoint["params"]) == (expected["metrics_path"], expected["params"])
    [kept], [expected_kept] = endpoint["metricRelabelings"], expected["metric_relabel_configs"]
    assert kept["regex"] == expected_kept["regex"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "rabbitmq-queues"}]


def test_the_example_of_a_broker_cluster_is_configured_as_our_own_broker() -> None:
    [cluster] = yaml.safe_load_all((PRODUCTION / "examples" / "rabbitmq.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("rabbitmq.com/v1beta1", "RabbitmqCluster")
    configured = cluster["spec"]["rabbitmq"]
    folder = render.ROOT / "deploy" / "rabbitmq"
    assert configured["additionalConfig"] == (folder / "rabbitmq.conf").read_text()
    assert configured["advancedConfig"] == (folder / "advanced.config").read_text()
    assert cluster["spec"]["image"] == COMPOSE["services"]["rabbitmq"]["image"]
    assert cluster["spec"]["replicas"] == 3


def test_the_example_of_a_database_cluster_lets_the_set_up_step_make_its_roles() -> None:
    [cluster] = yaml.safe_load_all((PRODUCTION / "examples" / "postgres.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("postgresql.cnpg.io/v1", "Cluster")
    initdb, [role] = cluster["spec"]["bootstrap"]["initdb"], cluster["spec"]["managed"]["roles"]
    assert initdb["owner"] == initdb["database"] == role["name"] == secrets.DATABASE
    assert role["createrole"] is True
    assert initdb["secret"] == role["passwordSecret"]


def _pre_stop_s(deployment: Thing) -> float:
    hook = container_of(deployment).get("lifecycle", {}).get("preStop")
    if hook is None:
        return 0
    program, seconds = hook["exec"]["command"]
    assert program == "sleep"
    return float(seconds)


def _drain_s(deployment: Thing) -> float:
    given = _environment("evaluation", deployment).get("CARILLON_DRAIN_S")
    return float(given or CommonSettings.model_fields["drain_s"].default)


def _environment(variant: str, workload: Thing) -> dict[str, str]:
    container: dict[str, Any] = container_of(workload)
    environment: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        environment |= named(variant, "ConfigMap", source["configMapRef"]["name"])["data"]
    return environment | {entry["name"]: entry["value"] for entry in container.get("env", ())}


def _secrets_of(workload: Thing) -> dict[str, str]:
    """Where each Secret of the pod is mounted; by name."""
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(workload)["volumeMounts"]}
    volumes = pod_of(workload).get("volumes", ())
    return {volume["secret"]["secretName"]: mounts[volume["name"]] for volume in volumes if "secret" in volume}


def _file_of(server: str, name: str) -> str:
    assert name in SECRETS[server]
    return f"/run/secrets/{name}"


def _component(folder: str, file: str) -> list[Thing]:
    return list(yaml.safe_load_all((COMPONENTS / folder / file).read_text()))
