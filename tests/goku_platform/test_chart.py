"""The chart of a rendered run, as far as it can be judged without Helm (see tests/cluster)."""

import yaml

from goku_platform.jobs import names
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import chart
from goku_platform.settings import Kind
from tests.goku_platform import rendering


def files(spec: JobSpec) -> dict[str, str]:
    return dict(chart.files(spec))


def test_values_are_those_of_the_run() -> None:
    values = yaml.safe_load(files(rendering.two_gpu_nodes(Kind.PYTORCHJOB))["values.yaml"])
    assert values == {
        "image": "registry.example/goku-platform:1.2.3",
        "namespace": "video",
        "queue": "research",
        "priorityClass": "production",
        "store": "s3://bucket/runs",
    }


def test_every_value_is_used_and_no_mark_is_left() -> None:
    for kind in Kind:
        made = files(rendering.two_gpu_nodes(kind))
        for key in yaml.safe_load(made["values.yaml"]):
            assert f".Values.{key}" in made["templates/job.yaml"], (kind, key)
        assert not [name for name, text in made.items() if "goku-value-" in text]


def test_every_value_has_its_comment() -> None:
    lines = files(rendering.one_cpu_node(Kind.JOB))["values.yaml"].splitlines()
    assert all(comment.startswith("# ") for comment in lines[::2])
    assert not any(value.startswith("#") for value in lines[1::2])


def test_the_notes_say_which_configuration_to_freeze() -> None:
    spec = rendering.two_gpu_nodes(Kind.JOBSET)
    notes = files(spec)["templates/NOTES.txt"]
    assert f"of digest {spec.annotations[names.CONFIG_DIGEST]}," in notes
    assert "--size, --from and --set that this chart was rendered with" in notes
    assert f"render {spec.labels[names.PRESET]} --name {spec.name} --store {{{{" in notes


def test_what_looks_like_an_action_is_text() -> None:
    profile = rendering.CPU.model_copy(update={"env": {"TEMPLATE": "{{ .Release.Name }}"}})
    spec = rendering.spec(rendering.curation(profile), profile, Kind.JOB)
    assert """'{{ "{{" }} .Release.Name }}'""" in files(spec)["templates/job.yaml"]
