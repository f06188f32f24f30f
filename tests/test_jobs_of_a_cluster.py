"""Jobs sent, watched and stopped by Kubeflow's real client, over HTTP, with a small API server."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import kube_config
from typer.testing import CliRunner
from urllib3.exceptions import MaxRetryError

import crds
from feastrain import Project
from feastrain.cli import app
from feastrain.errors import DataError, FeastrainError, UsageError
from feastrain.jobs import trainer
from feastrain.jobs.cluster import Size, render
from feastrain.jobs.places import follow
from feastrain.jobs.runtimes import MOST_RESTARTS, runtimes
from feastrain.recipe import load_recipe
from feastrain.settings import Cluster
from gangs import until
from kube_api import KubeApi, Refused
from tiny_snapshot import tiny_recipe

RUN = "3f6b0c9d2a417e58"
ARGUMENTS = ["--recipe", f"/feastrain/artifacts/runs/{RUN}/recipe.yaml"]
ARGUMENTS += ["--snapshot", "/feastrain/snapshots/0123456789abcdef"]
NAME = "tiny-3f6b0c9d2a41"
POLL = 0.02


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits asks again at once."""
    monkeypatch.setattr(trainer, "POLL_SECONDS", POLL)


@pytest.fixture
def api() -> Iterator[KubeApi]:
    """A cluster whose keeper has made the runtimes."""
    served = KubeApi()
    served.apply(*runtimes(Cluster()))
    yield served
    served.close()


