"""`status`: one screen about a run, once or live."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from goku.contract.attempts import Attempt
    from goku_platform.cli.output import Facts
    from goku_platform.runs.status import Status, Training

_COLUMNS = ("", "cause", "code", "steps", "lost", "world", "time", "goodput", "message")


def status(
    run: options.RunName,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", "-w", help="Show every change until the run ends; JSON is one line each."
        ),
    ] = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Show how a run stands, and what to do next.

    Its state, why it waits, its pods and the first trouble, every attempt with the cause of its
    end, steps done, durable and lost, pace, goodput and cost.
    """
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, show
    from goku_platform.runs.status import status
    from goku_platform.runs.watch import watch as changes

    with limit(timeout, "status"):
        found, settings, client = options.choose(run, profile, store, timeout)
        state = status(found, client, settings=settings)
    if watch:
        _follow(changes(found, client, settings), as_json=as_json)
    elif as_json:
        emit_json(state)
    else:
        show(screen(state))


def screen(state: "Status") -> "RenderableType":
    """Everything about a run that a person wants to see first."""
    from rich.console import Group
    from rich.text import Text

    from goku_platform.cli.output import count, fact_lines, grid

    lines = fact_lines(
        {
            "run": state.uri,
            "state": f"{state.state}{f' ({state.section})' if state.section else ''}: "
            f"{state.words}",
            "waits for": _waiting(state),
            "pods": ", ".join(f"{n} {phase}" for phase, n in sorted(state.pods.items())) or None,
            "trouble": state.trouble or None,
            "job": f"{state.job} ({state.preset})",
            "model": f"{count(state.parameters)} parameters" if state.training else None,
            **(_progress(state, state.training) if state.training else {}),
            "goodput": _goodput(state),
            "seconds": _seconds(state.attempts),
            "cost": _cost(state),
            "lives as": state.place or None,
            "metrics": state.metrics_url,
            "next": f"{state.advice}{_where(state)}",
        }
    )
    text = Text("\n".join(lines))
    if not state.attempts:
        return text
    return Group(text, grid(_COLUMNS, (_row(attempt) for attempt in state.attempts)))


def _follow(states: "Iterator[Status]", *, as_json: bool) -> None:
    """Ctrl-C ends the watching, not the run."""
    from goku_platform.cli.output import emit_line

    if as_json:
        for state in states:
            emit_line(state)
        return
    with _shown() as show:
        for state in states:
            show(screen(state))


@contextmanager
def _shown() -> "Iterator[Callable[[RenderableType], Any]]":
    """How to show a screen: in the place of the last one on a terminal, below it elsewhere."""
    from goku_platform.cli.output import console, show

    if not sys.stdout.isatty():
        yield show
        return
    from rich.live import Live

    with Live(console=console(), auto_refresh=False) as live:
        yield lambda one: live.update(one, refresh=True)


def _waiting(state: "Status") -> str | None:
    if not state.waiting:
        return None
    if state.queue_position is None:
        return state.waiting
    return f"{state.waiting} ({state.queue_position} before it in the queue)"


def _progress(state: "Status", training: "Training") -> "Facts":
    from goku_platform.cli.output import duration

    step = 0 if training.step is None else training.step
    pace = None
    if training.step_seconds:
        pace = f"{duration(training.step_seconds)} a step, {duration(training.eta_seconds)} to go"
    return {
        "step": f"{step} of {training.target_step}",
        "durable": "nothing yet" if training.durable_step is None else str(training.durable_step),
        "lost": f"{state.lost_steps} steps were not saved in time" if state.lost_steps else None,
        "loss": None if training.loss is None else f"{training.loss:.4f}",
        "pace": pace,
        "samples": _samples(state),
    }


def _samples(state: "Status") -> str | None:
    """Only where they changed: their order is then not that of a run without a break."""
    if len(state.sample_sets) < 2:
        return None
    sets = (f"{one.samples} from attempt {one.attempt} on" for one in state.sample_sets)
    return f"{', '.join(sets)}: see logs --attempt {state.sample_sets[-1].attempt}"


def _goodput(state: "Status") -> str | None:
    from goku_platform.cli.output import share

    return share(state.goodput)


def _cost(state: "Status") -> str | None:
    if not state.gpu_hours:
        return None
    price = "" if state.cost is None else f"{state.cost:,.2f}: "
    return f"{price}{state.gpu_hours:,.2f} GPU hours so far"


def _where(state: "Status") -> str:
    return f" (output so far: {state.log})" if state.log and not state.attempts else ""


def _row(attempt: "Attempt") -> tuple[str, ...]:
    from goku_platform.cli.output import duration, number, share
    from goku_platform.runs.status import goodput

    ended = attempt.ended_at
    return (
        str(attempt.number),
        attempt.cause,
        number(attempt.exit_code),
        f"{number(attempt.first_step)} to {number(attempt.last_step)}",
        str(attempt.lost_steps),
        f"{attempt.nodes} x {attempt.processes_per_node}",
        "-" if ended is None else duration(ended - attempt.started_at),
        share(goodput([attempt.seconds])) or "-",
        attempt.message,
    )


def _seconds(attempts: "tuple[Attempt, ...]") -> str | None:
    """Where the time of all attempts went, the most first."""
    total: Counter[str] = Counter()
    for attempt in attempts:
        total.update(attempt.seconds)
    spent = [f"{name} {value:.0f}" for name, value in total.most_common() if value >= 0.5]
    return ", ".join(spent) or None
