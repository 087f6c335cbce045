"""`realm doctor`: check the machine and the realm; `realm doctor kill-test`: prove that kills lose nothing."""

from __future__ import annotations

import typer

from realm.cli import context
from realm.cli.context import table


def register(app: typer.Typer) -> None:
    doctor = typer.Typer(help="Check this machine and this realm.", invoke_without_command=True)
    doctor.callback()(examine)
    doctor.command("kill-test")(kill_test)
    app.add_typer(doctor, name="doctor")


def examine(ctx: typer.Context) -> None:
    """Check this machine and this realm; each line says what to do. Exit code 1 when something fails."""
    if ctx.invoked_subcommand is not None:
        return
    from realm.doctor import examine as look
    from realm.doctor import worst

    findings = look(context.settings())
    rows = [(finding.level, finding.name, f"{finding.words} {finding.advice}".strip()) for finding in findings]
    value = [vars(finding) for finding in findings]
    context.show(value, table(rows, ("", "what", "found")))
    if worst(findings) == "fail":
        raise typer.Exit(1)


def kill_test(
    kills: int = typer.Option(10, "--kills", min=1, max=100_000, help="How many times to kill -9."),
    seed: int = typer.Option(0, "--seed", help="The same seed kills by the same plan."),
    steps: int = typer.Option(
        0, "--steps", min=0, help="Optimizer steps of the test run (default: enough for the kills)."
    ),
    keep: bool = typer.Option(False, "--keep", help="Leave the temporary homes for inspection."),
) -> None:
    """Train in a temporary home, kill -9 trainer and daemon at random, and compare with an undisturbed run."""
    from realm.killtest import run_kill_test

    verdict = run_kill_test(kills=kills, seed=seed, steps=steps or None, keep=keep, say=context.say)
    rows = [("ok" if check.passed else "FAIL", check.name, check.words) for check in verdict.checks]
    context.show(verdict.to_dict(), table(rows, ("", "claim", "found")))
    if not verdict.passed:
        raise typer.Exit(1)
