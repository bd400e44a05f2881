"""Hidden states of the asked layers, at the positions that predict the completion, and nothing else kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from tests.scoring.test_families import batch_of, tiny
from unisd.objective.feature_match import FeatureMatch
from unisd.scoring.forward import run_pass
from unisd.scoring.head import check_layers
from unisd.types import RolloutBatch, TokenScores, View

NUM_LAYERS = 4
FAMILIES = ["llama", "gemma2", "gemma3_text", "cohere", "granite", "gpt_neox", "olmo2", "phi3", "qwen3"]


def final_norm(model: Any) -> Any:
    (norm,) = [child for name, child in model.get_decoder().named_children() if name.endswith("norm")]
    return norm


@torch.no_grad()
@pytest.mark.parametrize("whole_logits", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_are_those_that_the_model_itself_gives_out(family: str, whole_logits: bool) -> None:
    model = tiny(family, num_hidden_layers=NUM_LAYERS)
    view, batch = batch_of()
    hidden = run_pass(model, view, batch, whole_logits=whole_logits, layers=(-1, 0, 3, -2, -4)).hidden
    mask = torch.cat([view.mask, batch.completion_mask], 1)
    own = model(
        input_ids=torch.cat([view.ids, batch.completion_ids], 1),
        attention_mask=mask.long(),
        position_ids=(mask.long().cumsum(-1) - 1).clamp(min=0),
        output_hidden_states=True,
    ).hidden_states
    assert len(own) == NUM_LAYERS + 1  # the embeddings come first, and the norm is in the last
    predicting = slice(view.ids.shape[1] - 1, -1)
    valid = batch.mask[..., None]
    for layer, states in ((-1, own[-1]), (0, own[1]), (-2, own[3]), (-4, own[1])):
        torch.testing.assert_close(hidden[layer], torch.where(valid, states[:, predicting], 0.0), rtol=1e-5, atol=1e-5)
    # The last block's own output is in no list of the model's: the norm leads from it to the final state.
    after_norm = final_norm(model)(hidden[3])
    torch.testing.assert_close(after_norm[batch.mask], hidden[-1][batch.mask], rtol=1e-5, atol=1e-5)
    assert (hidden[3] - hidden[-1])[batch.mask].abs().max() > 1e-2
    assert (hidden[3] - hidden[-2])[batch.mask].abs().max() > 1e-2


@torch.no_grad()
def test_only_the_asked_layers_stay_alive_and_of_them_only_the_completion() -> None:
    model = tiny("llama", num_hidden_layers=NUM_LAYERS)
    view, batch = batch_of(prompt=50)
    outputs: list[weakref.ref[Tensor]] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _, __, output: outputs.append(weakref.ref(output)))
    output = run_pass(model, view, batch, whole_logits=False, layers=(1, -1))
    gc.collect()
    assert [one() is None for one in outputs] == [True] * NUM_LAYERS
    assert set(output.hidden) == {1, -1}
    for states in (*output.hidden.values(), output.states):
        assert states.untyped_storage().nbytes() == states.numel() * 4 == 2 * 4 * 32 * 4
    # Nothing stays behind on the model either.
    assert not model.lm_head._forward_pre_hooks
    assert all(len(block._forward_hooks) == 1 for block in model.model.layers)


def matched_gradients(model: Any, view: View, batch: RolloutBatch, layers: tuple[int, ...]) -> dict[str, Tensor]:
    """Of a feature match against a teacher at zero, with the model in training mode."""
    model.train()
    hidden = run_pass(model, view, batch, whole_logits=False, layers=layers).hidden
    scores = TokenScores(
        mask=batch.mask,
        completion_ids=batch.completion_ids,
        signals={},
        student_hidden=hidden,
        teacher_hidden={layer: torch.zeros_like(states) for layer, states in hidden.items()},
    )
    FeatureMatch(layers=layers)(scores)[batch.mask].sum().backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("layers", [(-1,), (0,), (1, -2, -1)], ids=str)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gradient_checkpointing_keeps_the_gradient(kind: str, layers: tuple[int, ...], use_reentrant: bool) -> None:
    model = tiny("llama", num_hidden_layers=NUM_LAYERS)
    if kind == "lora":
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))
        model.enable_input_require_grads()
    view, batch = batch_of()
    plain = matched_gradients(model, view, batch, layers)
    assert max(gradient.abs().max() for gradient in plain.values()) > 1e-3
    # Blocks above the matched layer learn nothing from it.
    assert any("layers.3." in name for name in plain) == (-1 in layers)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    checkpointed = matched_gradients(model, view, batch, layers)
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_layer_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    model = tiny("llama", num_hidden_layers=NUM_LAYERS)
    for layers in ((), (-1,), (0, 3, -2, -4)):
        check_layers(model, layers)
    for layer in (4, -5):
        with pytest.raises(
            ValueError,
            match=f"feature_match.layers: there is no layer {layer}, the model has 4 blocks. Allowed: 0 to 3, from the "
            "end -4 to -2, and -1 for the final state",
        ):
            check_layers(model, {-1, layer})


def test_a_model_whose_blocks_cannot_be_told_apart_gives_its_final_state_only() -> None:
    model: Any = AutoModelForCausalLM.from_config(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=61))
    model.transformer.more = torch.nn.ModuleList()
    check_layers(model, [-1])
    with pytest.raises(ValueError, match=r"The blocks of GPT2Model cannot be told .* Set feature_match.layers: \[-1\]"):
        check_layers(model, [0])
