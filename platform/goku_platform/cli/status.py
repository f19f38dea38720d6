"""`status`: one screen about a run."""

from collections import Counter
from typing import TYPE_CHECKING

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku.contract.attempts import Attempt
    from goku_platform.runs.status import Status, Training


def status(
    run: options.RunName,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    as_json: options.Json = False,
) -> None:
    """Show how a run stands, why its attempts ended, and what to do next."""
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.status import status

    found, _, client = options.choose(run, profile, store)
    state = status(found, client)
    if as_json:
        emit_json(state)
    else:
        _show(state)


def _show(state: "Status") -> None:
    from goku_platform.cli.output import count, facts, table

    facts(
        {
            "run": state.uri,
            "state": f"{state.state}{f' ({state.section})' if state.section else ''}",
            "job": f"{state.job} ({state.preset})",
            "model": f"{count(state.parameters)} parameters" if state.training else None,
            **(_progress(state.training) if state.training else {}),
            "goodput": _share(state.goodput),
            "seconds": _seconds(state.attempts),
            "lives as": state.place or None,
            "metrics": state.metrics_url,
            "next": f"{state.advice}{_where(state)}",
        }
    )
    if state.attempts:
        columns = ("", "cause", "code", "steps", "lost", "world", "time", "goodput", "message")
        table(columns, (_row(attempt) for attempt in state.attempts))


def _progress(training: "Training") -> dict[str, str | None]:
    from goku_platform.cli.output import duration

    step = 0 if training.step is None else training.step
    pace = None
    if training.step_seconds:
        pace = f"{duration(training.step_seconds)} a step, {duration(training.eta_seconds)} to go"
    return {
        "step": f"{step} of {training.target_step}",
        "durable": "nothing yet" if training.durable_step is None else str(training.durable_step),
        "loss": None if training.loss is None else f"{training.loss:.4f}",
        "pace": pace,
    }


def _where(state: "Status") -> str:
    return f" (output so far: {state.log})" if state.log and not state.attempts else ""


def _row(attempt: "Attempt") -> tuple[str, ...]:
    from goku_platform.cli.output import duration
    from goku_platform.runs.status import goodput

    ended = attempt.ended_at
    return (
        str(attempt.number),
        attempt.cause,
        "-" if attempt.exit_code is None else str(attempt.exit_code),
        f"{_number(attempt.first_step)} to {_number(attempt.last_step)}",
        str(attempt.lost_steps),
        f"{attempt.nodes} x {attempt.processes_per_node}",
        "-" if ended is None else duration(ended - attempt.started_at),
        _share(goodput([attempt.seconds])) or "-",
        attempt.message,
    )


def _seconds(attempts: "tuple[Attempt, ...]") -> str | None:
    """Where the time of all attempts went, the most first."""
    total: Counter[str] = Counter()
    for attempt in attempts:
        total.update(attempt.seconds)
    spent = [f"{name} {value:.0f}" for name, value in total.most_common() if value >= 0.5]
    return ", ".join(spent) or None


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _number(step: int | None) -> str:
    return "-" if step is None else str(step)
