// The arithmetic of a forward pass, compiled once for each instruction set.
//
// Every function gives a row the same bits whatever rows are computed with it: tiles group chains of
// operations, they never split or reorder one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matrix.hpp"

namespace sequoia {

// Numbers of a quantised group of 32 activations, y = scale * code + center.
enum GroupNumber { SCALE, CENTER, SUM, FIRST_CODES, SECOND_CODES, GROUP_NUMBERS };
// SUM is that of the quantised values; FIRST_CODES and SECOND_CODES are int32, the sums of 16 codes each.

// Rows that a product reads together.
struct Tile {
    int rows;
    const std::int8_t* codes;      // [group][rows][32]
    const float* numbers;          // [group][GROUP_NUMBERS][rows]
    const std::uint32_t* bfloats;  // [column / 2][pair_words][rows]
    const float* floats;           // [column][rows]
};

// Of a row of logits: the first of its largest ones, ln(sum(exp(logit / temperature))), and the log probability of that
// one.
struct RowSummary {
    double argmax, log_total, log_peak;
};

// Where the keys and values of one layer and KV head lie.
struct HeadMemory {
    const std::byte* const* pages;
    std::size_t key_offset;    // of blocks [16 keys] as [D][16]
    std::size_t value_offset;  // of rows [D padded]
    int head_dim, padded_dim;
    bool halves;  // elements are float16, else float32
};

constexpr int PAGE_KEYS = 256;
constexpr int MOST_QUERIES = 6;

struct Kernels {
    const char* name;
    int tile_rows;
    int query_tile;
    std::uint8_t code_flip;
    int pair_words;  // words of two bfloat16 columns: 1, the even one in the lower half, or 2, widened to float32
    // 16 outputs of each row of the tile -> out[row * stride + 0..15]; reads `ahead` bytes further into the cache
    void (*product)(const Matrix& matrix, int block, const Tile& tile, float* out, std::size_t stride,
                    std::size_t ahead);
    // groups of 32 values -> codes at every 32 * rows bytes and numbers at every `rows` floats
    void (*quantize)(const float* values, int groups, int rows, std::int8_t* codes, float* numbers);
    // groups of 32 values -> the same rounded to bfloat16, to nearest even, at every `rows` words
    void (*round_pairs)(const float* values, int groups, int rows, std::uint32_t* pairs);
    // y = x * weight / rms(x); `padded` is a multiple of 32, weights past `count` are zero
    void (*rms_norm)(const float* x, const float* weight, int count, int padded, float epsilon, float* y);
    // gate = silu(gate) * up
    void (*swiglu)(float* gate, const float* up, int count);
    // gate = gelu(gate) * up, by tanh
    void (*geglu)(float* gate, const float* up, int count);
    // to[0, count) += from
    void (*add)(float* to, const float* from, int count);
    // count is a multiple of 16
    void (*to_halves)(const float* from, int count, std::uint16_t* to);
    // scores[q * stride + key] of `blocks` blocks of 16 keys, for up to MOST_QUERIES queries [D]
    void (*scores)(const HeadMemory& memory, const float* const* queries, int count, int blocks, float* scores,
                   std::size_t stride);
    // values = cap * tanh(value / cap), or no number where that is none; writes up to 15 beyond
    void (*softcap)(float* values, int count, float cap);
    // scores -> exp(score - max) of the first `count`; returns 1 / their sum; writes up to 15 beyond
    float (*softmax)(float* scores, int count);
    // out[q][d] += weights[q * stride + key] * value[key][d] for keys [0, keys), ascending
    void (*values)(const HeadMemory& memory, const float* weights, std::size_t stride, int count, int keys, float* out);
    // as `values`, for one query and listed keys
    void (*listed_values)(const HeadMemory& memory, const float* weights, const std::int32_t* keys, int count,
                          float* out);
    void (*multiply)(float* values, float factor, int count);
    RowSummary (*summarize)(const float* logits, int count, float inverse_temperature);
    // columns of the `wanted` largest logits in descending order, of equal ones the first first; wanted <= count
    void (*top)(const float* logits, int count, int wanted, std::int32_t* columns);
    // logits -> probabilities
    void (*distribution)(const float* logits, int count, float inverse_temperature, float* probs);
};

// This thread calls it before it sleeps or leaves a job, unless it is null. Set by kernels that hold registers of
// their own, which make context switches slower and prevent the processor's deeper sleep.
using GiveBack = void (*)();
extern constinit thread_local GiveBack give_back;

// Whether AMX's tiles can be used: CPUID's leaf 7 has them in EDX, and the system saves them.
bool has_tiles(unsigned features, unsigned saved);
// Asks the system to let this process use them; false if it refuses. Signal stacks must be larger from then on.
bool ask_for_tiles();

// The best compiled kernels that this processor runs, or those of the name; null for a name that is unknown,
// unsupported or refused by the system. Permission for tiles is requested here, when they are to be used.
const Kernels* find_kernels(const char* name_or_null);
// Names of those that this processor runs, best first, separated by spaces; last, those used only if named.
const char* kernel_names();

}  // namespace sequoia
