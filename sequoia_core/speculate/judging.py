"""The sampling rules on a device: all nodes of a tree are judged there at once.

Every operation's shape follows from the growmap and nothing is read back in between, so that a
graph can capture them. The host reads one packed result and follows the accepted children in it.
`verify` has the same rules node by node, and these decide as they do.

After rejections p is max(p - t q - d, 0) / mass. Each adds to t the mass over what is left of q, or
where nothing is left of it, to d the mass over the number of tokens not tried; d is subtracted at
the draft's columns. So nothing is left at a rejected token.

Shapes as in `judge_plan`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sequoia_core.config import Mode
from sequoia_core.model.graphs import Rung
from sequoia_core.model.loading.memory_plan import memory_errors
from sequoia_core.model.recorded import CHECKED
from sequoia_core.speculate import verify
from sequoia_core.speculate.grown_plan import GrownPlan, GrownShape, PathPlan, attached
from sequoia_core.speculate.judge_plan import JudgePlan, NodeBlock, Vocabulary
from sequoia_core.speculate.judged_path import block_nodes, followed
from sequoia_core.speculate.remainders import (
    FLOAT,
    left_before,
    left_over,
    spread,
    trimmed_vocabulary,
)
from sequoia_core.speculate.sampling import (
    NUCLEUS_CANDIDATES,
    cut_probs,
    packed,
    unpacked,
)
from sequoia_core.speculate.scored_tree import DeviceSummary, ScoredTree
from sequoia_core.speculate.token_tree import DeviceNodes, FilledNodes, LookedUp
from sequoia_core.speculate.traversal import traverse
from sequoia_core.speculate.verify import AcceptanceRule, Verdict

_MEMORY_FULL = "the memory of {} is full; clear the chat or start again with a smaller model"


@dataclass(frozen=True, slots=True)
class Judge:
    """The `AcceptanceRule` of a sampling mode for trees whose logits lie on a device.

    Where a visited node's nucleus is larger than what was looked at, `verify` walks instead. Raises
    MemoryFullError, which depends on the tree's shape and on nothing that was drawn.
    """

    mode: Mode

    def __call__(self, scored: ScoredTree, generator: torch.Generator) -> Verdict:
        uniforms = _uniforms_of(scored, generator)
        with memory_errors(lambda: _MEMORY_FULL.format(scored.logits.device)):
            judging = Judging.of(scored, uniforms, self.mode)
            found = judging.recorded() or judging.packed()
            values = unpacked(found.values, found.sizes)
        scored.take(values[: found.known])
        by_row = uniforms.tolist()
        numbers = [by_row[row] for row in scored.rows]
        nodes = block_nodes(scored, judging.shape, judging.path)
        verdict = followed(scored, self.mode, nodes, numbers, values[found.known :])
        return verdict or verify.walk(scored, numbers, self.mode)


def _uniforms_of(scored: ScoredTree, generator: torch.Generator) -> Tensor:
    """Uniform numbers of all rows that the target has read: float64 [T] on the CPU."""
    if scored.uniforms is not None:
        return scored.uniforms.host
    size = scored.drafted.read_shape.size
    return torch.rand(size, generator=generator, dtype=torch.float64)


def rule_of(mode: Mode, device: torch.device) -> AcceptanceRule:
    """The rule of a sampling mode where the target's logits are on this device.

    Modes without a rule of their own have that of `sequoia`.
    """
    if mode is Mode.TRAVERSE:  # on a device as well it reads what it visits
        return traverse
    rules = {Mode.TOPK: verify.topk, Mode.SPECINFER: verify.specinfer}
    if device.type != "cpu":
        return Judge(mode if mode in rules else Mode.SEQUOIA)
    return rules.get(mode, verify.sequoia)


class _Attempts(NamedTuple):
    """Each node compared as if its earlier siblings had all been rejected: float64 [T]."""

    p: Tensor
    q: Tensor
    after: Tensor  # [T, 2], t and d when it is rejected as well; 0 for the root
    complete: list[Tensor]  # with top-p, of each block bool [n]: whether the nuclei are whole


class _Packed(NamedTuple):
    """What the host reads."""

    values: Tensor  # float64
    sizes: list[int]  # of each tensor in it
    known: int  # how many of these are read by `ScoredTree.take`
    draft_probs: Tensor  # that it was made of


class _JudgeKey(NamedTuple):
    """What lies in a recording as numbers and addresses."""

    shape: JudgePlan | GrownShape
    path: PathPlan | None
    vocabulary: Vocabulary | None
    mode: Mode
    shaping: tuple[float, ...]
    inputs: tuple[tuple[int, ...], ...]  # addresses and shapes


@dataclass(frozen=True)  # without slots, for the cached property
class Judging:
    """A scored tree and what judging takes besides, all on the logits' device."""

    scored: ScoredTree
    mode: Mode
    shape: JudgePlan | GrownShape
    path: PathPlan | None  # of a tree with a path that was looked up
    vocabulary: Vocabulary | None
    drafted: DeviceNodes  # `draft_prob` of a node that was not drawn is 1
    uniforms: Tensor  # float64 [T]

    @classmethod
    def of(cls, scored: ScoredTree, uniforms: Tensor, mode: Mode) -> "Judging":
        """With uniform numbers float64 [T], in one copy to the device."""
        tree, device = scored.drafted, scored.logits.device
        whole, certain = scored.params.shapes, mode is Mode.TOPK
        vocabulary, given, nodes = trimmed_vocabulary(scored), scored.uniforms, tree.nodes
        numbers = None if given is None else given.device
        if tree.grown is not None:
            drawn, path = not certain and tree.draft_probs.numel() > 0, None
            if isinstance(tree.grown, LookedUp):
                assert isinstance(nodes, DeviceNodes)
                path, drafted = PathPlan.of(tree, tree.grown), nodes
                shape = GrownShape(path.size, path.most, path.levels, whole, drawn)
            else:
                drafted = tree.grown.nodes
                most = (tree.grown.most,) * len(tree.draft_probs)
                size = len(tree.grown.parents)
                shape = GrownShape(size, most, tree.grown.levels, whole, drawn)
            if numbers is None:
                numbers = pad(uniforms, (0, shape.size - len(uniforms))).to(device)
            return cls(scored, mode, shape, path, vocabulary, drafted, numbers)
        plan = JudgePlan.of(tree, device, certain=certain, whole=whole)
        if isinstance(nodes, DeviceNodes):
            numbers = uniforms.to(device) if numbers is None else numbers
            return cls(scored, mode, plan, None, vocabulary, nodes, numbers)
        if numbers is not None and tree.device_ids is not None:
            ids = tree.device_ids
            drafted = DeviceNodes(ids, ids, ids)  # one node, of which no more is looked at
            return cls(scored, mode, plan, None, vocabulary, drafted, numbers)
        host = [*map(list, (nodes.token_ids, nodes.columns, nodes.draft_prob)), uniforms.tolist()]
        there = torch.tensor(host, dtype=FLOAT, device=device)
        ids, columns, probs, numbers = there.unbind(0)
        drafted = DeviceNodes(ids.long(), columns.long(), probs)
        return cls(scored, mode, plan, None, vocabulary, drafted, numbers)

    @cached_property
    def _grown(self) -> FilledNodes | None:
        grown = self.scored.drafted.grown
        if isinstance(grown, LookedUp):
            assert self.path is not None
            return attached(self.path, self.drafted, grown.filled)
        return grown

    @cached_property
    def plan(self) -> JudgePlan | GrownPlan:
        if isinstance(self.shape, JudgePlan):
            return self.shape
        assert self._grown is not None
        return GrownPlan(self.shape, self._grown, self.path.rows if self.path else None)

    @cached_property
    def nodes(self) -> DeviceNodes:
        """All of the tree: `T` each."""
        return self.drafted if self._grown is None else self._grown.nodes

    @cached_property
    def scores(self) -> DeviceSummary:
        if isinstance(self.scored.scores, DeviceSummary):
            return self.scored.scores
        temperature, ids = self.scored.params.temperature, self.nodes.token_ids
        return DeviceSummary.of(self.scored.logits, self.plan.parents, ids, temperature)

    def packed(self) -> _Packed:
        """What `ScoredTree.take` and `followed` read."""
        known = self.scored.unread(self.scores)
        tensors = (*known, *self.judged())
        sizes = [each.numel() for each in tensors]
        return _Packed(packed(tensors), sizes, len(known), self.scored.drafted.draft_probs)

    def recorded(self) -> _Packed | None:
        """The same by a recording, if all that is read lies where it has lain before.

        The first times it is compared with what is computed without.
        """
        given, scored, drafted = self.scored.uniforms, self.scored, self.scored.drafted
        if given is None or given.graphs is None or scored.scores is not None:
            return None
        inputs, grown, stated = [scored.logits, *self.drafted, self.uniforms], drafted.grown, None
        if isinstance(grown, FilledNodes):  # what the draft states is copied to a place that stays
            inputs += [grown.parents, grown.read, grown.appended]
            stated = drafted.draft_probs
        else:
            inputs += [drafted.draft_probs, *(() if grown is None else (grown.filled,))]
        shaping = scored.params.temperature, scored.params.top_p, scored.params.top_k
        places = tuple((each.data_ptr(), *each.shape) for each in inputs)
        key = _JudgeKey(self.shape, self.path, self.vocabulary, self.mode, shaping, places)
        before = given.graphs.count(key)
        if not before:
            return None
        new = key not in given.graphs.known
        if stated is not None and new:
            drafted = replace(drafted, draft_probs=torch.zeros_like(stated))

        def work() -> _Packed:
            # anew each time, as nothing that was computed before may be part of it
            return replace(self, scored=replace(scored, drafted=drafted)).packed()

        recording = given.graphs.recording(key, work, Rung.LOOPS)
        if recording is None:
            return None
        if stated is not None:
            recording.outputs.draft_probs.copy_(stated)
        found = recording.replay()
        if new or before <= CHECKED:
            expected = self.packed().values
            if not torch.allclose(found.values, expected, 1e-6, 1e-9, equal_nan=True):
                given.graphs.step_down(Rung.FORWARDS, "a tree was judged otherwise than without")
                return None
        return found

    def judged(self) -> tuple[Tensor, ...]:
        """Of each node [T] p, q, whether it is accepted, and t and d if it is rejected.

        Then the bonus token after the path's end, its log probability before top-p and top-k, and
        with top-p whether the nuclei are whole: at the end, and at `JudgePlan.block_nodes`.
        """
        found = self._attempts()
        accepted = self.uniforms * found.q < found.p  # r < p / q, without dividing by zero
        end = self.plan.nodes.masked_fill(self.plan.broken(accepted), 0).amax(0, keepdim=True)
        bonus = self._bonus(found.after, end)
        return (found.p, found.q, accepted, *found.after.unbind(1), *bonus, *found.complete)

    def _attempts(self) -> _Attempts:
        plan = self.plan
        states = [torch.cat((self.scores.own.exp()[:, None], plan.start), 1)]
        divisors, complete = [plan.first], list[Tensor]()
        drawn_prob = self.nodes.draft_prob.double()
        for block in plan.blocks:
            _, p, whole = self._probs(block.nodes)
            complete += [] if whole is None else [whole]
            tokens = self.nodes.token_ids[block.children]  # [n, K]
            if block.drawn:
                q = self._drafted(block.rows)
                divisors.append(self._divisors(q, drawn_prob, block))
                states.append(self._drawn_states(p, q, tokens, divisors[-1], block))
            else:
                states.append(self._certain_states(p, tokens, block))
        found = torch.cat([each.view(-1, 4) for each in states])[plan.attempts]
        mass, coefficients = found[:, 1:2], found[:, 2:]
        p = (found[:, 0] / mass[:, 0]).nan_to_num_(0.0, 1.0)  # without mass p = q up to rounding
        if not plan.drawn:
            return _Attempts(p, torch.ones_like(p), coefficients, complete)
        divided = torch.cat([each.view(-1, 2) for each in divisors])[plan.divisors]  # [T, 2]
        q = torch.addcdiv(divided[:, 1].reciprocal(), drawn_prob, divided[:, 0])
        return _Attempts(p, q, torch.addcdiv(coefficients, mass, divided), complete)

    def _probs(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The target's logits and p, float32 [n, V]; with top-p bool [n]: is the nucleus whole."""
        logits = self.scored.logits.index_select(0, nodes)
        return logits, *cut_probs(logits, self.scored.params, NUCLEUS_CANDIDATES)

    def _drafted(self, rows: Tensor) -> Tensor:
        """The draft: float32 [n, V_draft], of rows int64 [n]."""
        return self.scored.drafted.draft_probs.index_select(0, rows)

    def _certain_states(self, p: Tensor, tokens: Tensor, block: NodeBlock) -> Tensor:
        """States at children none of which was drawn: a rejection takes one token out of p."""
        picked = p.gather(1, tokens).double()
        mass = left_before(p, picked * block.counted, tokens)
        nothing = torch.zeros_like(mass)
        return torch.stack((picked, mass, nothing, nothing), -1)

    def _divisors(self, q: Tensor, drawn_prob: Tensor, block: NodeBlock) -> Tensor:
        """What the mass is divided by to be added to t and d; one is infinite: [n, K, 2]."""
        (count, ranks), width = block.children.shape, q.shape[1]
        found = torch.full((count, ranks, 2), inf, dtype=FLOAT, device=q.device)
        if self.mode is Mode.SPECINFER:
            found[:, :, 0].fill_(1.0)
        elif ranks > 1:
            picked = drawn_prob[block.taken] * block.counted
            left = left_before(q, picked, self.nodes.columns[block.taken])
            untried = torch.arange(width, width - ranks, -1, dtype=FLOAT, device=q.device)
            used_up = left <= 0
            found[:, :, 1].copy_(untried.clamp_(min=1.0)).masked_fill_(~used_up, inf)
            found[:, :, 0].copy_(left.masked_fill_(used_up, inf))
        found[:, 0, 0].fill_(1.0)  # a first child was drawn from q as it is
        return found

    def _drawn_states(
        self, p: Tensor, q: Tensor, tokens: Tensor, divisors: Tensor, block: NodeBlock
    ) -> Tensor:
        """What p has left at each child [n, K], its mass, t and d: [n, K, 4].

        A certain child after the drawn ones is compared with what these left.
        """
        states = torch.zeros((*tokens.shape, 4), dtype=FLOAT, device=p.device)
        states[:, 0, 1].fill_(1.0)
        if self.plan.whole:
            states[:, 0, 0].copy_(p.gather(1, tokens[:, :1])[:, 0])
        q = spread(q, self.vocabulary, p.shape[1])
        for rank in range(1, tokens.shape[1]):
            rows = block.widths[rank]
            before, state = states[:rows, rank - 1], states[:rows, rank]
            torch.addcdiv(
                before[:, 2:], before[:, 1:2], divisors[:rows, rank - 1], out=state[:, 2:]
            )
            even = self.mode is Mode.SEQUOIA and rank > 1
            left = left_over(p[:rows], q[:rows], state[:, 2:], self.vocabulary, even=even)
            torch.sum(left, -1, keepdim=True, out=state[:, 1:2])
            torch.gather(left, 1, tokens[:rows, rank : rank + 1], out=state[:, :1])
        return states

    def _bonus(self, after: Tensor, end: Tensor) -> tuple[Tensor, ...]:
        """Drawn at node `end`, int64 [1]: see `judged`; -1 where a probability is no number."""
        logits, p, whole = self._probs(end)
        left = p.double()  # [1, V]
        if self.plan.drawn:
            q = self._drafted(self.plan.rows.index_select(0, end))
            q = spread(q, self.vocabulary, p.shape[1])
            last = self.plan.last_drawn.index_select(0, end)
            left = left_over(p, q, after.index_select(0, last), self.vocabulary)
        rejected = self.plan.certain_below(end, self.nodes.token_ids, p.shape[1])
        if rejected is not None:
            left = pad(left, (0, 1)).index_fill_(1, rejected, 0.0)[:, :-1]
        left = torch.where(left.sum(-1, keepdim=True) > 0, left, p)  # or p = q up to rounding
        order = None
        if self.vocabulary is not None:
            order = self.vocabulary.orders[self.plan.orders.index_select(0, end)]  # [1, V]
            left = left.gather(1, order)
        sums = left.cumsum(-1)
        total = sums[:, -1:]
        token = torch.searchsorted(sums, self.uniforms[:1] * total, right=True)
        token = torch.minimum(token, (sums < total).sum(-1, keepdim=True))  # an end by rounding
        if order is not None:
            token = order.gather(1, token)
        own = logits.gather(1, token).double()
        log_prob = own / self.scored.params.temperature - self.scores.log_totals[end]
        bonus = token.masked_fill(~(total > 0), -1), log_prob
        return bonus if whole is None else (*bonus, whole)
