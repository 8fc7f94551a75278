"""Muon agrees with PyTorch's own, and its steps are orthogonal."""

import pytest
import torch

from sequoia_core.distill.muon import Muon, orthogonal

SHAPES = [(12, 12), (30, 8), (8, 30)]


def matrices(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_has_singular_values_of_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix, torch.float32))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert float((orthogonal(matrix, torch.float32) * (u @ v)).sum()) > 0.8 * min(shape)


def test_nothing_moves_without_a_gradient_and_a_zero_gradient_gives_numbers() -> None:
    still, zero = (torch.ones(4, 4, requires_grad=True) for _ in range(2))
    zero.grad = torch.zeros(4, 4)
    Muon([still, zero], lr=0.1, weight_decay=0.0, dtype=torch.float32).step()
    assert torch.equal(still, torch.ones(4, 4))
    assert torch.equal(zero, torch.ones(4, 4))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has none before 2.9")
def test_it_steps_as_pytorchs_does() -> None:
    ours, theirs = ([each.requires_grad_() for each in matrices(3)] for _ in range(2))
    one = Muon(ours, lr=0.02, weight_decay=0.1, dtype=torch.bfloat16)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(5):
        for gradients in (ours, theirs):
            for parameter, gradient in zip(gradients, matrices(10 + step), strict=True):
                parameter.grad = gradient.clone()
        one.step()
        other.step()  # type: ignore[no-untyped-call]
    for mine, reference, begun in zip(ours, theirs, matrices(3), strict=True):
        assert float((reference - begun).detach().norm()) > 0.1
        torch.testing.assert_close(mine, reference, rtol=0, atol=2e-3)
