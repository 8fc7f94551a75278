// Distributions over rows of logits, each row computed by one thread of a pool.
#pragma once

#include "kernels.hpp"
#include "pool.hpp"

namespace sequoia {

struct Logits {
    const float* values;  // [rows, columns]
    int rows, columns;
    float inverse_temperature;
};

// Targets of training from rows of logits, and their drawn continuations.
struct Labels {
    const float* temperatures;  // [rows], of the drawn columns; 0 takes the most probable one
    const double* uniforms;     // [rows] in [0, 1)
    int wanted;                 // columns of each row
    std::int32_t* columns;      // [rows, wanted], the most probable ones
    float* probs;               // their probabilities at the temperature of the logits
    std::int32_t* drawn;        // [rows], -1 in a row with a logit that is no number
};

void label(Pool& pool, const Kernels& kernels, const Logits& logits, const Labels& labels);

// -> probabilities [rows, columns]
void distributions(Pool& pool, const Kernels& kernels, const Logits& logits, float* probs);

// Draws `wanted` different columns in order, without replacement; those of probability 0 come after all others, with
// equal probability. All are -1 if a probability is no number.
void draw_ordered(const float* probs, int count, int wanted, const double* uniforms, std::int32_t* columns);

}  // namespace sequoia
