"""The losses are what their names say, and their gradients are autograd's."""

import pytest
import torch
from torch import Tensor

from sequoia_core.distill import losses
from sequoia_core.distill.losses import LOSSES, Weights, distance


def case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [6, 9], and the four most probable of 12 target tokens, of which the draft knows 9."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 9, generator=generator, dtype=torch.float32)
    target = torch.softmax(2 * torch.randn(6, 12, generator=generator), -1)
    top = target.topk(4, -1)
    known = top.indices < 9
    return logits, top.indices.clamp(max=8), top.values * known


def written_out(logits: Tensor, columns: Tensor, probs: Tensor, weights: Weights) -> Tensor:
    kl, tv = weights
    q = torch.softmax(logits, -1)
    total = torch.zeros(())
    for row in range(len(q)):
        for column, p in zip(columns[row], probs[row], strict=True):
            total = total - kl * p * q[row, column].log()
            total = total - tv * torch.minimum(p, q[row, column])
    return total / len(q) + tv


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("seed", range(5))
def test_value_and_gradient_are_those_of_the_formula(name: str, seed: int) -> None:
    logits, columns, probs = case(seed)
    head = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(7)))[0]
    found, expected = (
        ((logits @ head).requires_grad_(), head.clone().requires_grad_()) for _ in "ab"
    )
    loss = distance(found[0], found[1], columns, probs, LOSSES[name])
    wanted = written_out(expected[0] @ expected[1].T, columns, probs, LOSSES[name])
    torch.testing.assert_close(loss, wanted)
    (3 * loss).backward()  # type: ignore[no-untyped-call]
    (3 * wanted).backward()  # type: ignore[no-untyped-call]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_parts_of_the_rows_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, columns, probs = case(3)
    whole = (logits.clone().requires_grad_(), torch.eye(9, requires_grad=True))
    loss = distance(whole[0], whole[1], columns, probs, LOSSES["mix"])
    monkeypatch.setattr(losses, "_CPU_ROWS", 4)  # of 6
    parts = (logits.clone().requires_grad_(), torch.eye(9, requires_grad=True))
    other = distance(parts[0], parts[1], columns, probs, LOSSES["mix"])
    torch.testing.assert_close(other, loss)
    for each in (loss, other):
        each.backward()  # type: ignore[no-untyped-call]
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_products_are_autocast_s() -> None:
    logits, columns, probs = case(4)
    exact = distance(logits, torch.eye(9), columns, probs, LOSSES["mix"])
    with torch.autocast("cpu", torch.bfloat16):
        coarse = distance(logits, torch.eye(9), columns, probs, LOSSES["mix"])
    rounded = distance(logits.bfloat16().float(), torch.eye(9), columns, probs, LOSSES["mix"])
    assert coarse != exact
    torch.testing.assert_close(coarse, rounded, rtol=0.01, atol=0)


def test_total_variation_is_the_rejection_rate_and_least_where_both_agree() -> None:
    target = torch.tensor([[0.5, 0.3, 0.2]])
    columns = torch.tensor([[0, 1, 2]])
    same = distance(target.log(), torch.eye(3), columns, target, LOSSES["tv"])
    torch.testing.assert_close(same, torch.tensor(0.0))
    other = torch.tensor([[0.2, 0.3, 0.5]])
    apart = distance(other.log(), torch.eye(3), columns, target, LOSSES["tv"])
    torch.testing.assert_close(apart, torch.tensor(0.3))


def test_a_token_with_no_probability_left_gives_no_infinity() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    columns, probs = torch.tensor([[1]]), torch.tensor([[1.0]])
    loss = distance(logits, torch.eye(2), columns, probs, LOSSES["mix"])
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
