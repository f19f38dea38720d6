"""A rendered run as a Helm chart, for GitOps: what one may change without rendering again.

The objects are rendered with marks in place of those values, and each mark becomes an action of
Helm's. A chart of unchanged values makes the very objects that `render` prints; the tests compare.
What a run computes is not a value: it is frozen in the store, in the run's own folder.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import yaml

from goku_platform.jobs import names
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import kinds
from goku_platform.settings import Kind


class _Value(NamedTuple):
    """One key of values.yaml."""

    key: str
    comment: str

    @property
    def mark(self) -> str:
        """Stands for the value while the objects are rendered; unlike anything else in them."""
        return f"goku-value-{self.key}"


_IMAGE = _Value("image", "Of the run's pods. A moved tag would let a restarted pod run other code.")
_NAMESPACE = _Value("namespace", "Empty: the release's.")
_QUEUE = _Value("queue", "Kueue's LocalQueue. Empty: the job starts at once.")
_PRIORITY = _Value("priorityClass", "Kueue's WorkloadPriorityClass. Empty: its default.")
_STORE = _Value("store", "Holds the run's folder. Change it only together with that folder.")

_ACTIONS = {
    _IMAGE.mark: "{{ .Values.image | quote }}",
    _NAMESPACE.mark: "{{ .Values.namespace | default .Release.Namespace | quote }}",
    _QUEUE.mark: "{{ .Values.queue | quote }}",
    _PRIORITY.mark: "{{ .Values.priorityClass | quote }}",
}
_LEFT_OUT_WHEN_EMPTY = (_QUEUE, _PRIORITY)


def files(spec: JobSpec) -> Mapping[str, str]:
    """The chart's files, by path."""
    return {
        "Chart.yaml": _chart(spec),
        "values.yaml": _values(spec),
        "templates/job.yaml": _templates(spec),
        "templates/NOTES.txt": _NOTES.format(
            name=spec.name,
            preset=spec.labels[names.PRESET],
            digest=spec.annotations[names.CONFIG_DIGEST],
        ),
    }


_NOTES = """\
Run {name} of {{{{ .Values.store }}}}, in namespace
{{{{ .Values.namespace | default .Release.Namespace }}}}.

Its configuration, of digest {digest}, must be in the store before the first pod starts. Freeze
it with the --size, --from and --set that this chart was rendered with: another would be trained.
    goku-platform render {preset} --name {name} --store {{{{ .Values.store }}}} --freeze ...
Watch it:
    goku-platform status {name} --store {{{{ .Values.store }}}}
"""


def _chart(spec: JobSpec) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v2",
            "name": spec.name,
            "description": f"Run {spec.name}, rendered by goku-platform",
            "type": "application",
            "version": "1.0.0",  # one run, rendered once; our own version may be no SemVer
            "appVersion": spec.code_version or "unknown",
        },
        sort_keys=False,
    )


def _values(spec: JobSpec) -> str:
    place = spec.placement
    given = {
        _IMAGE: place.ray_image if place.kind is Kind.RAYJOB else place.image,
        _NAMESPACE: place.namespace,
        _QUEUE: place.queue or "",
        _PRIORITY: place.priority_class or "",
        _STORE: _store(spec),
    }
    lines = [f"# {value.comment}\n{value.key}: {json.dumps(text)}" for value, text in given.items()]
    return "\n".join(lines) + "\n"


def _store(spec: JobSpec) -> str:
    return spec.run_uri.removesuffix(f"/{spec.name}")


def _templates(spec: JobSpec) -> str:
    text = yaml.safe_dump_all(kinds.render(_marked(spec)), sort_keys=False, width=1000)
    text = text.replace("{{", '{{ "{{" }}')
    for value in _LEFT_OUT_WHEN_EMPTY:
        condition = rf"{{{{- if .Values.{value.key} }}}}\n\1{{{{- end }}}}\n"
        text = re.sub(rf"(?m)^( *\S+: {value.mark}\n)", condition, text)
    for mark, action in _ACTIONS.items():
        text = text.replace(mark, action)
    uri = f'{{{{ printf "%s/{spec.name}" (.Values.store | trimSuffix "/") | quote }}}}'
    return text.replace(_STORE.mark, uri)


def _marked(spec: JobSpec) -> JobSpec:
    place = replace(
        spec.placement,
        image=_IMAGE.mark,
        ray_image=_IMAGE.mark,
        namespace=_NAMESPACE.mark,
        queue=_QUEUE.mark,
        priority_class=_PRIORITY.mark,
    )
    return replace(
        spec,
        placement=place,
        run_uri=_STORE.mark,
        env={key: _STORE.mark if text == spec.run_uri else text for key, text in spec.env.items()},
        annotations={**spec.annotations, names.RUN_URI: _STORE.mark},
    )
