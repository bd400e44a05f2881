"""Every known family: hidden states and head give the model's own logits; others take the slow exact path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from unisd.scoring.forward import run_pass
from unisd.scoring.head import FAMILIES, head_of
from unisd.types import RolloutBatch, StepCounts, View

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXTRA: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3, "sliding_window": 16},
    "gemma2": {"final_logit_softcapping": 0.5, "sliding_window": 16},
    "gemma3_text": {"final_logit_softcapping": 0.5, "sliding_window": 16},
    "granite": {"logits_scaling": 8.0},
}


def tiny(family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SMALL, **EXTRA.get(family, {}), **options})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # larger than the initial scale, so that a soft cap bends the logits
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def batch_of(*, prompt: int = 5, tokens: int = 4) -> tuple[View, RolloutBatch]:
    view = View(torch.randint(3, 61, (2, prompt)), torch.ones(2, prompt, dtype=torch.bool), torch.arange(2))
    view.mask[1, :2] = False  # left padding
    completion_mask = torch.ones(2, tokens, dtype=torch.bool)
    completion_mask[0, -1] = False
    batch = RolloutBatch(
        views={"prompt": view}, completion_ids=torch.randint(3, 61, (2, tokens)), completion_mask=completion_mask,
        mask=completion_mask, sampler_logp=None, counts=StepCounts(1, 1), examples=[], completions=[],
    )  # fmt: skip
    return view, batch


def model_logits(model: Any, view: View, batch: RolloutBatch) -> torch.Tensor:
    mask = torch.cat([view.mask, batch.completion_mask], 1)
    return model(
        input_ids=torch.cat([view.ids, batch.completion_ids], 1),
        attention_mask=mask.long(),
        position_ids=(mask.long().cumsum(-1) - 1).clamp(min=0),
    ).logits[:, view.ids.shape[1] - 1 : -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_head_give_the_logits_of_the_model(family: str) -> None:
    model = tiny(family)
    view, batch = batch_of()
    output = run_pass(model, view, batch, whole_logits=False)
    want = model_logits(model, view, batch)
    torch.testing.assert_close(output.head.logits(output.states), want, rtol=1e-5, atol=1e-5)
    if family in EXTRA:  # without its scale or cap the head would be visibly wrong
        plain = output.states @ output.head.weight.T
        assert (plain - want).abs().max() > 0.1
    whole = run_pass(model, view, batch, whole_logits=True)
    torch.testing.assert_close(whole.head.logits(whole.states), want)


def test_an_unknown_family_and_a_rewritten_head_have_no_known_head() -> None:
    unknown = AutoModelForCausalLM.from_config(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=61))
    assert head_of(unknown) is None
    adapted = get_peft_model(tiny("llama"), LoraConfig(target_modules=["q_proj", "lm_head"]))
    assert head_of(adapted) is None
    view, batch = batch_of()
    output = run_pass(unknown.eval(), view, batch, whole_logits=True)
    torch.testing.assert_close(output.states, model_logits(unknown, view, batch))


def test_a_trained_copy_of_the_head_is_used_and_the_original_one_with_the_adapter_off() -> None:
    model = get_peft_model(tiny("llama"), LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    trained = model.get_base_model().lm_head.modules_to_save["default"].weight  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
    trained.data.add_(1.0)
    view, batch = batch_of()
    output = run_pass(model, view, batch, whole_logits=False)
    assert output.head.weight is trained
    torch.testing.assert_close(output.head.logits(output.states), model_logits(model, view, batch))
    with model.disable_adapter():
        base = run_pass(model, view, batch, whole_logits=False)
        torch.testing.assert_close(base.head.logits(base.states), model_logits(model, view, batch))
    assert base.head.weight is not trained
