"""Which way of showing the work does a small model learn fastest? One run of one format.

    python -m experiments.bin_formats.run --format so_far --seconds 70

Trains a fresh squire on BIN levels 1 to 3 (equal shares, eight operations) for so many seconds of CPU
time and prints exact match of the whole turn on known and on held-out problems, by operation. The split
is the skill's own; the last line is the functional equation in every format. What differs is the lines
above it:

    direct       nothing
    columns      add ①+①+⓪=①⓪, comparisons ①?⓪=> (how the numbers compare so far)
    result       as columns, with the result on a line of its own before the equation
    short        ①①:①⓪ for everything: two digits, then carry and digit or (less, greater) so far
    claims       as columns, but comparisons say whether the claim holds so far: ①<⓪=⓪
    verdict      so far digits in sums, a closing a<b in comparisons
    so_far       as claims, and sums show the digits found so far: ①+①+⓪=①⓪:⓪
    shipped      as so_far, with one more column where the last one carries (guild/skills/bin)
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from arena.squire import SquireSize, new_model, train_tokenizer
from guild.corpus import as_chat, plain_sentences
from guild.skills import get_skill
from guild.skills.bin.answers import answer
from guild.skills.bin.notation import PLAIN
from guild.skills.bin.problems import Problem, draw, enumerate_space
from guild.skills.bin.prompts import DIRECT, SHOW_WORK, Prompt, expression, render
from guild.skills.bin.working import work_out

FORMATS = ("direct", "columns", "result", "short", "claims", "verdict", "so_far", "shipped")
SIGNS = {"less_than": "<", "minimum": "<", "greater_than": ">", "maximum": ">", "equals": "="}
D = "⓪①"


def turn(problem: Problem, style: str) -> tuple[str, str]:
    """Return the prompt and the golden answer in a format."""
    tag = DIRECT if style == "direct" else SHOW_WORK
    prompt = Prompt(problem, tag)
    if style in ("direct", "shipped"):
        return render(prompt), answer(prompt)
    value = work_out(problem, PLAIN).result
    lines = sums(problem, style) if problem.operation not in SIGNS else comparisons(problem, style)
    if style == "result" and value[0] in D:
        lines.append(value)
    return render(prompt), "\n".join([*lines, f"{expression(problem, PLAIN)} = {value}"])


def sums(problem: Problem, style: str) -> list[str]:
    unary, minus = len(problem.operands) == 1, problem.operation == "subtract"
    a, b = problem.operands[0], 0 if unary else problem.operands[1]
    carry, so_far, lines, sign = int(unary), "", [], "-" if minus else "+"
    if unary and style == "short":
        b, carry = 1, 0
    for i in range(max(1, a.bit_length(), b.bit_length())):
        x, y = a >> i & 1, b >> i & 1
        total = x - y - carry if minus else x + y + carry
        terms = [x, carry] if unary else [x, y, carry]
        carry, digit = int(total < 0 if minus else total > 1), total & 1
        so_far = D[digit] + so_far
        if style == "short":
            lines.append(f"{D[x]}{D[y]}:{D[carry]}{D[digit]}")
        else:
            line = sign.join(D[term] for term in terms) + f"={D[carry]}{D[digit]}"
            lines.append(f"{line}:{so_far}" if style in ("so_far", "verdict") else line)
    return lines


def comparisons(problem: Problem, style: str) -> list[str]:
    (a, b), sign = problem.operands, SIGNS[problem.operation]
    lines, verdict = [], "="
    for i in range(max(1, a.bit_length(), b.bit_length())):
        x, y = a >> i & 1, b >> i & 1
        if x != y:
            verdict = "<" if x < y else ">"
        if style == "short":
            lines.append(f"{D[x]}{D[y]}:{D[verdict == '<']}{D[verdict == '>']}")
        elif style in ("claims", "so_far"):
            lines.append(f"{D[x]}{sign}{D[y]}={D[verdict == sign]}")
        else:
            lines.append(f"{D[x]}?{D[y]}={verdict}")
    return [*lines, f"a{verdict}b"] if style == "verdict" else lines


def rows(rng: random.Random, level: int, count: int, held_out: bool) -> list[Problem]:
    rules = get_skill("bin").level(level)
    found: list[Problem] = []
    while len(found) < count:
        problem = draw(rng, rules.operations, rules.bits or 0)
        if problem.held_out == held_out:
            found.append(problem)
    return found


def examine(model: Any, tokenizer: Any, level: int, held_out: bool, style: str) -> tuple[float, int, dict[str, float]]:
    import torch

    rules = get_skill("bin").level(level)
    space = [p for p in enumerate_space(rules.operations, rules.bits or 0) if p.held_out == held_out]
    random.Random(7).shuffle(space)
    by_operation = defaultdict(list)
    for start in range(0, min(300, len(space)), 60):
        problems = space[start : start + 60]
        with torch.no_grad():
            logits, targets, mask = predict(model, [encode(tokenizer, chat(p, style)) for p in problems])
        agreed = torch.ones(mask.shape, dtype=torch.bool)
        agreed[mask] = logits.argmax(-1) == targets
        for problem, right in zip(problems, agreed.all(1).tolist(), strict=True):
            by_operation[problem.operation].append(right)
    every = [right for verdicts in by_operation.values() for right in verdicts]
    shares = {name: round(sum(verdicts) / len(verdicts), 2) for name, verdicts in by_operation.items()}
    return sum(every) / len(every), len(every), shares


def chat(problem: Problem, style: str) -> list[dict[str, str]]:
    question, reply = turn(problem, style)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def encode(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Return the tokens of a chat and, for each, whether the template marks it as the assistant's."""
    out = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    return out["input_ids"], out["assistant_masks"]


