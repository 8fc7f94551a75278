"""A tree under its mask gives each branch the logits it would get alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.engines import tree_of
from tests.core.models import fresh_logits, path_to, tiny_llama

MODELS = {
    "grouped": tiny_llama(5),
    "one head each": tiny_llama(6, num_kv_heads=4),
    "one for all": tiny_llama(7, num_kv_heads=1),
}


@given(
    parents=st.lists(st.integers(0, 30), max_size=14),
    prefix=st.lists(st.integers(0, 60), max_size=10),
    name=st.sampled_from(sorted(MODELS)),
    seed=st.integers(0, 100),
    masked=st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_every_branch_reads_as_if_it_were_alone(
    parents: list[int], prefix: list[int], name: str, seed: int, masked: int
) -> None:
    """Whether or not its mask says that the tokens before the tree are visible."""
    model, growmap = MODELS[name], tree_of(parents)
    tokens = torch.randint(61, (growmap.size,), generator=torch.Generator().manual_seed(seed))
    cache = model.new_cache()
    if prefix:
        model.extend(torch.tensor(prefix), cache)
    seen = torch.ones(growmap.size, min(masked, len(prefix)), dtype=torch.bool)
    mask = torch.cat((seen, growmap.ancestor_mask()), dim=1)
    logits = model.forward(tokens, torch.tensor(growmap.depths) + len(prefix), mask, cache)
    for leaf in range(growmap.size):
        path = path_to(growmap.parents, leaf)
        expected = fresh_logits(model, torch.tensor([*prefix, *tokens[path].tolist()]))
        torch.testing.assert_close(logits[leaf], expected[-1], atol=2e-4, rtol=1e-4)


@given(rows=st.integers(1, 40), chunks=st.lists(st.integers(1, 12), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_extending_equals_forwarding(rows: int, chunks: list[int]) -> None:
    model, tokens = MODELS["grouped"], torch.arange(rows + sum(chunks)) % 61
    cache = model.new_cache()
    for chunk in torch.split(tokens[: sum(chunks)], chunks):
        model.extend(chunk, cache)
    positions = torch.arange(sum(chunks), len(tokens))
    logits = model.forward(tokens[sum(chunks) :], positions, None, cache)
    whole = fresh_logits(model, tokens)
    torch.testing.assert_close(logits, whole[sum(chunks) :], atol=2e-4, rtol=1e-4)
