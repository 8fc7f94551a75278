"""How large and how often things are measured: on a GPU, and, to try the code, anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sequoia_core.model.config import ModelConfig

LONGEST = 256  # tokens of a known text before it begins anew


def llama_entries(sizes: Sequence[int], window: int, theta: float = 10000.0) -> Mapping[str, Any]:
    """The `config.json` of a Llama: V, hidden, intermediate, L, H, K and the context window."""
    vocab, hidden, inner, layers, heads, kv_heads = sizes
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": window,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": False,
    }


@dataclass(frozen=True, slots=True)
class Workload:
    """A pair of shapes, and what is measured with it."""

    name: str
    target: Mapping[str, Any]  # `config.json`
    draft: Mapping[str, Any]
    rows: tuple[int, ...]  # of forwards
    contexts: tuple[int, ...]
    trees: tuple[tuple[int, int], ...]  # nodes and depth
    chain: int  # drafted tokens of it
    prompt: int  # tokens
    tokens: int  # decoded after it
    judged: tuple[int, int]  # the tree of which sampled steps are judged

    @property
    def configs(self) -> tuple[ModelConfig, ModelConfig]:
        return ModelConfig.from_hf(self.target), ModelConfig.from_hf(self.draft)

    @property
    def text_length(self) -> int:
        """Tokens of the text that both models know: each takes a dimension."""
        return min(LONGEST, *(config.hidden_size for config in self.configs))

    @property
    def prompt_ids(self) -> list[int]:
        return [at % self.text_length for at in range(self.prompt)]


@dataclass(frozen=True, slots=True)
class Scale:
    workloads: tuple[Workload, Workload]  # the second has a large vocabulary and grouped heads
    planned: float  # how much of the seconds that are planned for a part it may take
    copied: int  # numbers, for the bandwidth
    matrix: tuple[int, int]  # that one row is multiplied with
    squares: tuple[int, ...]  # sides of square matrices that are multiplied
    repeats: int  # calls behind a median
    calls: int  # in a row, of small things
    draws: int  # behind a chi-square figure
    checked: int  # tokens that are compared with plain decoding's
    spans: tuple[int, ...]  # keys of attention
    attention_rows: tuple[int, ...]
    largest_trees: tuple[tuple[int, int], ...]  # whose memory is measured


SMALL_DRAFT = (768, 3072, 2, 12, 12)  # of 68 million parameters at a vocabulary of 32,000

GPU = Scale(
    workloads=(
        Workload(
            "Llama-2-7B and 68M",
            llama_entries((32000, 4096, 11008, 32, 32, 32), 4096),
            llama_entries((32000, *SMALL_DRAFT), 4096),
            rows=(1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256),
            contexts=(128, 1000, 3500),
            trees=((16, 4), (32, 6), (64, 8), (128, 10)),
            chain=7,
            prompt=128,
            tokens=256,
            judged=(64, 8),
        ),
        Workload(
            "Llama-3-8B and a draft of 2 layers",
            llama_entries((128256, 4096, 14336, 32, 32, 8), 8192, 500000.0),
            llama_entries((128256, *SMALL_DRAFT), 8192, 500000.0),
            rows=(1, 8, 16, 32, 64, 128),
            contexts=(128, 1000, 7000),
            trees=((32, 6), (64, 8)),
            chain=7,
            prompt=128,
            tokens=256,
            judged=(64, 8),
        ),
    ),
    planned=1.0,
    copied=1 << 29,
    matrix=(88064, 4096),  # far more than caches hold
    squares=(4096, 8192),
    repeats=10,
    calls=200,
    draws=2000,
    checked=120,
    spans=(256, 1024, 4096, 32768),
    attention_rows=(1, 8, 64, 128),
    largest_trees=((64, 8), (128, 10), (768, 18)),
)
TINY = Scale(
    workloads=(
        Workload(
            "tiny",
            llama_entries((512, 64, 128, 3, 4, 4), 1024),
            llama_entries((512, 32, 64, 1, 2, 2), 1024),
            rows=(1, 2, 8),
            contexts=(24, 300),
            trees=((16, 4), (32, 5)),
            chain=3,
            prompt=24,
            tokens=32,
            judged=(32, 5),
        ),
        Workload(
            "tiny, with grouped heads",
            llama_entries((1000, 64, 128, 2, 4, 2), 1024, 500000.0),
            llama_entries((1000, 32, 64, 1, 2, 2), 1024, 500000.0),
            rows=(1, 8),
            contexts=(24,),
            trees=((16, 4),),
            chain=3,
            prompt=24,
            tokens=24,
            judged=(16, 4),
        ),
    ),
    planned=0.0,
    copied=1 << 20,
    matrix=(256, 128),
    squares=(128,),
    repeats=2,
    calls=20,
    draws=400,
    checked=40,
    spans=(320,),
    attention_rows=(1, 8),
    largest_trees=((16, 4),),
)
