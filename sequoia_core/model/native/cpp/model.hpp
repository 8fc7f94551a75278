// A model's weights, its working memory, and the rows that a forward pass computes.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "activations.hpp"
#include "kv_cache.hpp"
#include "matrix.hpp"
#include "pool.hpp"

namespace sequoia {

struct ModelShape {
    int layers, hidden, heads, kv_heads, head_dim, inner, vocab, head_rows;
    float norm_epsilon;
    bool half_cache;
    std::vector<int> feature_layers;  // whose outputs a cache keeps
    int target_features = 0;          // hidden states of the target that a conditioned draft reads
    // what families have of their own
    bool gelu = false;                          // of gates, by tanh; else SiLU
    int rotary_dim = 0;                         // the first dimensions of each head, which rotate
    std::vector<float> rotary_magnitudes = {};  // of rotated queries and keys, of each table of frequencies
    std::vector<int> layer_rotations = {};      // a layer's table, or -1 where positions do not rotate
    std::vector<int> layer_windows = {};        // the visible keys that a row attends to, the last ones; 0 for all
    float attention_scale = 1.f;                // of scores
    float embedding_multiplier = 1.f, residual_multiplier = 1.f, logits_divisor = 1.f;
    float attention_softcap = 0.f, logit_softcap = 0.f;  // 0 for none

    int rotations() const { return static_cast<int>(rotary_magnitudes.size()); }  // tables of frequencies
};

// A matrix and the bias of its products.
struct Linear {
    Matrix matrix;
    std::vector<float> bias;  // of each output, in blocks of 16; empty for none
};

enum class Part : std::int32_t {
    QUERY,
    KEY,
    VALUE,
    ATTENTION_OUT,
    GATE,
    UP,
    DOWN,
    EMBEDDING,
    HEAD,
    TARGET_INPUT,
    OWN_INPUT
};
constexpr int LAYER_PARTS = 7;
enum class Vector : std::int32_t {
    ATTENTION_NORM,
    MLP_NORM,
    QUERY_NORM,
    KEY_NORM,
    ATTENTION_OUT_NORM,
    MLP_OUT_NORM,
    FINAL_NORM,
    INPUT_SHIFT,
    INPUT_SCALE
};
constexpr int LAYER_VECTORS = 6;

struct Layer {
    Linear parts[LAYER_PARTS];
    std::vector<float> vectors[LAYER_VECTORS];  // padded to groups, of queries and keys head by head; empty for none
    Linear& part(Part which) { return parts[static_cast<int>(which)]; }
    const Linear& part(Part which) const { return parts[static_cast<int>(which)]; }
    std::vector<float>& vector(Vector which) { return vectors[static_cast<int>(which)]; }
    const std::vector<float>& vector(Vector which) const { return vectors[static_cast<int>(which)]; }
};

// Rows of a tree: each sees the slots below `prefix`, and the tree's own rows on its path, itself the last.
struct Paths {
    int prefix;
    const std::int32_t* lengths;  // [rows]; null with a mask
    const std::int32_t* slots;    // one path after the other, counted from `prefix`
};

// Consecutive rows of one conversation.
struct Segment {
    KvCache* cache;
    const KvCache* target_cache;  // whose features a conditioned draft reads; null reads zeros
    int rows;
    int logit_rows;            // its last rows whose logits are computed
    const std::uint8_t* mask;  // [rows, length + rows], nonzero where a row may attend; null is causal
    Paths paths;
};

// What the forward computes from the rows of logits; pointers may be null.
struct Reading {
    float inverse_temperature;
    RowSummary* summaries;  // [rows]
    float* probs;           // [rows, head_rows]; needed for what follows
    int wanted;             // columns: the most probable ones, or drawn in order by `uniforms` [rows, wanted]
    const double* uniforms;
    std::int32_t* columns;  // [rows, wanted]
    float* picked;          // [rows, wanted], their probabilities
    float* stated;          // [rows, wanted], their probabilities at temperature 1
    float* peaks;           // [rows], the largest ones at temperature 1
};

struct Request {
    std::vector<Segment> segments;
    const std::int64_t* token_ids;
    const std::int64_t* position_ids;  // null: how many keys a row sees before its own
    float* logits;                     // [logit rows of all segments, head_rows]
    const Reading* reading = nullptr;
};

class Model {
 public:
    Model(ModelShape shape, std::shared_ptr<Pool> pool, const Kernels& kernels, std::shared_ptr<Model> embedding_of,
          std::vector<float> inverse_frequencies);

