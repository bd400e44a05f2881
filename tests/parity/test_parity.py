"""The published UniSD code's losses and gradients, on its own fixtures, with settings a YAML file can express.

`UNISD_PARITY_DIR` names another folder of the same form (its README describes it).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, LlamaForCausalLM

from unisd.config.load import load_config
from unisd.scoring.plan import plan_passes
from unisd.step import Step
from unisd.teacher import LiveTeacher
from unisd.types import RolloutBatch, StepCounts, View

FOLDER = Path(os.environ.get("UNISD_PARITY_DIR", Path(__file__).parent / "fixtures"))
CASES = json.loads((FOLDER / "expected.json").read_text())
NUM_AUXILIARY = sum(name.startswith("fewshot_teacher_prompt_ids") for name in load_file(FOLDER / "batch.safetensors"))


def settings(case: dict[str, Any]) -> dict[str, Any]:
    """The YAML sections that say what the reference's case does."""
    alpha = case.get("alpha", 0.0)
    objective: dict[str, Any] = {"reference": True, "temperature": case.get("temperature", 1.0)}
    if alpha in (0.0, 1.0):
        objective["divergence"] = "reverse_kl" if alpha else "forward_kl"
    else:
        objective.update(divergence="jsd", beta=alpha)
    mode = case["mode"]
    components: list[dict[str, Any]] = []
    contexts: dict[str, Any] = {}
    if mode == "clip":
        ceiling, quantile = case.get("token_clip"), case.get("token_clip_quantile")
        components.append({"type": "divergence_clip", **({"ceiling": ceiling} if ceiling else {"quantile": quantile})})
    if mode.startswith("agreement") or mode == "unisd_star":
        statistic = {"var": "variance", "range": "range"}[case.get("stat", "var")]
        granularity = "sequence" if "_seq_" in mode else "token"
        agreement = {"granularity": granularity, "statistic": statistic, "strength": case["gamma"], "scale": "quantile"}
        components.append({"type": "agreement", **agreement})
        contexts["auxiliary"] = {"type": "column", "count": NUM_AUXILIARY}
    if mode in ("contrastive", "unisd_star"):
        weight, margin = case["contrastive_weight"], case.get("contrastive_margin", 0.5)
        components.append({"type": "contrastive", "coefficient": weight, "margin": margin})
        contexts["negative"] = {"type": "column"}
    if mode.startswith("match") or mode == "unisd_star":
        components.append({"type": "feature_match", "coefficient": case.get("feature_weight", 1.0)})
    if mode == "match_repr":
        objective = {"reference": True, "divergence": "none"}
    return {
        "objective": objective,
        "components": components,
        "contexts": contexts,
        "rollout": {"num_loss_tokens_to_skip": case.get("skip", 0)},
    }


def model(name: str) -> LlamaForCausalLM:
    config = AutoConfig.from_pretrained(FOLDER, attn_implementation="eager")
    loaded = LlamaForCausalLM(config).eval()
    loaded.load_state_dict(load_file(FOLDER / f"{name}.safetensors"), strict=False)
    loaded.tie_weights()
    return loaded


def prompts(tensors: dict[str, torch.Tensor], name: str) -> View:
    # The auxiliary contexts carry their number at the end: fewshot_teacher_prompt_ids_0.
    stem, _, number = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
    ids, mask = (tensors[f"{stem}_{what}" + (f"_{number}" if number else "")] for what in ("ids", "mask"))
    return View(ids, mask.bool(), torch.arange(len(ids)))


def batch(skip: int) -> RolloutBatch:
    tensors = load_file(FOLDER / "batch.safetensors")
    names = {"prompt": "prompt", "privileged": "teacher_prompt", "negative": "bad_teacher_prompt"}
    names |= {f"auxiliary_{number}": f"fewshot_teacher_prompt_{number}" for number in range(NUM_AUXILIARY)}
    completion_mask = tensors["completion_mask"].bool()
    mask = completion_mask.clone()
    mask[:, :skip] = False
    return RolloutBatch(
        views={view: prompts(tensors, name) for view, name in names.items()},
        completion_ids=tensors["completion_ids"],
        completion_mask=completion_mask,
        mask=mask,
        sampler_logp=None,
        counts=StepCounts(int(mask.sum()), int(mask.any(-1).sum())),
        examples=[],
        completions=[],
    )


@pytest.mark.parametrize("expected", CASES, ids=lambda one: json.dumps(one["case"]))
def test_loss_and_gradients_equal_the_published_code(expected: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "case.yaml"
    sections = settings(expected["case"])
    file.write_text(yaml.safe_dump({"model": {"name_or_path": str(FOLDER)}, "data": {"train": "cmd"}, **sections}))
    config = load_config(file)
    components = {type(component).__name__: component for component in config.components}
    plan = plan_passes([config.objective.needs, *(component.needs for component in config.components)])
    step = Step(plan=plan, teacher=LiveTeacher(), objective=config.objective, components=components)
    student, teacher = model("student"), model("teacher")
    one = batch(config.rollout.num_loss_tokens_to_skip)

    scores = step.student_scores(student, one, step.teacher_scores(teacher, one))
    loss = step.reduce(step.token_losses(scores, lambda *_, **__: None), scores)
    loss.backward()

    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    gradients = {name: parameter.grad for name, parameter in student.named_parameters() if parameter.grad is not None}
    total = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt().item()
    assert total == pytest.approx(expected["total_grad_norm"], rel=1e-4)
    for name, norm in expected["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4), name