def predict(model: Any, examples: Sequence[tuple[list[int], list[int]]]) -> tuple[Any, Any, Any]:
    """Return logits and targets at the assistant's tokens, and where those are (batch, position)."""
    import torch

    width = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in examples])
    mask = torch.tensor([marks + [0] * (width - len(marks)) for _, marks in examples])[:, 1:].bool()
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    return model.lm_head(hidden[mask]), ids[:, 1:][mask], mask


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--format", choices=FORMATS, default="shipped")
    parser.add_argument("--seconds", type=float, default=70, help="CPU time of training")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--weights", type=float, nargs="+", help="share of each level")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, nargs=3, default=[4, 2, 32], help="heads, kv heads, head_dim")
    parser.add_argument("--theta", type=float, default=1e4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--wd", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(given.seed)
    counts = [rng.choices(given.levels, given.weights, k=12000).count(level) for level in given.levels]
    problems = [p for level, n in zip(given.levels, counts, strict=True) for p in rows(rng, level, n, False)]
    texts = [as_chat(*turn(problem, given.format)) for problem in problems[::3]]
    tokenizer = train_tokenizer([*texts, *plain_sentences()], vocab_size=1024)
    size = SquireSize(128, given.layers, *given.heads, 384, rope_theta=given.theta)
    model = new_model(len(tokenizer), size, seed=given.seed)
    examples = [encode(tokenizer, chat(problem, given.format)) for problem in problems]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": given.wd}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    used, step = 0.0, 0
    while used < given.seconds:
        started = time.process_time()
        for group in optimizer.param_groups:
            course = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * used / given.seconds))
            group["lr"] = given.lr * min(1, (step + 1) / 50) * course
        logits, targets, _ = predict(model, rng.sample(examples, given.batch))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        used, step = used + time.process_time() - started, step + 1
    print(f"{vars(given)}\n{step} steps, last loss {loss.item():.4f}")
    model.eval()
    for level in (1, 2, 3):
        for held_out in (False, True):
            share, count, by_operation = examine(model, tokenizer, level, held_out, given.format)
            print(f"L{level} {'held out' if held_out else 'known':8} {share:.3f} of {count:3} {by_operation}")


if __name__ == "__main__":
    main()