    const ModelShape& shape() const { return shape_; }
    const Kernels& kernels() const { return kernels_; }
    CacheShape cache_shape() const;

    void declare(int layer, Part part, FileFormat format, int rows, int columns);
    // Places all declared matrices in one piece of memory, in the order of use.
    void allocate_weights();
    // Rows of a matrix in its file.
    int stored_rows(int layer, Part part) const;
    // Stores `count` rows of the file from row `first` on.
    void fill(int layer, Part part, int first, int count, const std::uint8_t* rows, std::size_t row_bytes,
              bool interleaved_rotary);
    void set_bias(int layer, Part part, const float* values, int count, bool interleaved_rotary);
    void set_vector(int layer, Vector vector, const float* values, int count);

    void forward(const Request& request);
    std::size_t weight_bytes() const { return weight_bytes_; }

 private:
    friend class Forward;
    Linear& linear(int layer, Part part);
    const Linear& linear(int layer, Part part) const { return const_cast<Model*>(this)->linear(layer, part); }
    std::pair<int, int> sizes_of(Part part) const;  // rows and columns
    int output_row(Part part, int row, bool interleaved_rotary) const;
    void reserve(int rows, int longest);
    const Linear& embedding() const;
    const Linear& head() const { return head_.matrix.empty() ? embedding_ : head_; }
    bool fits(Vector vector, int count) const;
    std::vector<float> padded_heads(const float* values, int count) const;
    // Whether outputs of attention and MLP have norms; whether a row's queries have one norm together, and its keys.
    bool norms_outputs() const { return !layers_.front().vector(Vector::ATTENTION_OUT_NORM).empty(); }
    bool norms_whole() const {
        return layers_.front().vector(Vector::QUERY_NORM).size() > static_cast<std::size_t>(padded_dim());
    }
    int padded_dim() const { return (shape_.head_dim + BLOCK - 1) / BLOCK * BLOCK; }
    int padded_hidden() const { return (shape_.hidden + GROUP - 1) / GROUP * GROUP; }

    ModelShape shape_;
    std::shared_ptr<Pool> pool_;
    const Kernels& kernels_;
    std::shared_ptr<Model> embedding_of_;
    std::vector<float> inverse_frequencies_;  // [rotations, rotary_dim / 2]
    std::vector<Layer> layers_;
    Linear embedding_, head_, target_input_, own_input_;
    std::vector<float> final_norm_, input_shift_, input_scale_;
    Buffer<std::uint8_t> weights_;
    std::size_t weight_bytes_ = 0;

    // working memory of a forward, kept between calls; only the thread that has the pool uses it
    int row_capacity_ = 0, key_capacity_ = 0;
    Activations inputs_, hidden_, attended_, inner_;
    Buffer<float> states_;    // [rows, padded hidden], the residual stream
    Buffer<float> outputs_;   // the same, of attention or MLP before their norms
    Buffer<float> unnormed_;  // [rows, heads and KV heads, padded_dim], queries and keys, where one norm is of all
    Buffer<float> queries_;   // [rows, heads, padded_dim]
    Buffer<float> mixed_;     // [rows, heads * head_dim padded to groups], where heads do not fill groups
    Buffer<float> cosines_, sines_;                // [rotations, rows, rotary_dim / 2]
    std::vector<Buffer<float>> scratch_, scores_;  // one per thread
};

}  // namespace sequoia
