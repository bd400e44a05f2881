"""Folders as `unisd train` and `unisd study` leave them, made by hand, with texts that try to get out of the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.study.hand import base_results, finished
from unisd.study.render import save_table
from unisd.study.table import Finished, table_of
from unisd.token_maps.record import SCHEMA_VERSION, Answer, KeptExample, KeptExamples, Measure, TokenMap

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp;\u202egnp.exe\x00"
"""Markup, an entity, a text that runs backwards, and a control character."""
CONFIG = f"""\
model: {{name_or_path: tiny/model, dtype: float32}}
teacher: {{kind: base}}
objective: {{divergence: forward_kl}}
components:
- {{type: agreement}}
training: {{seed: 3, run_name: "{HOSTILE[:31]}"}}
eval: {{limit: 8}}
"""


def token_map(num_tokens: int = 6) -> TokenMap:
    """Tokens of several kinds with a measure of each kind; the last token does not count."""
    tokens = ([HOSTILE, " the", "\n", "  ", "\u732b", "x" * 80] * num_tokens)[:num_tokens]
    numbers = [position / num_tokens for position in range(num_tokens)]
    flags = [float(position % 2) for position in range(num_tokens)]
    top = tuple((HOSTILE, 0.6) if position == 0 else ("a", 0.1) for position in range(5))
    return TokenMap(
        tokens=tuple(tokens),
        is_counted=tuple(position + 1 < num_tokens for position in range(num_tokens)),
        measures=(
            Measure("divergence", "value", (None, *numbers[1:])),
            Measure("agreement/weight_mean", "weight", tuple(numbers)),
            Measure("divergence_clip/clipped", "flag", tuple(flags)),
            Measure("loss/contrastive", "value", tuple(numbers)),
            Measure("student_logp", "logp", tuple(-3 * value for value in numbers)),
            Measure("teacher_logp", "logp", tuple(-value for value in numbers)),
        ),
        student_top=(top,) * num_tokens,
        teacher_top=(top,) * num_tokens,
        num_left_out=7,
    )


def kept_examples(num: int = 2, num_tokens: int = 6, source: Any = "held-out") -> KeptExamples:
    """Examples whose every text is hostile."""
    example = KeptExample(
        request=f"Which animal? {HOSTILE}",
        prompt=HOSTILE,
        privileged=HOSTILE,
        before=Answer(f"a dog {HOSTILE}", False, f"not 'a cat' {HOSTILE}"),
        after=Answer("a cat", True),
        token_map=token_map(num_tokens),
    )
    return KeptExamples(SCHEMA_VERSION, source, 40, 0.7, {"contrastive": 0.1}, (example,) * num)


def history(num_steps: int, *, start: float = 2.0) -> list[dict[str, Any]]:
    """A log with losses that fall and an accuracy that rises."""
    return [
        {
            "step": step,
            "loss": start / step,
            "divergence": start / step,
            "completions/mean_length": 12.0 + step % 3,
            "agreement/weight_mean": 0.5,
            "entropy": 1.0,
        }
        for step in range(1, num_steps + 1)
    ] + [{"step": num_steps, "eval_toy_accuracy": 0.75}]


def write_run(folder: Path, **changes: Any) -> Path:
    """The folder of one run; `changes` replace what `metrics.json` holds."""
    folder.mkdir(parents=True)
    left = {
        "final": {"eval_toy_accuracy": 0.75, "eval_loss": 0.5},
        "inert": ["contrastive: no gradient on 99 % of the tokens."],
        "warnings": ["contrastive: no gradient on 99 % of the tokens.", f"completions grew {HOSTILE}"],
        "plan": "pass  weights  context\n1     student  prompt",
        "history": history(40),
    }
    (folder / "metrics.json").write_text(json.dumps({**left, **changes}))
    (folder / "unisd.yaml").write_text(CONFIG)
    kept_examples().save(folder)
    return folder


VARIANTS: dict[str, Sequence[Sequence[int]]] = {
    "sft": ([1, 1, 0, 0, 1, 1, 0, 1], [1, 1, 0, 1, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1, 0, 1]),
    "sdft": ([1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1]),
    "unisd_star": ([0, 0, 0, 0, 0, 0, 0, 1],),
}
"""Outcomes by variant, seed and item."""


def write_study(folder: Path, *, num_steps: int = 40, num_examples: int = 2, num_tokens: int = 6) -> Path:
    """The folder of a study with a base, two variants of three seeds and one of a single seed, one run missing."""
    base = base_results([0, 0, 0, 0, 1, 0, 0, 0], ceiling=0.875)
    base.save(folder / "base-0" / "results.json")
    variants: dict[str, dict[int, Finished]] = {}
    for name, outcomes in VARIANTS.items():
        inert = ("contrastive: no gradient on 99 % of the tokens.",) if name == "unisd_star" else ()
        for seed, correct in enumerate(outcomes):
            run = finished(
                correct,
                seed=seed,
                variant=name,
                inert=inert,
                plan="pass  weights",
                mechanisms={"agreement/weight_mean": 0.5},
                history=history(num_steps, start=2.0 + seed),
            )
            variants.setdefault(name, {})[seed] = run
            place = folder / f"{name}-seed{seed}-0"
            run.results.save(place / "results.json")
            run.training.save(place)
            (place / "unisd.yaml").write_text(CONFIG)
            (place / "train").mkdir()
            kept_examples(num_examples, num_tokens, "training").save(place / "train")
    table = table_of(
        base,
        variants,
        baseline="sft",
        baselines={"sft": None, "sdft": "sft", "unisd_star": "sdft"},
        missing={"unisd_star-seed1-0": f"failed: out of memory {HOSTILE}"},
        finished=[
            "base-0",
            *(f"{name}-seed{seed}-0" for seed in range(3) for name in variants if seed in variants[name]),
        ],
    )
    save_table(table, folder)
    return folder
