"""Rows of logits = the formulas in float64: scores, and gradients with respect to what the head puts out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unisd.kernels.build import c_rows
from unisd.kernels.rows import AfterHead, PairScores, Rows, RowSpec
from unisd.kernels.rows_torch import TorchRows

SPECS = [
    RowSpec("forward_kl"),
    RowSpec("reverse_kl"),
    *(RowSpec("jsd", beta) for beta in (0.5, 0.1, 1e-3, 1e-6, 1 - 1e-3, 1 - 1e-6)),
    RowSpec("forward_kl", inverse_temperature=0.4, student=AfterHead(0.7, 9.0), teacher=AfterHead(1.1)),
    RowSpec("jsd", 0.3, inverse_temperature=0.8, student=AfterHead(1.2), teacher=AfterHead(0.5, 8.0)),
]
NAMES = ("divergence", "student_logp", "teacher_logp", "student_entropy", "teacher_entropy")


@pytest.fixture(params=["c", "torch"])
def rows(request: pytest.FixtureRequest) -> Rows:
    return c_rows() if request.param == "c" else TorchRows()


def relative(mine: Tensor | None, true: Tensor) -> float:
    assert mine is not None
    return float((mine.double() - true).norm() / true.norm())


def oracle(z: Tensor, z_teacher: Tensor, ids: Tensor, spec: RowSpec) -> tuple[Tensor, ...]:
    """The five scores as their definitions say, float64."""
    student = _logits(z.double(), spec.student, spec).log_softmax(-1)
    teacher = _logits(z_teacher.double(), spec.teacher, spec).log_softmax(-1)
    if spec.divergence == "forward_kl":
        divergence = _kl(teacher, student)
    elif spec.divergence == "reverse_kl":
        divergence = _kl(student, teacher)
    else:
        mixture = torch.logaddexp(teacher + math.log(spec.beta), student + math.log1p(-spec.beta))
        divergence = spec.beta * _kl(teacher, mixture) + (1 - spec.beta) * _kl(student, mixture)
    logps = (each.gather(1, ids[:, None])[:, 0] for each in (student, teacher))
    entropies = (-_product(each.exp(), each).sum(-1) for each in (student, teacher))
    return divergence, *logps, *entropies


def _logits(z: Tensor, after: AfterHead, spec: RowSpec) -> Tensor:
    z = z * after.scale
    return (z if after.softcap is None else torch.tanh(z / after.softcap) * after.softcap) * spec.inverse_temperature


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return _product(p.exp(), p.masked_fill(p == -math.inf, 0.0) - q.masked_fill(p == -math.inf, 0.0)).sum(-1)


def _product(p: Tensor, log: Tensor) -> Tensor:
    return p * log.masked_fill(p == 0, 0.0)


def in_padded_rows(values: Tensor) -> Tensor:
    """A copy whose rows start at multiples of 16 numbers, with NaN in between that must not be read."""
    num_rows, num_columns = values.shape
    buffer = torch.full((num_rows, (num_columns + 15) // 16 * 16), math.nan, dtype=values.dtype)[:, :num_columns]
    return buffer.copy_(values)


def both_gradients(rows: Rows, z: Tensor, z_teacher: Tensor, ids: Tensor, spec: RowSpec) -> tuple[PairScores, Tensor]:
    """The scores, and d divergence / dz and d student_logp / dz stacked."""
    student, teacher = in_padded_rows(z), in_padded_rows(z_teacher)
    pair = rows.pair(student, teacher, ids, spec, has_gradient=True)
    ones = z.new_ones(len(z))
    rows.gradient(student, teacher, ids, spec, pair, divergence_weight=ones, logp_weight=None, out=teacher)
    rows.gradient(student, teacher, ids, spec, pair, divergence_weight=None, logp_weight=ones, out=student)
    return pair, torch.stack([teacher, student])


def logits(num_rows: int, num_columns: int, *, gap: float, size: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_columns)
    z = torch.randn(num_rows, num_columns, generator=generator) * size
    z_teacher = z + gap * torch.randn(num_rows, num_columns, generator=generator)
    return z, z_teacher, torch.randint(num_columns, (num_rows,), generator=generator)


@pytest.mark.parametrize("num_columns", [5003, 1024, 3])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.divergence}-{spec.beta}-{spec.student.softcap}")
def test_scores_and_gradients_are_right_to_a_millionth(rows: Rows, spec: RowSpec, num_columns: int) -> None:
    z, z_teacher, ids = logits(9, num_columns, gap=1.0)
    leaf = z.double().requires_grad_()
    true = oracle(leaf, z_teacher, ids, spec)

    pair, gradients = both_gradients(rows, z, z_teacher, ids, spec)

    for name, expected in zip(NAMES, true, strict=True):
        assert relative(getattr(pair, name), expected.detach()) < 1e-6, name
    for gradient, score in zip(gradients, true[:2], strict=True):
        (expected,) = torch.autograd.grad(score.sum(), leaf, retain_graph=True)
        assert relative(gradient, expected) < 1e-6


@pytest.mark.parametrize("spec", SPECS[:8], ids=lambda spec: f"{spec.divergence}-{spec.beta}")
def test_a_student_within_a_thousandth_of_its_teacher_is_told_apart(rows: Rows, spec: RowSpec) -> None:
    z, z_teacher, ids = logits(9, 5003, gap=1e-3)
    leaf = z.double().requires_grad_()
    true = oracle(leaf, z_teacher, ids, spec)[0]

    pair, gradients = both_gradients(rows, z, z_teacher, ids, spec)

    assert float(true.detach().max()) < 1e-6  # below the rounding of a sum of float32 probabilities
    # Next to beta 0 and 1 the oracle itself is right to 3e-4 only: its terms cancel down to 4e-13.
    tolerance = 1e-3 if spec.beta in (1e-6, 1 - 1e-6) else 1e-6
    assert relative(pair.divergence, true.detach()) < tolerance
    (expected,) = torch.autograd.grad(true.sum(), leaf)
    assert relative(gradients[0], expected) < 1e-6


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_logits_of_ten_thousand_stay_finite(rows: Rows, divergence) -> None:
    z, z_teacher, ids = logits(9, 1001, gap=3e3, size=1e4)
    true = oracle(z, z_teacher, ids, RowSpec(divergence))
    pair, gradients = both_gradients(rows, z, z_teacher, ids, RowSpec(divergence))
    for name, expected in zip(NAMES, true, strict=True):
        mine = getattr(pair, name)
        assert mine.isfinite().all()
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-5, msg=name)
    assert gradients.isfinite().all()


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_tokens_ruled_out_by_both_or_by_one_of_them(rows: Rows, divergence) -> None:
    z, z_teacher, ids = logits(4, 3001, gap=1.0)
    z[:, :1500] = z_teacher[:, :1500] = -math.inf  # more than a block, so that one holds nothing but -inf
    # One more block's worth that only one may say: the other divergence would be infinite.
    (z if divergence == "reverse_kl" else z_teacher)[:, 1500:1700] = -math.inf
    ids.fill_(2000)
    leaf = z[:, 1500:].double().requires_grad_()
    true = oracle(leaf, z_teacher[:, 1500:], ids - 1500, RowSpec(divergence))

    pair, gradients = both_gradients(rows, z, z_teacher, ids, RowSpec(divergence))

    for name, expected in zip(NAMES, true, strict=True):
        assert relative(getattr(pair, name), expected.detach()) < 1e-6, name
    (expected,) = torch.autograd.grad(true[0].sum(), leaf)
    assert relative(gradients[0, :, 1500:], expected.nan_to_num()) < 1e-6
    assert not gradients[:, :, :1500].any()


def test_a_divergence_is_infinite_where_the_second_distribution_rules_out_what_the_first_says(rows: Rows) -> None:
    z, z_teacher, ids = logits(2, 70, gap=1.0)
    ids.fill_(7)
    z[:, 3] = -math.inf
    assert (both_gradients(rows, z, z_teacher, ids, RowSpec("forward_kl"))[0].divergence == math.inf).all()
    assert (both_gradients(rows, z_teacher, z, ids, RowSpec("reverse_kl"))[0].divergence == math.inf).all()


def test_equal_rows_have_no_divergence_and_no_gradient(rows: Rows) -> None:
    z, _, ids = logits(3, 999, gap=0.0)
    for spec in SPECS[:8]:
        pair, gradients = both_gradients(rows, z, z, ids, spec)
        assert pair.divergence is not None
        assert not pair.divergence.any()
        assert not gradients[0].any()


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_nan_is_not_hidden(rows: Rows, divergence) -> None:
    z, z_teacher, ids = logits(2, 2500, gap=1.0)
    z[0, 2000] = z_teacher[1, 10] = math.nan
    pair, _ = both_gradients(rows, z, z_teacher, ids, RowSpec(divergence))
    assert pair.divergence is not None
    assert pair.divergence.isnan().all()


def test_a_row_without_weight_has_a_zero_gradient_even_where_its_divergence_is_infinite(rows: Rows) -> None:
    z, z_teacher, ids = logits(3, 50, gap=1.0)
    ids.fill_(7)
    z_teacher[1, 3] = -math.inf
    spec = RowSpec("reverse_kl")
    student, teacher = z.clone(), z_teacher.clone()
    pair = rows.pair(student, teacher, ids, spec, has_gradient=True)
    weights = torch.tensor([1.0, 0.0, 2.0])
    rows.gradient(student, teacher, ids, spec, pair, divergence_weight=weights, logp_weight=0.5 * weights, out=student)
    assert not student[1].any()
    leaf = z.double().requires_grad_()
    true = oracle(leaf, z_teacher, ids, spec)
    kept = [0, 2]
    loss = (weights * (true[0] + 0.5 * true[1]))[kept].sum()
    (expected,) = torch.autograd.grad(loss, leaf)
    assert relative(student[kept], expected[kept]) < 1e-6


def test_statistics_of_one_model_alone(rows: Rows) -> None:
    z, _, ids = logits(9, 2049, gap=1.0)
    spec = RowSpec("forward_kl", inverse_temperature=0.7, student=AfterHead(1.3, 5.0))
    _, logp, _, entropy, _ = oracle(z, z, ids, spec)
    got = rows.statistics(in_padded_rows(z), ids, after=spec.student, inverse_temperature=0.7)
    assert relative(got.logp, logp) < 1e-6
    assert relative(got.entropy, entropy) < 1e-6


def test_a_student_without_a_teacher_has_the_gradient_of_its_log_probability(rows: Rows) -> None:
    z, _, ids = logits(9, 777, gap=1.0)
    spec = RowSpec("none", inverse_temperature=0.7, student=AfterHead(1.3, 5.0))
    leaf = z.double().requires_grad_()
    logp = _logits(leaf, spec.student, spec).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    weights = torch.linspace(-1, 2, 9)
    buffer = in_padded_rows(z)
    pair = rows.pair(buffer, None, ids, spec, has_gradient=True)
    rows.gradient(buffer, None, ids, spec, pair, divergence_weight=None, logp_weight=weights, out=buffer)
    assert pair.divergence is None
    assert relative(pair.student_logp, logp.detach()) < 1e-6
    (expected,) = torch.autograd.grad((weights * logp).sum(), leaf)
    assert relative(buffer, expected) < 1e-6


def test_float64_rows_are_exact_to_ten_digits() -> None:
    for spec in SPECS:
        z, z_teacher, ids = (
            tensor.double() if tensor.is_floating_point() else tensor for tensor in logits(5, 301, gap=1.0)
        )
        leaf = z.clone().requires_grad_()
        true = oracle(leaf, z_teacher, ids, spec)
        pair, gradients = both_gradients(TorchRows(), z, z_teacher, ids, spec)
        for name, expected in zip(NAMES, true, strict=True):
            # The oracle's own terms cancel for beta next to 0 and 1.
            assert relative(getattr(pair, name), expected.detach()) < (1e-10 if 1e-3 <= spec.beta <= 0.999 else 1e-8)
        (expected,) = torch.autograd.grad(true[0].sum(), leaf)
        assert relative(gradients[0], expected) < (1e-10 if 1e-3 <= spec.beta <= 0.999 else 1e-8)


def test_two_threads_compute_what_one_does() -> None:
    z, z_teacher, ids = logits(60, 9001, gap=1.0)
    spec = RowSpec("jsd")
    alone, gradients = both_gradients(c_rows(), z, z_teacher, ids, spec)
    torch.set_num_threads(2)
    try:
        together, same_gradients = both_gradients(c_rows(), z, z_teacher, ids, spec)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(getattr(alone, name), getattr(together, name)) for name in NAMES)
    assert torch.equal(gradients, same_gradients)
