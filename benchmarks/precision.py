"""Gradient error of the loss on real bfloat16 states: JSD of SmolLM2's student and teacher views, against float64.

    python benchmarks/precision.py          256 completion tokens, under a minute on a CPU, 4 GB

Every contender gets the same bfloat16 states and head; the truth is plain autograd over whole float64 logits of them.
`rounded logits` is what a bfloat16 head yields by itself: logits rounded to bfloat16, softmax in float32.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from unisd.demo import smollm2
from unisd.kernels import token_scores
from unisd.loading import load_model, load_tokenizer
from unisd.objective.divergence import jsd
from unisd.tasks.cmd import CmdTask

NUM_TOKENS = 256


def states_of(num_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
    """States of student and teacher that predict the commands of the task `cmd`, (N, D), the head, and the tokens."""
    demo = smollm2()
    model, tokenizer = load_model(demo.name_or_path, dtype="float32"), load_tokenizer(demo.name_or_path)
    student, teacher, tokens = [], [], []
    for example in CmdTask().train_examples(num_tokens // 8):
        answer = tokenizer(str(example.answer), return_tensors="pt")["input_ids"]
        prompt = list(example.prompt)
        turns = [prompt[-1], {"role": "assistant", "content": str(example.answer)}]
        for kept, messages in ((student, prompt), (teacher, [*prompt[:-1], *turns, prompt[-1]])):
            view = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
            )
            with torch.no_grad():
                hidden = model.model(input_ids=torch.cat([view, answer], 1)).last_hidden_state
            kept.append(hidden[0, view.shape[1] - 1 : -1])
        tokens.append(answer[0])
    head = model.get_output_embeddings().weight.detach()
    low = [torch.cat(kept)[:num_tokens].bfloat16() for kept in (student, teacher)]
    return low[0], low[1], head.bfloat16(), torch.cat(tokens)[:num_tokens], demo.description


def plain(
    student: Tensor, teacher: Tensor, head: Tensor, dtype: torch.dtype, *, rounded: bool = False
) -> tuple[float, Tensor]:
    """Summed JSD and its gradient by the states, from whole logits in `dtype`, `rounded` to bfloat16 and back."""
    leaf, weight = student.detach().to(dtype).requires_grad_(), head.to(dtype)
    logits = [leaf @ weight.T, teacher.to(dtype) @ weight.T]
    log_probs = [(one.bfloat16().to(dtype) if rounded else one).log_softmax(-1) for one in logits]
    loss = jsd(log_probs[0], log_probs[1], beta=0.5).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.item(), gradient


def fused(student: Tensor, teacher: Tensor, head: Tensor, ids: Tensor) -> tuple[float, Tensor]:
    """The same by unisd's kernels."""
    leaf = student.detach().requires_grad_()
    scores = token_scores(leaf, head, teacher, ids=ids, divergence="jsd", beta=0.5)
    assert scores.divergence is not None
    loss = scores.divergence.sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.item(), gradient


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS)
    options = parser.parse_args()
    student, teacher, head, ids, description = states_of(options.tokens)
    print(f"{description}; {len(ids)} tokens, states and head in bfloat16, JSD at beta 0.5")
    loss, truth = plain(student, teacher, head, torch.float64)
    print(f"{'float64':16} loss {loss:.6f}")
    contenders = {
        "unisd": fused(student, teacher, head, ids),
        "float32 logits": plain(student, teacher, head, torch.float32),
        "rounded logits": plain(student, teacher, head, torch.float32, rounded=True),
    }
    for name, (value, gradient) in contenders.items():
        error = float((gradient.double() - truth).norm() / truth.norm())
        print(f"{name:16} loss {value:.6f} ({value / loss - 1:+.1e})   gradient error {error:.1e}")


if __name__ == "__main__":
    main()
