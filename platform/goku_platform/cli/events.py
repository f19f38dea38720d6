"""`events`: what happened to a run's job and pods on its target."""

from datetime import UTC, datetime

import typer

from goku_platform.cli import options


def events(
    run: options.RunName,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """List what a cluster did to a run's job.

    And to its pods, oldest first. Clusters usually forget events after an hour.
    """
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, table

    with limit(timeout, "events"):
        found, _, client = options.choose(run, profile, store, timeout)
        happened = client.events(found.uri)
    if as_json:
        emit_json([event._asdict() for event in happened])
        return
    if not happened:
        typer.echo(f"the target knows of no event of {found.name}; see: status, logs")
        return
    rows = (
        (
            datetime.fromtimestamp(event.at, UTC).strftime("%H:%M:%SZ"),
            "warning" if event.warning else "",
            event.about,
            event.reason if event.times == 1 else f"{event.reason} x{event.times}",
            event.message,
        )
        for event in happened
    )
    table(("at", "", "about", "reason", "message"), rows)
