/* The C interface of the native forward pass. Callers check sizes; functions that can fail return 0 for
 * success or leave a message for sequoia_error(). Structs begin with their size, so that a library and a
 * caller of different versions notice. */
#ifndef SEQUOIA_ABI_H
#define SEQUOIA_ABI_H

#include <stddef.h>
#include <stdint.h>

#define SEQUOIA_ABI_VERSION 13
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
    int32_t gelu;                     /* of gates, by tanh; else SiLU */
    int32_t rotary_dim;               /* the first dimensions of each head, which rotate */
    int32_t rotations;                /* tables of frequencies */
    const float* inverse_frequencies; /* [rotations, rotary_dim / 2] */
    const float* rotary_magnitudes;   /* [rotations], of rotated queries and keys */
    const int32_t* layer_rotations;   /* [layers], a layer's table, or -1 where positions do not rotate */
    const int32_t* layer_windows;     /* [layers], the visible keys that a row attends to, the last ones; 0 is all */
    float attention_scale;            /* of scores; 0 is 1 / sqrt(head_dim) */
    float embedding_multiplier, residual_multiplier, logits_divisor; /* 1 changes nothing */
    float attention_softcap, logit_softcap; /* x is softcap * tanh(x / softcap), of scores and logits; 0 for none */
} sequoia_model_shape;

typedef struct {
    uint32_t size;
    int32_t rows;
    int32_t logit_rows; /* its last rows whose logits are computed */
    sequoia_cache* cache;
    const sequoia_cache* target_cache; /* may be null */
    const uint8_t* mask;               /* [rows, length + rows]; null is causal, unless there are paths */
    /* rows of a tree: each sees the slots below `prefix` and its path, slots counted from there, itself the last */
    int32_t prefix;
    int32_t slot_count;
    const int32_t* path_lengths; /* [rows], or null */
    const int32_t* path_slots;   /* [slot_count], one path after the other */
} sequoia_segment;

/* What is read off the rows of logits. */
typedef struct {
    uint32_t size;
    float inverse_temperature;
    int32_t wanted;         /* columns of each row, 0 for none: the most probable ones, or drawn without replacement */
    const int64_t* parents; /* [rows], the root its own; with summaries, for which all rows have logits */
    double* summaries;      /* [rows, 4], the first column with the largest logit, ln(sum(exp(logit *
                               inverse_temperature))), the log probabilities of that column and of the row's own token
                               at its parent */
    float* probs;           /* [logit rows, head_rows], or null; then no columns are wanted */
    const double* uniforms; /* [logit rows, wanted] in [0, 1), or null for the most probable ones */
    int32_t* columns;       /* [logit rows, wanted]; -1 in a row with a logit that is no number */
    float* picked;          /* their probabilities */
    float* stated;          /* the same at temperature 1 */
    float* peaks;           /* [logit rows], the largest probability at temperature 1 */
} sequoia_reading;

typedef struct {
    uint32_t size;
    int32_t rows, columns;
    float inverse_temperature;
    const float* values; /* [rows, columns] */
} sequoia_logits;

/* What is read off each row of logits to learn from, and how it goes on; of `drawn` null only the columns. */
typedef struct {
    uint32_t size;
    int32_t wanted;            /* the most probable columns, 1 or more */
    const float* temperatures; /* [rows], of the drawn columns; 0 takes the most probable one */
    const double* uniforms;    /* [rows] in [0, 1) */
    int32_t* columns;          /* [rows, wanted] */
    float* probs;              /* their probabilities */
    int32_t* drawn;            /* [rows], -1 in a row with a logit that is no number */
} sequoia_labels;

SEQUOIA_API int32_t sequoia_abi_version(void);
SEQUOIA_API const char* sequoia_error(void);            /* of this thread's last call that failed */
SEQUOIA_API const char* sequoia_instruction_sets(void); /* that this processor runs, best first; last, by name alone */

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
/* rows: `count` of them from row `first` on, `bytes` each */
SEQUOIA_API int32_t sequoia_model_fill(sequoia_model* model, int32_t layer, int32_t part, int32_t first, int32_t count,
                                       const uint8_t* rows, size_t bytes, int32_t interleaved_rotary);
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

/* features: hidden states of `count` tokens from `first` on, [count, feature_count, hidden] */
SEQUOIA_API int32_t sequoia_cache_features(const sequoia_cache* cache, int32_t first, int32_t count, float* features);

/* Segments are rows of different conversations: each has a cache of its own.
 * position_ids: null gives each row the number of keys that it sees before its own.
 * logits: [logit_rows of all segments, head_rows]; may be null where no segment wants any. reading: may be null. */
SEQUOIA_API int32_t sequoia_forward(sequoia_model* model, const sequoia_segment* segments, int32_t segment_count,
                                    const int64_t* token_ids, const int64_t* position_ids, float* logits,
                                    const sequoia_reading* reading);

/* probs: [rows, columns] */
SEQUOIA_API int32_t sequoia_distributions(sequoia_pool* pool, const sequoia_logits* logits, float* probs);
SEQUOIA_API int32_t sequoia_label(sequoia_pool* pool, const sequoia_logits* logits, const sequoia_labels* labels);
/* probs: [rows, columns]; uniforms: [rows, wanted] in [0, 1); drawn: [rows, wanted], no column of a row twice, -1 where
 * a probability of the row is no number */
SEQUOIA_API int32_t sequoia_draw_ordered(const float* probs, int32_t rows, int32_t columns, int32_t wanted,
                                         const double* uniforms, int32_t* drawn);

#ifdef __cplusplus
}
#endif
#endif
