/* The C interface of the native forward pass. Callers check sizes; functions that can fail return 0 for
 * success or leave a message for sequoia_error(). Structs begin with their size, so that a library and a
 * caller of different versions notice. */
#ifndef SEQUOIA_ABI_H
#define SEQUOIA_ABI_H

#include <stddef.h>
#include <stdint.h>

#define SEQUOIA_ABI_VERSION 2
#define SEQUOIA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sequoia_pool sequoia_pool;
typedef struct sequoia_model sequoia_model;
typedef struct sequoia_cache sequoia_cache;

typedef struct {
    uint32_t size;
    int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab, head_rows;
    float norm_epsilon;
    int32_t half_cache;
    int32_t feature_count;
    const int32_t* feature_layers;
    int32_t target_features;
    const float* inverse_frequencies; /* [head_dim / 2] */
} sequoia_model_shape;

typedef struct {
    uint32_t size;
    int32_t rows;
    sequoia_cache* cache;
    const sequoia_cache* target_cache; /* may be null */
    const uint8_t* mask;               /* [rows, length + rows]; null is causal */
} sequoia_segment;

typedef struct {
    uint32_t size;
    int32_t rows, columns;
    float inverse_temperature;
    const float* values; /* [rows, columns] */
} sequoia_logits;

SEQUOIA_API int32_t sequoia_abi_version(void);
SEQUOIA_API const char* sequoia_error(void);        /* of this thread's last call that failed */
SEQUOIA_API const char* sequoia_instruction_sets(void); /* that this processor runs, best first */

SEQUOIA_API sequoia_pool* sequoia_pool_new(int32_t threads);
SEQUOIA_API void sequoia_pool_free(sequoia_pool* pool);

/* instruction_set: a name out of sequoia_instruction_sets(), or null for the best.
 * embedding_of: a model whose embedding this one reads, or null. */
SEQUOIA_API sequoia_model* sequoia_model_new(const sequoia_model_shape* shape, sequoia_pool* pool,
                                             const char* instruction_set, sequoia_model* embedding_of);
SEQUOIA_API void sequoia_model_free(sequoia_model* model);
/* format: as in GGUF (ggml_type); part, vector: see Part and Vector in model.hpp */
SEQUOIA_API int32_t sequoia_model_declare(sequoia_model* model, int32_t layer, int32_t part, int32_t format,
                                          int32_t rows, int32_t columns);
SEQUOIA_API int32_t sequoia_model_allocate(sequoia_model* model);
SEQUOIA_API int32_t sequoia_model_fill(sequoia_model* model, int32_t layer, int32_t part, const uint8_t* rows,
                                       size_t bytes, int32_t interleaved_rotary);
SEQUOIA_API int32_t sequoia_model_set_scale(sequoia_model* model, int32_t layer, int32_t part, const float* values,
                                            int32_t count);
SEQUOIA_API int32_t sequoia_model_set_bias(sequoia_model* model, int32_t layer, int32_t part, const float* values,
                                           int32_t count, int32_t interleaved_rotary);
SEQUOIA_API int32_t sequoia_model_set_vector(sequoia_model* model, int32_t layer, int32_t vector, const float* values,
                                             int32_t count);
SEQUOIA_API size_t sequoia_model_bytes(const sequoia_model* model);

SEQUOIA_API sequoia_cache* sequoia_cache_new(const sequoia_model* model);
SEQUOIA_API void sequoia_cache_free(sequoia_cache* cache);
SEQUOIA_API int32_t sequoia_cache_length(const sequoia_cache* cache);
SEQUOIA_API size_t sequoia_cache_bytes(const sequoia_cache* cache);
SEQUOIA_API int32_t sequoia_cache_truncate(sequoia_cache* cache, int32_t length);
SEQUOIA_API int32_t sequoia_cache_keep(sequoia_cache* cache, int32_t committed, const int32_t* rows, int32_t count);

/* logits: [rows of all segments, head_rows], or null to compute none */
SEQUOIA_API int32_t sequoia_forward(sequoia_model* model, const sequoia_segment* segments, int32_t segment_count,
                                    const int64_t* token_ids, const int64_t* position_ids, float* logits);

/* A tree's nodes are rows of logits: parents, tokens: [rows], the root its own parent.
 * summaries: [rows, 3], the first column with the largest logit, ln(sum(exp(logit * inverse_temperature))), and the
 * log probability of the node's token at its parent */
SEQUOIA_API int32_t sequoia_summarize(sequoia_pool* pool, const sequoia_logits* logits, const int64_t* parents,
                                      const int64_t* tokens, double* summaries);
/* columns, probs: [rows, wanted], the most probable ones, falling */
SEQUOIA_API int32_t sequoia_top(sequoia_pool* pool, const sequoia_logits* logits, int32_t wanted, int32_t* columns,
                                float* probs);
/* probs: [rows, columns] */
SEQUOIA_API int32_t sequoia_distributions(sequoia_pool* pool, const sequoia_logits* logits, float* probs);
/* probs: [rows, columns]; uniforms: [rows, wanted] in [0, 1); drawn: [rows, wanted], no column of a row twice;
 * picked: their probabilities; peaks: [rows], the largest probability of each row */
SEQUOIA_API int32_t sequoia_draw_ordered(const float* probs, int32_t rows, int32_t columns, int32_t wanted,
                                         const double* uniforms, int32_t* drawn, float* picked, float* peaks);

#ifdef __cplusplus
}
#endif
#endif