Use = Callable[[Path], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Have Kubernetes' client read a kubeconfig; it looks at KUBECONFIG only when it is loaded."""
    return lambda path: monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def jobs(api: KubeApi, tmp_path: Path, use: Use) -> trainer.Jobs:
    use(api.kubeconfig(tmp_path))
    return trainer.Jobs(Cluster())


@pytest.fixture
def objects(tmp_path: Path) -> list[dict[str, Any]]:
    """What `feastrain render` prints for a run of two nodes."""
    recipe = load_recipe(tiny_recipe(tmp_path))
    return render(recipe, RUN, ARGUMENTS, Size(nodes=2, processes=2, memory="8Gi"), Cluster())


@pytest.fixture
def running(jobs: trainer.Jobs, api: KubeApi, objects: list[dict[str, Any]]) -> trainer.Jobs:
    """The jobs of a cluster where one runs."""
    jobs.submit(objects)
    api.run(NAME)
    return jobs


def test_what_is_shown_is_what_is_sent(
    jobs: trainer.Jobs, api: KubeApi, objects: list[dict[str, Any]]
) -> None:
    """The server gets the rendered objects, and the budget goes when its job does."""
    crds.require_crds()
    assert NAME == jobs.submit(objects)
    for shown, resource in zip(objects, ("trainjobs", "poddisruptionbudgets"), strict=True):
        sent = api.find(resource, "default", NAME)
        known = {key: sent["metadata"][key] for key in shown["metadata"]}
        assert shown["metadata"] == known
        assert crds.defaulted(shown)["spec"] == sent["spec"]
    jobs.delete(NAME)
    assert [] == [key for key in api.objects if key[0] != "clustertrainingruntimes"]


def test_pods_are_told_which_snapshot_to_fetch(
    api: KubeApi, tmp_path: Path, jobs: trainer.Jobs
) -> None:
    """The job patches the runtime's container that fetches, which Kubeflow allows."""
    place = Cluster(fetch=True, fetch_from="s3://shop/snapshots/")
    recipe = load_recipe(tiny_recipe(tmp_path))
    api.objects.clear()
    api.apply(*runtimes(place))
    shown = render(recipe, RUN, ARGUMENTS, Size(), place)
    jobs.submit(shown)
    sent = api.find("trainjobs", "default", NAME)
    assert shown[0]["spec"]["runtimePatches"] == sent["spec"]["runtimePatches"]
    (pod,) = api.all("pods", "default")
    (fetching,) = pod["spec"]["initContainers"]
    told = {"name": "SNAPSHOT", "value": "s3://shop/snapshots/0123456789abcdef"}
    assert told in fetching["env"]


def test_kubeflows_client_finds_the_job(running: trainer.Jobs, api: KubeApi) -> None:
    """Whoever uses Kubeflow's client alone sees the job, its nodes and its lines."""
    api.say(NAME, "epoch 1")
    (job,) = running.client.list_jobs()
    nodes = [(step.name, step.status) for step in job.steps]
    assert (NAME, "Running", 2) == (job.name, job.status, job.num_nodes)
    assert [("node-0", "Running"), ("node-1", "Running")] == sorted(nodes)
    assert ["epoch 1"] == list(running.client.get_job_logs(NAME))


def test_a_job_goes_through_its_states(
    jobs: trainer.Jobs, api: KubeApi, objects: list[dict[str, Any]]
) -> None:
    """Created, running, suspended, running again, complete; the client's own state errs there."""
    jobs.submit(objects)
    assert ("Created", "0 of 2 nodes run") == (jobs.get(NAME).state, jobs.get(NAME).why)
    api.run(NAME)
    assert "Running" == jobs.get(NAME).state
    jobs.stop(NAME)
    assert "Suspended" == jobs.get(NAME).state
    assert [] == api.all("pods", "default")
    assert NAME == jobs.submit(objects)
    api.run(NAME)
    assert "Running" == jobs.get(NAME).state
    assert "Created" == jobs.client.get_job(NAME).status
    for node in (0, 1):
        api.end(NAME, 0, node)
    assert "Complete" == jobs.wait(NAME, 5).state
    assert ["Complete"] == [job.state for job in jobs.all()]


def test_a_job_tells_how_far_it_is(running: trainer.Jobs, api: KubeApi) -> None:
    """What rank 0 told the controller is read from the job."""
    metrics = [{"name": "loss", "value": "0.25"}]
    api.progress(NAME, progressPercentage=40, estimatedRemainingSeconds=90, metrics=metrics)
    job = running.get(NAME)
    assert (40, 90, {"loss": "0.25"}) == (job.percent, job.remaining_seconds, job.metrics)
    assert ("tiny", RUN) == (job.recipe, job.run)


def test_a_failure_ends_the_wait_with_the_ranks_last_line(
    running: trainer.Jobs, api: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once, as the error of the node that failed first, not of one that it took along."""
    api.say(NAME, "the loss of rows 3 to 5 is not finite", node=1)
    ended = _in_background(lambda: running.wait(NAME, 60))
    with api.lock:
        api.leave(NAME, 69, node=0)
        api.end(NAME, 3, node=1)
    told = ended()
    expected = "node 1 left with exit code 3: the loss of rows 3 to 5 is not finite"
    assert (DataError, f"the job {NAME} failed: {expected}") == (type(told), str(told))
    assert "not finite" in capsys.readouterr().err


@pytest.mark.parametrize("code", [1, 2, 3, 4])
def test_an_error_that_would_come_again_is_not_repeated(
    code: int, running: trainer.Jobs, api: KubeApi
) -> None:
    """The runtime's own rules fail the job at the first such exit."""
    api.end(NAME, code)
    assert ("Failed", {}) == (running.get(NAME).state, api.restarts)


def test_asking_a_node_to_leave_costs_no_restart(running: trainer.Jobs, api: KubeApi) -> None:
    """All nodes start again, as often as a node is drained or asked to stop."""
    for end in (lambda: api.end(NAME, 75, node=1), lambda: api.evict(NAME)):
        for _ in range(MOST_RESTARTS + 1):
            api.run(NAME)
            end()
    assert {NAME: 2 * (MOST_RESTARTS + 1)} == api.restarts
    assert "Created" == running.get(NAME).state


@pytest.mark.parametrize("code", [69, 70, 137])
def test_lost_nodes_are_replaced_ten_times(code: int, running: trainer.Jobs, api: KubeApi) -> None:
    """A rank that lost another, or was killed, costs one of the restarts; then the job fails."""
    for _ in range(MOST_RESTARTS):
        api.end(NAME, code)
        api.run(NAME)
    assert ("Running", {NAME: MOST_RESTARTS}) == (running.get(NAME).state, api.restarts)
    api.end(NAME, code)
    assert "Failed" == running.get(NAME).state


def test_lines_are_followed_over_breaks_and_restarts(running: trainer.Jobs, api: KubeApi) -> None:
    """A dropped connection and a replaced pod neither lose nor repeat a line."""
    api.breaks = [1, 2]
    api.say(NAME, "one", "two", "three")
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(running.logs(NAME, follow=True)))
    thread.start()
    until(lambda: 3 <= api.asked.count("get pods/log"), "two breaks", 10)
    time.sleep(0.1)
    with api.lock:
        api.end(NAME, 75)
        api.run(NAME)
        api.say(NAME, "four")
        for node in (0, 1):
            api.end(NAME, 0, node)
    thread.join(10)
    assert ["one", "two", "three", "four"] == seen


def test_a_job_that_has_not_started_is_followed(
    jobs: trainer.Jobs, api: KubeApi, objects: list[dict[str, Any]]
) -> None:
    """Kubeflow's client returns no line of a pod that is pending, and ends."""
    jobs.submit(objects)
    assert [] == list(jobs.client.get_job_logs(NAME, follow=True))
    ended = _in_background(lambda: list(jobs.logs(NAME, follow=True)))
    time.sleep(3 * POLL)
    with api.lock:
        api.run(NAME)
        api.say(NAME, "one")
        for node in (0, 1):
            api.end(NAME, 0, node)
    assert ["one"] == ended()


def test_a_wait_outlasts_a_server_that_is_away(running: trainer.Jobs, api: KubeApi) -> None:
    """Refused connections and answers of 503 are asked again."""
    ended = _in_background(lambda: running.wait(NAME, 60))
    with api.away():
        time.sleep(0.2)
    api.busy = 3
    for node in (0, 1):
        api.end(NAME, 0, node)
    assert "Complete" == ended().state


def test_a_server_that_stays_away_is_said(
    running: trainer.Jobs, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, after the time that is put up with."""
    monkeypatch.setattr(trainer, "AWAY_SECONDS", 0.1)
    with api.away():
        for ask in (lambda: running.wait(NAME, 60), running.all, lambda: running.delete(NAME)):
            with pytest.raises(trainer.ClusterAwayError, match=r"^cannot .* does not answer: .*"):
                ask()


def test_a_server_that_says_nothing_is_not_waited_for(
    running: trainer.Jobs, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request has a limit; Kubeflow's client sets none."""
    monkeypatch.setattr(trainer, "ANSWER_SECONDS", 0.2)
    with api.lock, pytest.raises(trainer.ClusterAwayError, match="does not answer"):
        running.get(NAME)


@pytest.mark.parametrize(
    ("ask", "rule", "expected"),
    [
        (
            "submit",
            ("create", "trainjobs"),
            f"cannot make the job {NAME}: you may not in namespace",
        ),
        (
            "submit",
            ("get", "clustertrainingruntimes"),
            "cannot use the runtime feastrain-torch: you",
        ),
        ("get", ("get", "trainjobs"), f"cannot read the job {NAME}: you may not in namespace"),
        ("get", ("list", "pods"), "cannot list pods: you may not in namespace"),
        ("logs", ("get", "pods/log"), f"cannot read the log of {NAME}: you may not in namespace"),
        ("events", ("list", "events"), f"cannot read events of the job {NAME}: you may not"),
        ("stop", ("patch", "trainjobs"), f"cannot stop or start the job {NAME}: you may not"),
        ("delete", ("delete", "trainjobs"), f"cannot delete the job {NAME}: you may not"),
    ],
)
def test_what_is_forbidden_is_said_in_one_line(
    ask: str,
    rule: tuple[str, str],
    expected: str,
    jobs: trainer.Jobs,
    api: KubeApi,
    objects: list[dict[str, Any]],
) -> None:
    """Which step, where, and what the cluster says of it."""
    if ask != "submit":
        jobs.submit(objects)
        api.run(NAME)
    api.forbidden.add(rule)
    act = getattr(jobs, ask)
    with pytest.raises(UsageError) as told:
        list(act(objects if ask == "submit" else NAME) or ())
    assert str(told.value).startswith(expected)
    assert "\n" not in str(told.value)


def test_a_job_runs_without_its_budget(
    jobs: trainer.Jobs,
    api: KubeApi,
    objects: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A user who may not make a PodDisruptionBudget is told, and the job runs."""
    api.forbidden.add(("create", "poddisruptionbudgets"))
    assert NAME == jobs.submit(objects)
    assert "nothing keeps several nodes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "memory", "expected"),
    [
        (NAME, "lots", "'lots' does not match"),
        ("Tiny_1", "1Gi", "metadata.name must match RFC 1035"),
    ],
)
def test_what_the_schemas_refuse_is_said(
    name: str, memory: str, expected: str, jobs: trainer.Jobs, objects: list[dict[str, Any]]
) -> None:
    """Kubeflow's models take anything; the server's 422 becomes one line."""
    crds.require_crds()
    objects[0]["metadata"]["name"] = name
    objects[0]["spec"]["trainer"]["resourcesPerNode"]["limits"]["memory"] = memory
    with pytest.raises(UsageError, match="the cluster refuses it: ") as told:
        jobs.submit(objects)
    assert expected in str(told.value)


def test_the_role_of_the_docs_is_what_is_asked(running: trainer.Jobs, api: KubeApi) -> None:
    """Every right of it is needed, and no other; its YAML is what Kubernetes takes."""
    text = (Path(__file__).parents[1] / "docs" / "kubernetes.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    role, claim = yaml.safe_load_all(block)
    assert [] == crds.faults(role) + crds.faults(claim)
    running.all()
    for ask in ("events", "logs", "stop", "resume", "delete"):
        list(getattr(running, ask)(NAME) or ())
    granted = {
        f"{verb} {resource}"
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    # May be forbidden: the client only looks there for a version that it warns of.
    asked = set(api.asked) - {"get configmaps", "get clustertrainingruntimes"}
    assert granted == asked


def test_a_missing_runtime_is_said_with_its_remedy(
    jobs: trainer.Jobs, api: KubeApi, objects: list[dict[str, Any]]
) -> None:
    """One line names the command that makes it."""
    api.objects.clear()
    with pytest.raises(UsageError, match="the cluster has none; `feastrain render"):
        jobs.submit(objects)


def test_a_run_is_sent_once(running: trainer.Jobs, objects: list[dict[str, Any]], api: Any) -> None:
    """Sent again it is the same job; once it has ended, one line says what to do."""
    assert NAME == running.submit(objects)
    api.end(NAME, 3)
    with pytest.raises(UsageError, match="it is Failed: delete it, and send it again"):
        running.submit(objects)
    with pytest.raises(UsageError, match="has ended: it is Failed"):
        running.stop(NAME)


def test_a_race_for_one_name_is_said(
    jobs: trainer.Jobs, api: KubeApi, objects: list[dict[str, Any]], monkeypatch: Any
) -> None:
    """Of two that make the same job at once, one hears so."""
    jobs.submit(objects)
    monkeypatch.setattr(jobs, "_find", lambda _: None)
    with pytest.raises(UsageError, match=f'made or changed it: trainjobs "{NAME}" already exists'):
        jobs.submit(objects)


def test_a_queued_job_is_not_stopped(
    jobs: trainer.Jobs, api: KubeApi, objects: list[dict[str, Any]]
) -> None:
    """Kueue would start it again, so the line says what to do instead."""
    objects[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "research"
    jobs.submit(objects)
    with pytest.raises(UsageError, match=r"the queue research would start the job .* delete it"):
        jobs.stop(NAME)


@pytest.mark.parametrize("ask", ["get", "stop", "resume", "delete", "events", "logs"])
def test_a_job_that_is_not_there_is_said(ask: str, jobs: trainer.Jobs) -> None:
    """One line, whatever is asked of it."""
    with pytest.raises(UsageError, match=r"^cannot .*: there is none in namespace default: .*"):
        list(getattr(jobs, ask)("absent") or ())


def test_events_are_those_of_the_job(running: trainer.Jobs, api: KubeApi) -> None:
    """What the cluster noted of the job and its pods, in order."""
    (pod, _) = [one["metadata"]["name"] for one in api.all("pods", "default")]
    api.note("TrainJob", "other", "Created", "is not ours")
    api.note("Pod", pod, "FailedScheduling", "0/3 nodes are available")
    api.note("TrainJob", NAME, "Resumed", "admitted by the queue")
    told = [(event.reason, event.message) for event in running.events(NAME)]
    scheduling = ("FailedScheduling", "0/3 nodes are available")
    assert [scheduling, ("Resumed", "admitted by the queue")] == told
    assert datetime(2026, 1, 5, tzinfo=UTC) < running.events(NAME)[0].event_time


def test_a_wait_has_an_end(running: trainer.Jobs) -> None:
    """A job that is still at work goes on."""
    with pytest.raises(FeastrainError, match="is Running after 0 s; it goes on"):
        running.wait(NAME, 0)


def test_a_job_is_looked_at_until_it_ends(running: trainer.Jobs, api: KubeApi) -> None:
    """However often it is found at work."""
    ended = _in_background(lambda: running.wait(NAME, 60, POLL))
    until(lambda: 3 <= api.asked.count("get trainjobs"), "several looks", 10)
    for node in (0, 1):
        api.end(NAME, 0, node)
    assert "Complete" == ended().state


def test_a_job_that_failed_without_a_rank_says_why(running: trainer.Jobs, api: KubeApi) -> None:
    """The cluster ended it, and no node left with a code."""
    job = api.find("trainjobs", "default", NAME)
    api._condition(job, "Failed", "True", "was active for longer than its deadline")
    told = f"^the job {NAME} failed: was active for longer than its deadline$"
    with pytest.raises(FeastrainError, match=told):
        running.wait(NAME, 5)


def test_a_request_may_have_a_shorter_limit(running: trainer.Jobs, api: KubeApi) -> None:
    """One that says how long it waits is not made to wait longer."""
    with api.lock, pytest.raises(MaxRetryError, match=r"read timeout=0\.1"):
        running._core.list_namespaced_pod("default", _request_timeout=(0.1, 0.1))


def test_an_error_of_kubeflows_client_is_not_the_clusters(
    jobs: trainer.Jobs, api: KubeApi, objects: list[dict[str, Any]]
) -> None:
    """What it makes nothing of is shown with its place, not said to be an answer."""
    for (kind, _, _), one in api.objects.items():
        if kind == "clustertrainingruntimes":
            del one["metadata"]["name"]
    with pytest.raises(RuntimeError, match="Failed to get"):
        jobs.submit(objects)


def test_an_unknown_user_and_cluster_are_said(
    jobs: trainer.Jobs, api: KubeApi, tmp_path: Path, use: Use
) -> None:
    """A stale token, a kubeconfig that is not there, a context that it has not."""
    use(api.kubeconfig(tmp_path, "stale"))
    with pytest.raises(UsageError, match="the cluster does not know you: log in again"):
        trainer.Jobs(Cluster()).get(NAME)
    with pytest.raises(UsageError, match=r"no cluster is known: .*FEASTRAIN_CLUSTER_CONTEXT"):
        trainer.Jobs(Cluster(context="elsewhere"))
    use(tmp_path / "none")
    with pytest.raises(UsageError, match=r"no cluster is known: .*KUBECONFIG"):
        trainer.Jobs(Cluster())


def test_the_server_refuses_what_webhooks_do(api: KubeApi, objects: list[dict[str, Any]]) -> None:
    """Variables of the controller, variables of the node by a patch, a change of a sent job."""
    job = objects[0]
    job["spec"]["trainer"]["env"] = [{"name": "PET_NNODES", "value": "3"}]
    with pytest.raises(Refused, match=r"PET_NNODES.* is reserved"):
        api.make("trainjobs", "default", job)
    del job["spec"]["trainer"]["env"]
    api.make("trainjobs", "default", job)
    crds.require_crds()
    steps = [{"op": "replace", "path": "/spec/trainer/numNodes", "value": 3}]
    with pytest.raises(Refused, match="field is immutable"):
        api.change("trainjobs", "default", NAME, steps)


def _in_background(act: Any) -> Any:
    """Start something in a thread; return what waits for its outcome, a value or an error."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(act())
        except FeastrainError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def wait() -> Any:
        thread.join(10)
        return outcome[0]

    return wait


def test_the_verbs_do_what_they_say(
    running: trainer.Jobs, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """List, log, stop and resume on the command line; one that fails ends `wait` with its code."""
    monkeypatch.setenv("COLUMNS", "160")

    def asked(verb: str, *words: str) -> Any:
        return CliRunner().invoke(app, ["jobs", verb, *words, "--on", "kubernetes"])

    assert NAME in asked("list").stdout
    (told,) = json.loads(asked("list", "--json").stdout)
    assert (NAME, "Running", 2) == (told["name"], told["state"], told["nodes"])
    api.say(NAME, "epoch 1")
    assert "epoch 1\n" == asked("logs", NAME).stdout
    assert 0 == asked("stop", NAME).exit_code
    assert "Suspended" == running.get(NAME).state
    assert 0 == asked("resume", NAME).exit_code
    api.run(NAME)
    api.end(NAME, 3)
    assert isinstance(asked("wait", NAME).exception, DataError)
    assert 0 == asked("delete", NAME).exit_code
    assert [] == running.all()


def test_a_recipe_is_trained_on_a_cluster_from_the_command_line(
    demand: Project, jobs: trainer.Jobs, api: KubeApi, tmp_path: Path
) -> None:
    """What a dry run prints is what is sent, and a second call finds the job there."""
    crds.require_crds()
    project = Project(shutil.copytree(demand.root, tmp_path / "demand", symlinks=True))
    recipe = project.recipe_path("smoke")
    recipe.write_text(recipe.read_text().replace("epochs: 1", "epochs: 2"))
    asked, cluster = CliRunner(), ["--on", "kubernetes", "--nodes", "2"]
    command = ["train", "smoke", "--project", str(project.root), *cluster]
    shown = asked.invoke(app, [*command, "--dry-run"], catch_exceptions=False).stdout
    job, budget = yaml.safe_load_all(shown[shown.index("---") :])
    assert [] == jobs.all()
    told = asked.invoke(app, [*command, "--json"], catch_exceptions=False).stdout
    assert {"job": job["metadata"]["name"]} == json.loads(told)
    for one, resource in ((job, "trainjobs"), (budget, "poddisruptionbudgets")):
        sent = api.find(resource, "default", job["metadata"]["name"])
        assert crds.defaulted(one)["spec"] == sent["spec"]
    asked.invoke(app, command, catch_exceptions=False)
    assert 1 == len(jobs.all())
    api.run(job["metadata"]["name"])
    for node in (0, 1):
        api.end(job["metadata"]["name"], 0, node)
    with pytest.raises(FeastrainError, match=r"is complete, but its bundle is not in .*/bundles/"):
        follow(jobs, job["metadata"]["name"], project._run("smoke"))
