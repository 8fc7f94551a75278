"""Names of the benchmark's systems, in its report and between its processes."""

PLAIN = "sequoia plain"
CHAIN = "sequoia chain"
BLOCK = "sequoia chain of 3, block verification"
PACKAGED = "sequoia tree, packaged shape"
PACKAGED_LOOKUP = "sequoia tree, packaged shape, look-up"
TREE = "sequoia tree"
LOOKUP = "sequoia tree, look-up"
ADAPTIVE = "sequoia adaptive tree"
ADAPTIVE_LOOKUP = "sequoia adaptive tree, look-up"
TRAVERSAL = "sequoia adaptive tree, traversal"
DYNAMIC = "EAGLE's dynamic tree, 60 nodes"
DYNAMIC_MEASURED = "EAGLE's dynamic tree, measured bounds"
PYTORCH = "sequoia plain, PyTorch"
AVX2 = "sequoia plain, AVX2"
FLOAT32_AVX2 = "sequoia plain, PyTorch float32, AVX2"
HF_PLAIN = "Hugging Face generate"
HF_ASSISTED = "Hugging Face assisted"
HF_LOOKUP = "Hugging Face prompt lookup"
LLAMA_CPP = "llama.cpp"
LLAMA_CPP_Q4_0 = "llama.cpp, Q4_0"
LLAMA_CPP_LOOKUP = "llama.cpp prompt lookup"
LLAMA_CPP_DRAFT = "llama.cpp with the draft"
LLAMA_SERVER = "llama.cpp server"
LLAMA_SERVER_Q4_0 = "llama.cpp server, Q4_0"
LLAMA_SERVER_LOOKUP = "llama.cpp server, n-grams"
OPENVINO = "OpenVINO GenAI"
OPENVINO_SPECULATIVE = "OpenVINO GenAI speculative"

TREES = (
    CHAIN, BLOCK, PACKAGED, PACKAGED_LOOKUP, TREE, LOOKUP, ADAPTIVE, ADAPTIVE_LOOKUP, TRAVERSAL,
    DYNAMIC, DYNAMIC_MEASURED,
)  # fmt: skip
"""This engine's ways to speculate. Two differ from others above temperature 0 alone: see the mode
`traverse`."""


def busy(name: str) -> str:
    """The name of a system that runs while a process is busy."""
    return f"{name}, with a busy process"
