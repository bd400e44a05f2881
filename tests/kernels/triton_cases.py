"""The Triton rows against the oracle in float64. `test_triton_interpret` runs this file where Triton interprets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unisd.kernels.rows import AfterHead, PairScores, RowSpec
from unisd.kernels.rows_triton import TritonRows
from unisd.objective.divergence import Divergence
from unisd.scoring import reference
from unisd.types import Signal

# 64 logits a block: 151 are two blocks and a part of a third, 37 a part alone, 128 two blocks without a rest.
ROWS = TritonRows(lanes=16)
SPECS = [
    RowSpec("forward_kl"),
    RowSpec("reverse_kl"),
    *(RowSpec("jsd", beta) for beta in (0.5, 0.3, 0.9, 1e-3, 1e-6, 1 - 1e-6)),
]
CAPPED_SPECS = [
    RowSpec("forward_kl", inverse_temperature=0.4, student=AfterHead(0.7, 9.0), teacher=AfterHead(1.1)),
    RowSpec("reverse_kl", inverse_temperature=1.3, student=AfterHead(0.7, 5.0), teacher=AfterHead(0.7, 5.0)),
    RowSpec("jsd", 0.3, inverse_temperature=0.8, student=AfterHead(1.2), teacher=AfterHead(0.5, 8.0)),
    RowSpec("jsd", 1e-3, student=AfterHead(0.6, 6.0), teacher=AfterHead(0.6, 6.0)),
]
SIGNALS = (
    Signal.DIVERGENCE,
    Signal.STUDENT_LOGP,
    Signal.TEACHER_LOGP,
    Signal.STUDENT_ENTROPY,
    Signal.TEACHER_ENTROPY,
)


def name_of(value: object) -> str | None:
    return f"{value.divergence}-{value.beta}" if isinstance(value, RowSpec) else None


def in_padded_rows(values: Tensor) -> Tensor:
    """A copy whose rows start at multiples of 16 numbers, with NaN in between that must not count."""
    num_rows, num_columns = values.shape
    return torch.full((num_rows, -(-num_columns // 16) * 16), math.nan)[:, :num_columns].copy_(values)


def draw(vocabulary: int, *, num_rows: int = 2, gap: float = 1.0, size: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher, and realised tokens."""
    generator = torch.Generator().manual_seed(vocabulary)
    student = size * torch.randn(num_rows, vocabulary, generator=generator)
    teacher = student + gap * torch.randn(num_rows, vocabulary, generator=generator)
    return student, teacher, torch.randint(vocabulary, (num_rows,), generator=generator)


def oracle(student: Tensor, teacher: Tensor, ids: Tensor, spec: RowSpec) -> list[Tensor]:
    """The five scores from `scoring.reference`, in float64."""

    def logits(z: Tensor, after: AfterHead) -> Tensor:
        z = z.double() * after.scale
        return (z if after.softcap is None else after.softcap * torch.tanh(z / after.softcap))[None]

    beta = spec.beta if spec.divergence == "jsd" else None
    scores = reference.token_scores(
        logits(student, spec.student),
        logits(teacher, spec.teacher),
        ids=ids[None],
        mask=torch.ones_like(ids[None], dtype=torch.bool),
        objective=Divergence(spec.divergence, beta=beta, temperature=1.0 / spec.inverse_temperature),
    )
    return [scores[signal][0] for signal in SIGNALS]


def in_log_space(student: Tensor, teacher: Tensor, spec: RowSpec) -> Tensor:
    """The divergence in float64 where probabilities are 0, of which the reference would take logarithms."""
    log_probs = (logits.double().log_softmax(-1) for logits in (student, teacher))
    return Divergence(spec.divergence, beta=spec.beta if spec.divergence == "jsd" else None).per_token(*log_probs)


def relative(mine: Tensor | None, true: Tensor) -> float:
    assert mine is not None
    return float((mine.double() - true.detach()).norm() / true.detach().norm())


def gradients(student: Tensor, teacher: Tensor, ids: Tensor, spec: RowSpec) -> tuple[PairScores, Tensor]:
    """The scores, and d divergence / dz and d student_logp / dz, made as the loss path makes them."""
    student, teacher = in_padded_rows(student), in_padded_rows(teacher)
    scores = ROWS.pair(student, teacher, ids, spec, has_gradient=True)
    ones = torch.ones(len(ids))
    ROWS.gradient(student, teacher, ids, spec, scores, divergence_weight=ones, logp_weight=None, out=teacher)
    ROWS.gradient(student, teacher, ids, spec, scores, divergence_weight=None, logp_weight=ones, out=student)
    return scores, torch.stack([teacher, student])


