"""Real tokenizers and models that are small enough to build in a test."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EOS = "<|im_end|>"
"""Ends every chat turn and every completion."""
PAD = "<|endoftext|>"
"""Padding; some models also end a text with it."""
SPECIAL_TOKENS = (PAD, "<|im_start|>", EOS)
"""Their ids are 0, 1 and 2."""

# ChatML. `enable_thinking=False` adds an empty thought to the generation prompt, as the templates of Qwen3 do.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking -%}
<think>

</think>

{% endif -%}
{%- endif -%}
"""


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer without merges: one token per byte, one per special token, so lengths count by hand.

    259 tokens; decoding an encoded text gives the text back.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL_TOKENS) + len(alphabet), special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=4096,
    )


def build_tiny_model(
    tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, num_layers: int = 2, tie_word_embeddings: bool = False
) -> LlamaForCausalLM:
    """A random float32 Llama of width 32 over the tokenizer's vocabulary, in eval mode; keeps the global random state.

    Its weights are ten times as large as usual, so that its distributions differ from uniform and from each other.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index(EOS),
        pad_token_id=SPECIAL_TOKENS.index(PAD),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()
