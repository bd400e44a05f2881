"""Every number of a token map is a tensor of the trainer's own step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.trainer.build import build, logged, rows, rows_in_contexts
from unisd.objective import Agreement, Contrastive, CrossEntropy, DivergenceClip
from unisd.objective.divergence import Divergence
from unisd.rollout.collate import collate, local_counts
from unisd.token_maps.keep import row_of
from unisd.token_maps.measure import _token_text, token_maps
from unisd.trainer import SelfDistillTrainer
from unisd.types import Completion, Example, Need, TokenLoss, TokenScores, Transform

COMPONENTS = [DivergenceClip(ceiling=0.5), Agreement(strength=2.0), Contrastive(margin=0.5, coefficient=0.25)]
TEXT = "a wild guess"


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> SelfDistillTrainer:
    folder = tmp_path_factory.mktemp("run")
    keywords = {"components": COMPONENTS, "objective": Divergence(temperature=0.7)}
    return build(folder, train=rows_in_contexts(4), keywords=keywords, max_completion_length=20)


def test_the_numbers_equal_the_tensors_of_a_training_step(trainer):
    row = row_of(trainer, rows_in_contexts(3)[2], TEXT)
    (found,) = token_maps(trainer, [row])

    counts = local_counts([row], trainer.args)
    batch = collate([row], pad=trainer.processing_class.pad_token_id, options=trainer.args, counts=counts)
    scores = trainer.step.student_scores(
        trainer.model, batch, trainer.step.teacher_scores(trainer.model, batch), call=trainer.model
    )
    losses = trainer.step.token_losses(scores)

    def close(name: str, tensor: torch.Tensor) -> None:
        torch.testing.assert_close(torch.tensor(found.measure(name).values), tensor.detach()[0], rtol=1e-5, atol=1e-6)

    close("divergence", scores.divergence)
    close("loss/divergence", losses["divergence"].values)
    close("loss/contrastive", losses["contrastive"].values)
    close("agreement/weight_mean", losses["divergence"].weights)
    close("student_logp", scores.student_logp)
    close("teacher_logp", scores.teacher_logp)
    close("negative_logp", scores.negative_logp)
    # And by hand: min(D, 0.5), 1 / (1 + 2 variance), 0.25 relu(0.5 + |s - p| - |s - n|).
    close("loss/divergence", scores.divergence.clamp(max=0.5))
    close("divergence_clip/clipped", (scores.divergence > 0.5).float())
    views = scores.auxiliary_logp
    close("agreement/weight_mean", 1 / (1 + 2 * ((views[0] - views[1]) / 2) ** 2))
    student, teacher, negative = scores.student_logp, scores.teacher_logp, scores.negative_logp
    hinge = torch.relu(0.5 + (student - teacher).abs() - (student - negative).abs())
    close("loss/contrastive", 0.25 * hinge)
    assert 0 < sum(found.measure("divergence_clip/clipped").values) < len(found.tokens)
    assert "".join(found.tokens) == f"{TEXT}<|im_end|>"


def test_the_likeliest_tokens_are_those_of_the_models_own_logits(trainer):
    row = row_of(trainer, rows_in_contexts(1)[0], TEXT)
    (found,) = token_maps(trainer, [row])
    for view, tops in (("prompt", found.student_top), ("privileged", found.teacher_top)):
        ids = torch.tensor([row.views[view] + row.completion.ids])
        logits = trainer.model(ids).logits[0, len(row.views[view]) - 1 : -1]
        expected = (logits / 0.7).softmax(-1).topk(5)
        assert [[share for _, share in top] for top in tops] == [
            pytest.approx(shares, rel=1e-4) for shares in expected.values.tolist()
        ]
        best = expected.indices[:, 0].tolist()
        assert [top[0][0] for top in tops] == [_token_text(trainer.processing_class, one) for one in best]


def test_a_model_that_has_diverged_has_no_likeliest_tokens_and_can_be_kept(tmp_path):
    keywords = {"components": [CrossEntropy()], "objective": Divergence("none")}
    sft = build(tmp_path, keywords=keywords, backend="dataset")
    for parameter in sft.model.parameters():
        parameter.data.fill_(float("nan"))
    (found,) = token_maps(sft, [row_of(sft, rows(1)[0], "red")])
    assert found.student_top == ((),) * len(found.tokens)
    assert set(found.measure("student_logp").values) == {None}
    json.dumps(asdict(found), allow_nan=False)


def test_a_given_completion_is_measured_whole(trainer):
    text = "a long answer " * 20
    row = row_of(trainer, rows_in_contexts(1)[0], text)
    assert len(row.completion.ids) > trainer.args.max_completion_length
    (found,) = token_maps(trainer, [row])
    assert "".join(found.tokens) == f"{text}<|im_end|>"
    assert found.num_left_out == 0


def test_bytes_of_a_character_are_told_apart(trainer):
    (found,) = token_maps(trainer, [row_of(trainer, rows_in_contexts(1)[0], "caf\u00e9 \u732b")])
    assert "\ufffd" not in "".join(found.tokens)
    assert "".join(found.tokens) == "caf\\xc3\\xa9 \\xe7\\x8c\\xab<|im_end|>"


def test_a_space_that_the_decoder_drops_is_shown():
    words = Tokenizer(
        models.WordLevel({"\u2581the": 0, "the": 1, "<0xE7>": 2, "\u2581\u2581\u2581if": 3, "?": 4}, unk_token="?")
    )
    words.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert [_token_text(tokenizer, token) for token in range(4)] == [" the", "the", "\\xe7", "   if"]


def test_only_what_the_run_computes_gives_a_measure(tmp_path):
    plain = build(tmp_path / "plain", keywords={"components": []})
    (found,) = token_maps(plain, [row_of(plain, rows(1)[0], "red")])
    assert [one.name for one in found.measures] == ["divergence", "student_logp", "teacher_logp"]

    keywords = {"components": [CrossEntropy()], "objective": Divergence("none")}
    sft = build(tmp_path / "sft", keywords=keywords, backend="dataset")
    (found,) = token_maps(sft, [row_of(sft, rows(1)[0], "red")])
    assert [one.name for one in found.measures] == ["loss/cross_entropy", "student_logp"]
    assert found.teacher_top == ()
    cross_entropy, logp = found.measure("loss/cross_entropy").values, found.measure("student_logp").values
    assert cross_entropy == pytest.approx([-value for value in logp])
    with pytest.raises(ValueError, match="no measure 'divergence'. Measures: loss/cross_entropy, student_logp"):
        found.measure("divergence")


@dataclass(frozen=True)
class EveryOther(Transform):
    """Weight 0 on every other token, and a metric that says so."""

    needs: ClassVar[Need] = Need()

    def __call__(self, loss: TokenLoss, scores: TokenScores) -> TokenLoss:
        return loss.reweighted(
            (torch.arange(loss.values.shape[1]) % 2 == 0).expand_as(loss.values).to(loss.weights.dtype)
        )

    def metrics(self, before: TokenLoss, after: TokenLoss, scores: TokenScores) -> dict[str, torch.Tensor]:
        return {"dropped": (after.weights == 0).to(after.weights.dtype)}


class WithBonus(SelfDistillTrainer):
    """Adds a term as the documentation shows it."""

    needs: ClassVar[Need] = Need.STUDENT_LOGP

    def compute_token_losses(self, scores: TokenScores) -> dict[str, TokenLoss]:
        ones = torch.ones_like(scores.student_logp)
        return {**super().compute_token_losses(scores), "bonus": TokenLoss(0.5 * scores.student_logp.exp(), ones)}


def test_components_and_terms_of_ones_own_are_measured_too(tmp_path):
    trainer = build(tmp_path, cls=WithBonus, keywords={"components": [EveryOther()]})
    (found,) = token_maps(trainer, [row_of(trainer, rows(1)[0], "red")])
    assert found.measure("every_other/weight_mean").values == (1.0, 0.0, 1.0, 0.0)
    assert found.measure("every_other/dropped").kind == "flag"
    assert found.measure("loss/bonus").values == pytest.approx(
        [0.5 * 2.718281828459045**value for value in found.measure("student_logp").values]
    )


def test_measuring_leaves_no_trace_in_training(tmp_path):
    def losses(folder: Path, *, measure: bool) -> list[float]:
        trainer = build(folder, train=rows_in_contexts(4), keywords={"components": COMPONENTS}, max_steps=2)
        if measure:
            trainer.model.train()
            token_maps(trainer, [row_of(trainer, rows_in_contexts(1)[0])])
            assert trainer.model.training
            assert "log_metric" not in vars(trainer)
        trainer.train()
        return [*logged(trainer, "loss"), *logged(trainer, "agreement/weight_mean"), *logged(trainer, "num_tokens")]

    assert losses(tmp_path / "a", measure=True) == losses(tmp_path / "b", measure=False)


def test_tokens_that_do_not_count_and_tokens_beyond_the_limit_are_told(tmp_path):
    trainer = build(tmp_path, keywords={"components": []}, num_loss_tokens_to_skip=1)
    (found,) = token_maps(trainer, [row_of(trainer, rows(1)[0], "green")], max_tokens=4)
    assert found.tokens == ("g", "r", "e", "e")
    assert found.is_counted == (False, True, True, True)
    assert found.num_left_out == 2
    assert len(found.student_top) == len(found.teacher_top) == 4


def test_normalised_weights_average_to_one_over_the_completion(tmp_path):
    keywords = {"components": [Agreement(strength=5.0)], "objective": Divergence(normalize_weights=True)}
    trainer = build(tmp_path, train=rows_in_contexts(4), keywords=keywords)
    (found,) = token_maps(trainer, [row_of(trainer, rows_in_contexts(1)[0], "guess")])
    weights = found.measure("agreement/weight_mean").values
    assert max(weights) < 1.0
    normalised = found.measure("normalized/weight_mean").values
    assert sum(normalised) / len(normalised) == pytest.approx(1.0, rel=1e-5)
    assert [one / weights[0] for one in weights] == pytest.approx([one / normalised[0] for one in normalised])


def test_an_example_without_what_the_teacher_reads_is_refused(trainer):
    with pytest.raises(ValueError, match="The example has no privileged_context"):
        row_of(trainer, Example(prompt="Say red"), "red")
    with pytest.raises(ValueError, match="The completion has no tokens"):
        row_of(trainer, rows_in_contexts(1)[0], Completion([], None, True))