@pytest.mark.parametrize(
    ("spec", "vocabulary"),
    [
        *((spec, 151) for spec in SPECS + CAPPED_SPECS),
        *((spec, vocabulary) for spec in SPECS[:3] + CAPPED_SPECS[:1] for vocabulary in (37, 128)),
    ],
    ids=name_of,
)
def test_scores_and_gradients_equal_the_oracle(spec: RowSpec, vocabulary: int):
    student, teacher, ids = draw(vocabulary)
    leaf = student.double().requires_grad_()
    expected = oracle(leaf, teacher, ids, spec)
    scores, found = gradients(student, teacher, ids, spec)
    # A KL in one sweep is off by 1.5e-7 nats, root mean square, and these are 0.3 nats; the rest is closer. A soft cap
    # multiplies the rounding of tanh, and so of every logit, by the cap.
    tolerance = 1e-6 if spec in SPECS else 3e-6
    for mine, true, limit in zip(scores[:5], expected, [3e-6] + [tolerance] * 4, strict=True):
        assert relative(mine, true) < limit
    for mine, score in zip(found, expected[:2], strict=True):
        assert relative(mine, torch.autograd.grad(score.sum(), leaf, retain_graph=True)[0]) < tolerance


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_a_student_within_a_thousandth_of_its_teacher_is_told_apart(spec: RowSpec):
    student, teacher, ids = draw(151, gap=1e-3)
    # All logits of one of them moved by the same: that is no difference, and must not cost digits.
    teacher = teacher + 0.25
    leaf = student.double().requires_grad_()
    expected = oracle(leaf, teacher, ids, spec)[0]
    scores, found = gradients(student, teacher, ids, spec)
    assert relative(scores.divergence, expected) < 1e-3
    assert relative(found[0], torch.autograd.grad(expected.sum(), leaf)[0]) < 1e-3


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_equal_rows_have_no_divergence_and_no_gradient(spec: RowSpec):
    student, _, ids = draw(151)
    scores, found = gradients(student, student, ids, spec)
    assert scores.divergence is not None
    assert not scores.divergence.any()
    assert not found[0].any()


@pytest.mark.parametrize("spec", SPECS[:3], ids=name_of)
def test_weights_join_both_gradients_in_one_pass(spec: RowSpec):
    student, teacher, ids = draw(151, num_rows=4)
    _, apart = gradients(student, teacher, ids, spec)
    weights = torch.tensor([[1.0, 0.5, 0.0, 0.0], [-0.3, 0.0, 2.0, 0.0]])
    student, teacher = in_padded_rows(student), in_padded_rows(teacher)
    scores = ROWS.pair(student, teacher, ids, spec, has_gradient=True)
    ROWS.gradient(
        student, teacher, ids, spec, scores, divergence_weight=weights[0], logp_weight=weights[1], out=student
    )
    torch.testing.assert_close(student, (weights[:, :, None] * apart).sum(0), rtol=1e-5, atol=1e-8)
    assert not student[3].any()


@pytest.mark.parametrize("spec", SPECS[:3], ids=name_of)
def test_a_row_without_weight_has_a_zero_gradient_whatever_stands_in_it(spec: RowSpec):
    student, teacher, ids = draw(151, num_rows=3)
    teacher[1] = math.nan
    student, teacher = in_padded_rows(student), in_padded_rows(teacher)
    scores = ROWS.pair(student, teacher, ids, spec, has_gradient=True)
    weights = torch.tensor([1.0, 0.0, 1.0])
    ROWS.gradient(student, teacher, ids, spec, scores, divergence_weight=weights, logp_weight=weights, out=student)
    assert not student[1].any()
    assert student[[0, 2]].isfinite().all()
    assert student[[0, 2]].all()


@pytest.mark.parametrize("spec", SPECS[:3] + SPECS[4:5], ids=name_of)
def test_tokens_ruled_out_by_both_or_by_one_of_them(spec: RowSpec):
    student, teacher, ids = draw(151)
    student[:, :70] = teacher[:, :70] = -math.inf  # more than a block
    # Ruled out by one only; the other way round the KL would be infinite.
    (student if spec.divergence == "reverse_kl" else teacher)[:, 70:90] = -math.inf
    ids.fill_(100)
    leaf = student[:, 70:].double().requires_grad_()
    expected = in_log_space(leaf, teacher[:, 70:], spec)
    scores, found = gradients(student, teacher, ids, spec)
    assert relative(scores.divergence, expected) < 3e-6
    assert relative(found[0][:, 70:], torch.autograd.grad(expected.sum(), leaf)[0]) < 1e-6
    assert not found[:, :, :70].any()
    whole = ROWS.pair(*map(in_padded_rows, (student[:, 70:], teacher[:, 70:])), ids - 70, spec, has_gradient=False)
    for mine, other in zip(scores[1:5], whole[1:5], strict=True):
        assert mine is not None
        assert other is not None
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_a_kl_is_infinite_where_the_second_distribution_rules_out_what_the_first_says():
    student, teacher, ids = draw(151)
    ids.fill_(7)
    ids[0] = 3
    student[:, 3] = -math.inf
    forward, _ = gradients(student, teacher, ids, RowSpec("forward_kl"))
    backward, _ = gradients(teacher, student, ids, RowSpec("reverse_kl"))
    assert forward.divergence is not None
    assert backward.divergence is not None
    assert (forward.divergence == math.inf).all()
    assert (backward.divergence == math.inf).all()
    assert forward.student_logp.isinf().tolist() == [True, False]


