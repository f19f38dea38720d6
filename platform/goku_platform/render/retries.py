"""Which exit codes start a run again, in the words of batch Jobs and JobSets.

The second line: supervisors agree on one exit code (`goku.contract.exits`), and the ledger keeps
the restart budget. These rules see that the agreed code is obeyed, and that a pod that vanished
without a code is replaced. Codes are matched against the list of those that are retried, since the
final ones are most of 1 to 127.
"""

from typing import Any

# 129 to 143: ended by a signal, or an exit of ours that says as much. 255: the runtime lost it.
# 128 is left out: the container could not be started, and never will.
RETRIED = (129, 130, 131, 132, 134, 135, 136, 137, 138, 139, 141, 143, 255)

# Not a budget: the largest that reads as "for ever". It counts pods that left no exit code.
UNCOUNTED = 1_000_000


def _disrupted() -> dict[str, Any]:
    return {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _codes(container: str, operator: str) -> dict[str, Any]:
    return {
        "onExitCodes": {
            "containerName": container,
            "operator": operator,
            "values": list(RETRIED),
        }
    }


def replace_pods(container: str) -> dict[str, Any]:
    """`podFailurePolicy` of a plain Job: one pod is replaced, and the gang waits for it."""
    return {
        "rules": [
            {"action": "Ignore", **_disrupted()},  # evicted: it may answer SIGTERM with any code
            {"action": "FailJob", **_codes(container, "NotIn")},
            {"action": "Ignore", **_codes(container, "In")},
        ]
    }


def replace_gang(container: str) -> dict[str, Any]:
    """`podFailurePolicy` of a JobSet's Job: it ends either way, and its message says by which rule.

    Ending the Job is what ends every other pod; the JobSet then makes all of them again.
    """
    return {
        "rules": [
            {"action": "FailJob", **_disrupted()},
            {"action": "FailJob", **_codes(container, "NotIn")},  # rule 1: see below
            {"action": "FailJob", **_codes(container, "In")},
        ]
    }


def jobset() -> dict[str, Any]:
    """`failurePolicy`: the first rule that matches. It sees only a Job's reason and message."""
    return {
        "maxRestarts": UNCOUNTED,
        "rules": [
            {
                "name": "final",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
                "onJobFailureMessagePatterns": [".*matching FailJob rule at index 1.*"],
            },
            {
                "name": "retried",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
            },
            {"name": "vanished", "action": "RestartJobSet"},
        ],
    }
