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

// -> probabilities [rows, columns]
void distributions(Pool& pool, const Kernels& kernels, const Logits& logits, float* probs);

// Draws `wanted` different columns, in order, each from what is left of a distribution; those of probability 0 come
// after all others, any of them as likely as the next. All are -1 if a probability is no number.
void draw_ordered(const float* probs, int count, int wanted, const double* uniforms, std::int32_t* columns);

}  // namespace sequoia
