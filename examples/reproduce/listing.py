"""`--list`: the stages of what was asked for, those that are done with what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rows import Cell
from store import Stage, Store


def list_stages(cells: Sequence[Cell], store: Store, splits: Sequence[str]) -> str:
    """A line for each stage in the order of the work, and a summary by kind with an estimate of what is open."""
    stages: dict[str, Stage] = {}
    for cell in cells:
        for end in [*cell.rounds, *(cell.evaluations[split] for split in splits)]:
            stages.update((stage.digest, stage) for stage in end.chain())
    lines, seconds, open_stages = [], defaultdict(list), defaultdict(int)
    for stage in stages.values():
        if store.is_done(stage):
            record = store.record(stage)
            seconds[stage.kind].append(record["seconds"])
            memory = max(record["memory"], record["accelerator_memory"]) / 1e9
            lines.append(f"done  {record['seconds']:8.0f} s {memory:6.1f} GB  {stage.kind:<12} {stage.label}")
        else:
            open_stages[stage.kind] += 1
            lines.append(f"open                       {stage.kind:<12} {stage.label}")
    lines.append("")
    total = 0.0
    for kind in dict.fromkeys(stage.kind for stage in stages.values()):
        done = seconds[kind]
        left = open_stages[kind] * (sum(done) / len(done) if done else 0.0)
        total += left
        guess = f", about {left / 60:.0f} min left" if done and open_stages[kind] else ""
        lines.append(f"{kind:<12} {len(done)} done ({sum(done) / 60:.0f} min), {open_stages[kind]} open{guess}")
    unknown = [kind for kind, number in open_stages.items() if number and not seconds[kind]]
    lines.append(
        f"About {total / 60:.0f} min left" + (f", and {', '.join(unknown)}, not measured yet." if unknown else ".")
    )
    return "\n".join(lines)
