"""Golden answers: the working of a problem, written the way its tag asks for.

    direct      add(①⓪①, ①①) = ①⓪⓪⓪
    verify      5 + 3 = 8                       the statement in decimals first
    show-work   ①+①+⓪=①⓪:⓪                      one line a column (see working.py)
    trace       step 1: ①+①+⓪=①⓪ so far ⓪       the same, numbered, with what is known after it

The last line is the functional equation always; what is evaluated is the whole turn.
"""

from __future__ import annotations

from guild.skills.bin.prompts import DIRECT, SHOW_WORK, TRACE, VERIFY, Prompt, expression
from guild.skills.bin.working import work_out


def answer(prompt: Prompt) -> str:
    """Return the assistant's turn."""
    working = work_out(prompt.problem, prompt.notation)
    lines = {
        DIRECT: [],
        VERIFY: [working.check],
        SHOW_WORK: [f"{step.line}:{step.so_far}" if step.shows_so_far else step.line for step in working.steps],
        TRACE: [
            f"step {number}: {step.line} so far {step.so_far}" for number, step in enumerate(working.steps, start=1)
        ],
    }[prompt.tag]
    return "\n".join([*lines, f"{expression(prompt.problem, prompt.notation)} = {working.result}"])
