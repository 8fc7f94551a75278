// What a chunk of each stage of a forward pass computes.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "forward.hpp"
#include "rows.hpp"

namespace sequoia {
namespace {

// Weights read ahead into the second-level cache within a product; from 2 to 16 kB are much alike.
constexpr std::size_t PREFETCH_BYTES = 8192;

}  // namespace

void Forward::keep(int slot, int row, int first, int width) const {
    const Row& at = rows_[static_cast<std::size_t>(row)];
    const KvCache& cache = *request_.segments[static_cast<std::size_t>(at.segment)].cache;
    std::memcpy(cache.feature(at.slot, slot) + first, state(row) + first,
                static_cast<std::size_t>(width) * sizeof(float));
}

void Forward::head(int chunk, int thread) {
    const Linear& head = model_.head();
    const int width = model_.shape().head_rows, last = std::min((chunk + 1) * HEAD_BLOCKS, head.matrix.blocks());
    for (int block = chunk * HEAD_BLOCKS; block < last; ++block) {
        const int first = block * BLOCK;
        if (first + BLOCK <= width) {
            product(head, model_.hidden_, head_tiles_, block, request_.logits + first, width);
            continue;
        }
        float* own = model_.scratch_[static_cast<std::size_t>(thread)].get();
        product(head, model_.hidden_, head_tiles_, block, own, BLOCK);
        for (int row = 0; row < head_tiles_.rows(); ++row)
            std::copy_n(own + row * BLOCK, width - first,
                        request_.logits + static_cast<std::size_t>(row) * static_cast<std::size_t>(width) + first);
    }
    const float divisor = model_.shape().logits_divisor, cap = model_.shape().logit_softcap;
    if (divisor == 1.f && cap == 0.f) return;
    const int begin = chunk * HEAD_BLOCKS * BLOCK, count = std::min(last * BLOCK, width) - begin;
    for (int row = 0; row < head_tiles_.rows(); ++row) {
        float* logits = request_.logits + static_cast<std::size_t>(row) * static_cast<std::size_t>(width) + begin;
        for (int i = 0; i < count; ++i) logits[i] /= divisor;
        if (cap == 0.f) continue;
        const int whole = count / BLOCK * BLOCK;
        kernels_.softcap(logits, whole, cap);
        for (int i = whole; i < count; ++i) logits[i] = cap * std::tanh(logits[i] / cap);
    }
}

void Forward::read(int index) {
    const Reading& reading = *request_.reading;
    const int width = model_.shape().head_rows;
    const auto offset = static_cast<std::size_t>(index) * static_cast<std::size_t>(width);
    const float* logits = request_.logits + offset;
    if (reading.summaries) reading.summaries[index] = kernels_.summarize(logits, width, reading.inverse_temperature);
    if (!reading.probs) return;
    float* const probs = reading.probs + offset;
    kernels_.distribution(logits, width, reading.inverse_temperature, probs);
    if (!reading.columns) return;
    const int wanted = reading.wanted, first = index * wanted;
    if (reading.uniforms) {
        draw_ordered(probs, width, wanted, reading.uniforms + first, reading.columns + first);
        if (reading.columns[first] < 0) return;
    } else {
        kernels_.top(logits, width, wanted, reading.columns + first);
    }
    const RowSummary plain = kernels_.summarize(logits, width, 1.F);
    reading.peaks[index] = static_cast<float>(std::exp(plain.log_peak));
    for (int rank = first; rank < first + wanted; ++rank) {
        const int column = reading.columns[rank];
        reading.picked[rank] = probs[column];
        reading.stated[rank] = static_cast<float>(std::exp(static_cast<double>(logits[column]) - plain.log_total));
    }
}

void Forward::product(const Linear& linear, const Activations& inputs, const RowTiles& tiles, int block, float* out,
                      int stride) {
    for (int tile = 0; tile < tiles.count(); ++tile)
        kernels_.product(linear.matrix, block, inputs.tile(tiles, tile),
                         out + static_cast<std::size_t>(tiles.first(tile)) * static_cast<std::size_t>(stride),
                         static_cast<std::size_t>(stride), tile ? 0 : PREFETCH_BYTES);
    if (linear.bias.empty()) return;
    const auto first = static_cast<std::size_t>(block * BLOCK);
    for (int row = 0; row < tiles.rows(); ++row) {
        float* to = out + static_cast<std::size_t>(row) * static_cast<std::size_t>(stride);
        for (std::size_t i = 0; i < BLOCK; ++i) to[i] += linear.bias[first + i];
    }
}

void Forward::add_product(const Linear& linear, const Activations& inputs, int block, int thread) {
    if (model_.norms_outputs())
        return product(linear, inputs, block, model_.outputs_.get() + block * BLOCK, model_.padded_hidden());
    float* own = model_.scratch_[static_cast<std::size_t>(thread)].get();
    product(linear, inputs, block, own, BLOCK);
    if (const float factor = model_.shape().residual_multiplier; factor != 1.f)
        kernels_.multiply(own, factor, tiles_.rows() * BLOCK);
    for (int row = 0; row < tiles_.rows(); ++row) kernels_.add(state(row) + block * BLOCK, own + row * BLOCK, BLOCK);
}

void Forward::embed(int row, int thread) {
    float* to = state(row);
    const auto token = static_cast<int>(request_.token_ids[row]);
    const bool conditioned = model_.shape().target_features > 0;
    if (conditioned) to = model_.scratch_[static_cast<std::size_t>(thread)].get();
    model_.embedding().matrix.get(token, to);
    if (const float factor = model_.shape().embedding_multiplier; factor != 1.f)
        kernels_.multiply(to, factor, model_.padded_hidden());
    if (conditioned) condition(row, to);
}

// After the token's embedding: hidden states of the token before it, shifted and scaled. In a tree, whose
// tokens the target has not read, the normed output of this model at the row's parent instead.
void Forward::condition(int row, float* inputs) {
    const ModelShape& shape = model_.shape();
    const Row& at = rows_[static_cast<std::size_t>(row)];
    const Segment& segment = request_.segments[static_cast<std::size_t>(at.segment)];
    const int hidden = shape.hidden;
    int width = (shape.target_features + 1) * hidden;
    if (in_tree(segment)) {
        width = 2 * hidden;
        const auto& visible = at.visible;
        // the last key that a row sees is its own; the one before is its parent's
        const int seen = visible.count() - 2;
        const int parent =
            seen < visible.leading ? seen : visible.listed[static_cast<std::size_t>(seen - visible.leading)];
        for (int i = 0; i < hidden; ++i)
            inputs[i] = (inputs[i] - model_.input_shift_[static_cast<std::size_t>(i)]) *
                        model_.input_scale_[static_cast<std::size_t>(i)];
        float* normed = inputs + width;  // the norm reads and writes whole groups
        std::fill_n(normed, model_.padded_hidden(), 0.f);
        std::copy_n(segment.cache->feature(std::max(parent, 0), 0), hidden, normed);
        kernels_.rms_norm(normed, model_.final_norm_.data(), hidden, model_.padded_hidden(), shape.norm_epsilon,
                          normed);
        std::copy_n(normed, hidden, inputs + hidden);
    } else {
        for (int slot = 0; slot < shape.target_features; ++slot) {
            float* to = inputs + (slot + 1) * hidden;
            if (segment.target_cache && at.slot > 0)
                std::copy_n(segment.target_cache->feature(at.slot - 1, slot), hidden, to);
            else std::fill_n(to, hidden, 0.f);
        }
        for (int i = 0; i < width; ++i)
            inputs[i] = (inputs[i] - model_.input_shift_[static_cast<std::size_t>(i)]) *
                        model_.input_scale_[static_cast<std::size_t>(i)];
    }
    const int groups = parts(width, GROUP);
    std::fill_n(inputs + width, groups * GROUP - width, 0.f);
    model_.inputs_.put(kernels_, tiles_, row, 0, groups, inputs);
}

void Forward::norm_output(const Stage& stage, int row, int thread) {
    const ModelShape& shape = model_.shape();
    const int padded = model_.padded_hidden();
    float* normed = model_.scratch_[static_cast<std::size_t>(thread)].get();
    const float* output = model_.outputs_.get() + static_cast<std::size_t>(row) * static_cast<std::size_t>(padded);
    kernels_.rms_norm(output, stage.output_norm->data(), shape.hidden, padded, shape.norm_epsilon, normed);
    if (shape.residual_multiplier != 1.f) kernels_.multiply(normed, shape.residual_multiplier, padded);
    kernels_.add(state(row), normed, padded);
    if (stage.kept >= 0) keep(stage.kept, row, 0, shape.hidden);
}

void Forward::norm(const Stage& stage, int index, int thread) {
    float* normed = model_.scratch_[static_cast<std::size_t>(thread)].get();
    const int padded = model_.padded_hidden(),
              row = stage.final_norm ? head_rows_[static_cast<std::size_t>(index)] : index;
    const RowTiles& tiles = stage.final_norm ? head_tiles_ : tiles_;
    if (stage.norm->empty()) return model_.hidden_.put(kernels_, tiles, index, 0, padded / GROUP, state(row));
    kernels_.rms_norm(state(row), stage.norm->data(), model_.shape().hidden, padded, model_.shape().norm_epsilon,
                      normed);
    model_.hidden_.put(kernels_, tiles, index, 0, padded / GROUP, normed);
}

void Forward::rotate(float* values, int row, int rotation) const {
    const int half = model_.shape().rotary_dim / 2;
    const float* cosines = model_.cosines_.get() + angles_at(rotation, row);
    const float* sines = model_.sines_.get() + angles_at(rotation, row);
    for (int i = 0; i < half; ++i) {
        const float first = values[i], second = values[i + half];
        values[i] = first * cosines[i] - second * sines[i];
        values[i + half] = second * cosines[i] + first * sines[i];
    }
}

Forward::HeadOf Forward::head_of(int index) const {
    const ModelShape& shape = model_.shape();
    if (index < shape.heads) return {Part::QUERY, index};
    index -= shape.heads;
    return index < shape.kv_heads ? HeadOf{Part::KEY, index} : HeadOf{Part::VALUE, index - shape.kv_heads};
}

// A head of all rows; of queries and keys that have one norm, until that.
void Forward::project(int layer, int index, int thread) {
    const int dim = model_.padded_dim();
    const HeadOf head = head_of(index);
    const Layer& at = model_.layers_[static_cast<std::size_t>(layer)];
    float* own = model_.scratch_[static_cast<std::size_t>(thread)].get();
    for (int block = 0; block < dim / BLOCK; ++block)
        product(at.part(head.part), model_.hidden_, head.index * (dim / BLOCK) + block, own + block * BLOCK, dim);
    const std::vector<float>* norm = head_norm(at, head.part);
    const bool whole = norm && model_.norms_whole();
    for (int row = 0; row < tiles_.rows(); ++row) {
        float* values = own + static_cast<std::size_t>(row) * static_cast<std::size_t>(dim);
        if (whole) {
            std::copy_n(values, dim, unnormed(row, index));
            continue;
        }
        if (norm)
            kernels_.rms_norm(values, norm->data(), model_.shape().head_dim, dim, model_.shape().norm_epsilon, values);
        place(layer, head, row, values);
    }
}

float* Forward::unnormed(int row, int index) const {
    const int heads = model_.shape().heads + model_.shape().kv_heads, dim = model_.padded_dim();
    return model_.unnormed_.get() + static_cast<std::size_t>(row * heads + index) * static_cast<std::size_t>(dim);
}

// All queries of a row, and all of its keys.
void Forward::norm_heads(int layer, int row) {
    const ModelShape& shape = model_.shape();
    const Layer& at = model_.layers_[static_cast<std::size_t>(layer)];
    const auto place_normed = [&](Vector weight, int first, int count) {
        float* values = unnormed(row, first);
        kernels_.rms_norm(values, at.vector(weight).data(), count * shape.head_dim, count * model_.padded_dim(),
                          shape.norm_epsilon, values);
        for (int index = first; index < first + count; ++index) place(layer, head_of(index), row, unnormed(row, index));
    };
    place_normed(Vector::QUERY_NORM, 0, shape.heads);
    place_normed(Vector::KEY_NORM, shape.heads, shape.kv_heads);
}

// Of queries or keys; null for none.
const std::vector<float>* Forward::head_norm(const Layer& layer, Part part) {
    if (part == Part::VALUE) return nullptr;
    const auto& norm = layer.vector(part == Part::QUERY ? Vector::QUERY_NORM : Vector::KEY_NORM);
    return norm.empty() ? nullptr : &norm;
}

// A head of a row: rotated queries stay in working memory, keys and values go to the cache.
void Forward::place(int layer, HeadOf head, int row, float* values) {
    const ModelShape& shape = model_.shape();
    const int dim = model_.padded_dim();
    const bool is_key = head.part == Part::KEY;
    const int rotation = shape.layer_rotations[static_cast<std::size_t>(layer)];
    if (head.part != Part::VALUE && rotation >= 0) rotate(values, row, rotation);
    const Row& at = rows_[static_cast<std::size_t>(row)];
    const KvCache& cache = *request_.segments[static_cast<std::size_t>(at.segment)].cache;
    if (head.part == Part::QUERY) {
        kernels_.multiply(values, shape.attention_scale, dim);
        std::copy_n(values, dim,
                    model_.queries_.get() + (static_cast<std::size_t>(row) * static_cast<std::size_t>(shape.heads) +
                                             static_cast<std::size_t>(head.index)) *
                                                static_cast<std::size_t>(dim));
    } else if (!cache.shape().halves) {
        if (is_key) {
            auto* to = reinterpret_cast<float*>(cache.key(layer, head.index, at.slot));
            for (int d = 0; d < shape.head_dim; ++d) to[d * BLOCK] = values[d];
        } else {
            std::copy_n(values, dim, reinterpret_cast<float*>(cache.value(layer, head.index, at.slot)));
        }
    } else if (is_key) {
        std::uint16_t halves[BLOCK];
        auto* to = reinterpret_cast<std::uint16_t*>(cache.key(layer, head.index, at.slot));
        for (int first = 0; first < shape.head_dim; first += BLOCK) {
            kernels_.to_halves(values + first, BLOCK, halves);
            for (int d = first; d < std::min(first + BLOCK, shape.head_dim); ++d) to[d * BLOCK] = halves[d - first];
        }
    } else {
        kernels_.to_halves(values, dim, reinterpret_cast<std::uint16_t*>(cache.value(layer, head.index, at.slot)));
    }
}

// Sums run over the visible keys in ascending order, so hidden keys between them leave no trace. Those outside of a
// window have weights of zero, which leave none either, and whole pages of them are not read.
void Forward::attend(int layer, int chunk, int thread) {
    const ModelShape& shape = model_.shape();
    const QueryTile& tile = query_tiles_[static_cast<std::size_t>(chunk)];
    const Segment& segment = request_.segments[static_cast<std::size_t>(tile.segment)];
    const HeadMemory memory = segment.cache->head(layer, tile.kv_head);
    const int each = shape.heads / shape.kv_heads, count = tile.last - tile.first, dim = model_.padded_dim();
    const int window = shape.layer_windows[static_cast<std::size_t>(layer)];
    const auto stride = static_cast<std::size_t>(model_.key_capacity_);
    float* scores = model_.scores_[static_cast<std::size_t>(thread)].get();
    float* mixed = scores + MOST_QUERIES * stride;
    const float* queries[MOST_QUERIES];
    int rows[MOST_QUERIES], heads[MOST_QUERIES], common = longest_, outside = longest_, last_slot = 0;
    for (int i = 0; i < count; ++i) {
        rows[i] = first_rows_[static_cast<std::size_t>(tile.segment)] + (tile.first + i) / each;
        heads[i] = tile.kv_head * each + (tile.first + i) % each;
        queries[i] =
            model_.queries_.get() + (static_cast<std::size_t>(rows[i]) * static_cast<std::size_t>(shape.heads) +
                                     static_cast<std::size_t>(heads[i])) *
                                        static_cast<std::size_t>(dim);
        const Row& row = rows_[static_cast<std::size_t>(rows[i])];
        common = std::min(common, row.visible.leading);
        outside = std::min(outside, row.visible.outside(window));
        last_slot = std::max(last_slot, std::max(row.slot, row.visible.leading - 1));
    }
    const int start = std::min(outside, common) / PAGE_KEYS * PAGE_KEYS;
    HeadMemory near = memory;
    near.pages += start / PAGE_KEYS;
    kernels_.scores(near, queries, count, (last_slot - start) / BLOCK + 1, scores + start, stride);
    float inverse[MOST_QUERIES];
    for (int i = 0; i < count; ++i) {
        const VisibleKeys& visible = rows_[static_cast<std::size_t>(rows[i])].visible;
        float* own = scores + static_cast<std::size_t>(i) * stride;
        for (int j = 0; j < static_cast<int>(visible.listed.size()); ++j)
            own[visible.leading + j] = own[visible.listed[static_cast<std::size_t>(j)]];
        const int first = visible.outside(window);
        if (shape.attention_softcap > 0.f)
            kernels_.softcap(own + first, visible.count() - first, shape.attention_softcap);
        inverse[i] = kernels_.softmax(own + first, visible.count() - first);
        std::fill(own + start, own + first, 0.f);
    }
    std::fill_n(mixed, count * dim, 0.f);
    kernels_.values(near, scores + start, stride, count, common - start, mixed);
    std::vector<std::int32_t>& rest = unshared_keys_[static_cast<std::size_t>(thread)];
    for (int i = 0; i < count; ++i) {
        const VisibleKeys& visible = rows_[static_cast<std::size_t>(rows[i])].visible;
        float* own = mixed + i * dim;
        rest.clear();
        for (int key = common; key < visible.leading; ++key) rest.push_back(key);
        rest.insert(rest.end(), visible.listed.begin(), visible.listed.end());
        kernels_.listed_values(memory, scores + static_cast<std::size_t>(i) * stride + common, rest.data(),
                               static_cast<int>(rest.size()), own);
        kernels_.multiply(own, inverse[i], dim);
        if (shape.head_dim % GROUP) {
            std::copy_n(
                own, shape.head_dim,
                model_.mixed_.get() +
                    static_cast<std::size_t>(rows[i]) * static_cast<std::size_t>(model_.attended_.groups() * GROUP) +
                    static_cast<std::size_t>(heads[i] * shape.head_dim));
            continue;
        }
        const int groups = shape.head_dim / GROUP;
        model_.attended_.put(kernels_, tiles_, rows[i], heads[i] * groups, groups, own);
    }
}

void Forward::collect(int row) {
    const int groups = model_.attended_.groups();
    const float* from = model_.mixed_.get() + static_cast<std::size_t>(row) * static_cast<std::size_t>(groups * GROUP);
    model_.attended_.put(kernels_, tiles_, row, 0, groups, from);
}

void Forward::gate_up(int layer, int group, int thread) {
    const Layer& at = model_.layers_[static_cast<std::size_t>(layer)];
    float* own = model_.scratch_[static_cast<std::size_t>(thread)].get();
    constexpr int stride = 2 * GROUP;
    for (int half = 0; half < GROUP / BLOCK; ++half) {
        const int block = group * (GROUP / BLOCK) + half;
        for (const Part part : {Part::GATE, Part::UP}) {
            float* to = own + (part == Part::UP ? GROUP : 0) + half * BLOCK;
            if (block < at.part(part).matrix.blocks()) {
                product(at.part(part), model_.hidden_, block, to, stride);
            } else {
                for (int row = 0; row < tiles_.rows(); ++row) std::fill_n(to + row * stride, BLOCK, 0.f);
            }
        }
    }
    for (int row = 0; row < tiles_.rows(); ++row) {
        float* gate = own + row * stride;
        (model_.shape().gelu ? kernels_.geglu : kernels_.swiglu)(gate, gate + GROUP, GROUP);
        model_.inner_.put(kernels_, tiles_, row, group, 1, gate);
    }
}

}  // namespace sequoia