@pytest.mark.parametrize("spec", SPECS[:3], ids=name_of)
def test_logits_of_ten_thousand_stay_finite(spec: RowSpec):
    student, teacher, ids = draw(151, gap=3e3, size=1e4)
    expected = in_log_space(student, teacher, spec)
    scores, found = gradients(student, teacher, ids, spec)
    assert scores.divergence is not None
    torch.testing.assert_close(scores.divergence.double(), expected, rtol=1e-5, atol=1e-5)
    assert found.isfinite().all()


@pytest.mark.parametrize("spec", SPECS[:3], ids=name_of)
def test_a_nan_is_not_hidden(spec: RowSpec):
    student, teacher, ids = draw(151, num_rows=4)
    student[0, 140] = teacher[1, 3] = math.nan
    student[2, 10] = math.inf
    scores, _ = gradients(student, teacher, ids, spec)
    assert scores.divergence is not None
    assert scores.divergence.isnan().tolist() == [True, True, True, False]


def test_one_model_alone():
    student, _, ids = draw(151)
    after = AfterHead(1.3, 5.0)
    spec = RowSpec("none", inverse_temperature=0.7, student=after)
    leaf = student.double().requires_grad_()
    _, logp, _, entropy, _ = oracle(leaf, student, ids, RowSpec("forward_kl", 0.5, 0.7, after, after))
    statistics = ROWS.statistics(in_padded_rows(student), ids, after=after, inverse_temperature=0.7)
    assert relative(statistics.logp, logp) < 1e-6
    assert relative(statistics.entropy, entropy) < 1e-6

    buffer, weights = in_padded_rows(student), torch.tensor([-1.0, 2.0])
    scores = ROWS.pair(buffer, None, ids, spec, has_gradient=True)
    assert scores.divergence is None
    ROWS.gradient(buffer, None, ids, spec, scores, divergence_weight=None, logp_weight=weights, out=buffer)
    assert relative(buffer, torch.autograd.grad((weights * logp).sum(), leaf)[0]) < 3e-6


def test_a_gradient_in_bfloat16_lies_over_the_first_half_of_its_row():
    student, teacher, ids = draw(151)
    spec = RowSpec("jsd")
    _, expected = gradients(student, teacher, ids, spec)
    student, teacher = in_padded_rows(student), in_padded_rows(teacher)
    scores = ROWS.pair(student, teacher, ids, spec, has_gradient=True)
    narrow = student.as_strided((2, 160), (160, 1)).view(torch.bfloat16)[:, :151]
    ROWS.gradient(student, teacher, ids, spec, scores, divergence_weight=torch.ones(2), logp_weight=None, out=narrow)
    # The interpreter cuts off what does not fit, where a GPU rounds.
    torch.testing.assert_close(narrow.float(), expected[0], rtol=2**-7, atol=0.0)


def test_rows_that_are_not_padded_give_the_same():
    student, teacher, ids = draw(151)
    spec = RowSpec("forward_kl")
    padded, _ = gradients(student, teacher, ids, spec)
    plain = ROWS.pair(student, teacher, ids, spec, has_gradient=True)
    for mine, other in zip(plain[:5], padded[:5], strict=True):
        assert mine is not None
        assert other is not None
        assert torch.equal(mine, other)
    # The last row ends where the memory does: nothing behind it may be written.
    whole = torch.cat([student.flatten(), torch.full((9,), 7.0)])
    rows = whole[: student.numel()].view_as(student)
    ROWS.gradient(rows, teacher, ids, spec, plain, divergence_weight=torch.ones(2), logp_weight=None, out=rows)
    assert (whole[student.numel() :] == 7.0).all()


def test_no_rows_are_no_work():
    empty, ids = torch.empty(0, 32), torch.empty(0, dtype=torch.int64)
    scores = ROWS.pair(empty, empty, ids, RowSpec("jsd"), has_gradient=True)
    assert scores.divergence is not None
    assert scores.divergence.shape == (0,)


def test_what_the_kernels_cannot_do_is_refused():
    student, teacher, ids = draw(37)
    with pytest.raises(ValueError, match="float32"):
        ROWS.pair(student.double(), teacher.double(), ids, RowSpec("jsd"), has_gradient=False)
    with pytest.raises(ValueError, match="positive scale"):
        ROWS.statistics(student, ids, after=AfterHead(-1.0), inverse_temperature=1.0)
