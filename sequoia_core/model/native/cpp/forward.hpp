// One forward pass: its stages, how each is divided into chunks (forward.cpp), and what a chunk computes (chunks.cpp).
#pragma once

#include <algorithm>
#include <vector>

#include "model.hpp"

namespace sequoia {

constexpr int HEAD_BLOCKS = 4;  // of outputs that a chunk of the head computes

constexpr int parts(int count, int size) { return (count + size - 1) / size; }

enum class StageKind {
    EMBED,
    INPUT,
    NORM,
    PROJECT,
    NORM_HEADS,
    ATTEND,
    COLLECT,
    ATTENTION_OUT,
    GATE_UP,
    DOWN,
    NORM_OUTPUT,
    HEAD,
    READ
};

struct Stage {
    StageKind kind;
    int layer;
    // of stages NORM_OUTPUT and NORM; of others, done in this order by the thread that ends the stage
    const std::vector<float>* output_norm = nullptr;
    const std::vector<float>* norm = nullptr;  // an empty one leaves a product's inputs as they are
    bool final_norm = false;                   // of the rows whose logits are computed
    int kept = -1;                             // the cache's slot for the states, which then are a layer's output
};

// Keys that a row sees, ascending: 0 to leading - 1, then those listed.
struct VisibleKeys {
    int leading = 0;
    std::vector<std::int32_t> listed;
    int count() const { return leading + static_cast<int>(listed.size()); }
    // how many of the first ones are outside of a window of the last ones
    int outside(int window) const { return window > 0 ? std::max(count() - window, 0) : 0; }
};

struct Row {
    int segment;
    int slot;  // of the cache, where its keys and values are written
    VisibleKeys visible;
};

class Forward final : public Job {
 public:
    Forward(Model& model, const Request& request);

    int stages() const override { return static_cast<int>(stages_.size()); }
    int chunks(int stage) const override { return chunk_counts_[static_cast<std::size_t>(stage)]; }
    void compute(int stage, int chunk, int thread) noexcept override;
    void prefetch_next(int stage, int thread) noexcept override;
    void end(int stage, int thread) noexcept override;
    int longest() const { return longest_; }
    int rows() const { return tiles_.rows(); }
    // Tables of the rows' positions; called once the model's working memory has room.
    void prepare();

 private:
    void see(const Segment& segment, int index, int first_row);
    void see_paths(const Segment& segment, int first_row);
    void list_stages();
    void add_norm(const std::vector<float>& weight, bool final_norm = false);
    void add_output_norm(int layer, const std::vector<float>& weight);
    int normed_rows(const Stage& stage) const { return (stage.final_norm ? head_tiles_ : tiles_).rows(); }
    int chunks_of(const Stage& stage) const;

    bool in_tree(const Segment& segment) const { return segment.mask || segment.paths.lengths; }
    void embed(int row, int thread);
    void condition(int row, float* inputs);
    // the normed output of attention or MLP -> states
    void norm_output(const Stage& stage, int row, int thread);
    // the normed state of the stage's row number `index` -> inputs
    void norm(const Stage& stage, int index, int thread);
    struct HeadOf {
        Part part;
        int index;
    };
    HeadOf head_of(int index) const;
    void project(int layer, int index, int thread);
    static const std::vector<float>* head_norm(const Layer& layer, Part part);
    void norm_heads(int layer, int row);
    float* unnormed(int row, int index) const;
    void place(int layer, HeadOf head, int row, float* values);
    void rotate(float* values, int row, int rotation) const;
    // of cosines and sines
    std::size_t angles_at(int rotation, int row) const {
        return static_cast<std::size_t>(rotation * tiles_.rows() + row) *
               static_cast<std::size_t>(model_.shape().rotary_dim / 2);
    }
    void attend(int layer, int chunk, int thread);
    void collect(int row);
    void head(int chunk, int thread);
    void read(int index);
    void gate_up(int layer, int group, int thread);
    void add_product(const Linear& linear, const Activations& inputs, int block, int thread);
    int kept_slot(int layer) const;
    // columns of a row's state -> a slot of the cache
    void keep(int slot, int row, int first, int width) const;
    float* state(int row) const {
        return model_.states_.get() + static_cast<std::size_t>(row) * static_cast<std::size_t>(model_.padded_hidden());
    }
    // 16 outputs of all rows, with bias -> out[row * stride]
    void product(const Linear& linear, const Activations& inputs, int block, float* out, int stride) {
        product(linear, inputs, tiles_, block, out, stride);
    }
    void product(const Linear& linear, const Activations& inputs, const RowTiles& tiles, int block, float* out,
                 int stride);

    struct QueryTile {  // queries of one KV head: query = row * heads per KV head + head
        int segment, kv_head, first, last;
    };

    Model& model_;
    const Request& request_;
    const Kernels& kernels_;
    RowTiles tiles_, head_tiles_;  // of all rows; of those whose logits are computed
    std::vector<int> head_rows_;
    std::vector<Stage> stages_;
    std::vector<int> chunk_counts_;
    std::vector<Row> rows_;
    std::vector<int> first_rows_;  // of each segment
    std::vector<QueryTile> query_tiles_;
    std::vector<std::vector<std::int32_t>> unshared_keys_;  // of a query tile, one per thread
    int longest_ = 0;
};

}  // namespace sequoia
