#include "forward.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace sequoia {
namespace {

// Of each matrix that a thread reads first in the next stage. A product reads on from there by itself.
constexpr std::size_t NEXT_STAGE_BYTES = 4096;
// Up to so many rows are normed by one thread: faster than a barrier of all threads.
constexpr int ROWS_NORMED_ALONE = 4;

}  // namespace

Forward::Forward(Model& model, const Request& request) : model_(model), request_(request), kernels_(model.kernels()) {
    int total = 0;
    for (const Segment& segment : request.segments) {
        first_rows_.push_back(total);
        total += segment.rows;
    }
    tiles_ = RowTiles(total, kernels_.tile_rows);
    rows_.resize(static_cast<std::size_t>(total));
    const int heads_each = model.shape().heads / model.shape().kv_heads;
    for (std::size_t s = 0; s < request.segments.size(); ++s) {
        const Segment& segment = request.segments[s];
        for (int index = 0; index < segment.rows; ++index) {
            rows_[static_cast<std::size_t>(first_rows_[s] + index)].segment = static_cast<int>(s);
            if (index >= segment.rows - segment.logit_rows) head_rows_.push_back(first_rows_[s] + index);
            if (!segment.paths.lengths) see(segment, index, first_rows_[s]);
        }
        if (segment.paths.lengths) see_paths(segment, first_rows_[s]);
        longest_ = std::max(longest_, segment.cache->length() + segment.rows);
        const int queries = segment.rows * heads_each;
        // whole rows where they fit, since queries of a row share the keys that it sees
        const int most = kernels_.query_tile;
        const int tile = segment.rows < 4 ? std::min(heads_each, most)
                                          : std::max(most / heads_each * heads_each, std::min(most, heads_each));
        for (int head = 0; head < model.shape().kv_heads; ++head)
            for (int first = 0; first < queries; first += tile)
                query_tiles_.push_back({static_cast<int>(s), head, first, std::min(first + tile, queries)});
    }
    head_tiles_ = RowTiles(static_cast<int>(head_rows_.size()), kernels_.tile_rows);
    unshared_keys_.resize(static_cast<std::size_t>(model.pool_->threads()));
    for (auto& keys : unshared_keys_) keys.reserve(static_cast<std::size_t>(longest_));
    list_stages();
}

void Forward::see(const Segment& segment, int index, int first_row) {
    Row& row = rows_[static_cast<std::size_t>(first_row + index)];
    const int length = segment.cache->length(), width = length + segment.rows;
    row.slot = length + index;
    row.visible.leading = row.slot + 1;
    if (!segment.mask) return;
    const std::uint8_t* sees = segment.mask + static_cast<std::size_t>(index) * static_cast<std::size_t>(width);
    row.visible.leading = static_cast<int>(std::find(sees, sees + width, 0) - sees);
    for (int key = row.visible.leading; key < width; ++key)
        if (sees[key]) row.visible.listed.push_back(key);
}

void Forward::see_paths(const Segment& segment, int first_row) {
    const std::int32_t* slots = segment.paths.slots;
    for (int index = 0; index < segment.rows; ++index) {
        Row& row = rows_[static_cast<std::size_t>(first_row + index)];
        row.slot = segment.cache->length() + index;
        row.visible.leading = segment.paths.prefix;
        for (int at = 0; at < segment.paths.lengths[index]; ++at, ++slots) {
            const int slot = segment.paths.prefix + *slots;
            // where a mask would have no gap: the same keys in the same pieces, so the same bits
            if (slot == row.visible.leading && row.visible.listed.empty()) ++row.visible.leading;
            else row.visible.listed.push_back(slot);
        }
    }
}

void Forward::list_stages() {
    const bool gathers = model_.shape().head_dim % GROUP != 0;
    stages_.push_back({StageKind::EMBED, 0});
    if (model_.shape().target_features) stages_.push_back({StageKind::INPUT, 0});
    for (int layer = 0; layer < model_.shape().layers; ++layer) {
        const Layer& at = model_.layers_[static_cast<std::size_t>(layer)];
        add_norm(at.vector(Vector::ATTENTION_NORM));
        stages_.push_back({StageKind::PROJECT, layer});
        if (model_.norms_whole()) stages_.push_back({StageKind::NORM_HEADS, layer});
        stages_.push_back({StageKind::ATTEND, layer});
        if (gathers) stages_.push_back({StageKind::COLLECT, layer});
        stages_.push_back({StageKind::ATTENTION_OUT, layer});
        add_output_norm(layer, at.vector(Vector::ATTENTION_OUT_NORM));
        add_norm(at.vector(Vector::MLP_NORM));
        stages_.push_back({StageKind::GATE_UP, layer});
        stages_.push_back({StageKind::DOWN, layer});
        add_output_norm(layer, at.vector(Vector::MLP_OUT_NORM));
        stages_.back().kept = kept_slot(layer);
    }
    if (!head_rows_.empty()) {
        add_norm(model_.final_norm_, true);
        stages_.push_back({StageKind::HEAD, 0});
        if (request_.reading) stages_.push_back({StageKind::READ, 0});
    }
    for (const Stage& stage : stages_) {
        chunk_counts_.push_back(chunks_of(stage));
        if (chunk_counts_.back() > Pool::MOST_CHUNKS)
            throw std::length_error("a forward larger than one call computes");
    }
}

void Forward::add_norm(const std::vector<float>& weight, bool final_norm) {
    if ((final_norm ? head_tiles_ : tiles_).rows() > ROWS_NORMED_ALONE) stages_.push_back({StageKind::NORM, 0});
    stages_.back().norm = &weight;
    stages_.back().final_norm = final_norm;
}

void Forward::add_output_norm(int layer, const std::vector<float>& weight) {
    if (weight.empty()) return;
    if (tiles_.rows() > ROWS_NORMED_ALONE) stages_.push_back({StageKind::NORM_OUTPUT, layer});
    stages_.back().output_norm = &weight;
}

int Forward::chunks_of(const Stage& stage) const {
    const ModelShape& shape = model_.shape();
    switch (stage.kind) {
        case StageKind::INPUT:
        case StageKind::ATTENTION_OUT:
        case StageKind::DOWN: return parts(shape.hidden, BLOCK);
        case StageKind::PROJECT: return shape.heads + 2 * shape.kv_heads;
        case StageKind::ATTEND: return static_cast<int>(query_tiles_.size());
        case StageKind::GATE_UP: return parts(shape.inner, GROUP);
        case StageKind::NORM: return normed_rows(stage);
        case StageKind::HEAD: return parts(shape.head_rows, HEAD_BLOCKS * BLOCK);
        case StageKind::READ: return head_tiles_.rows();
        default: return tiles_.rows();
    }
}

void Forward::prepare() {
    const ModelShape& shape = model_.shape();
    const int half = shape.rotary_dim / 2;
    for (int row = 0; row < tiles_.rows(); ++row) {
        const std::int64_t position = request_.position_ids ? request_.position_ids[row]
                                                            : rows_[static_cast<std::size_t>(row)].visible.count() - 1;
        for (int rotation = 0; rotation < shape.rotations(); ++rotation) {
            const float magnitude = shape.rotary_magnitudes[static_cast<std::size_t>(rotation)];
            const float* frequencies = model_.inverse_frequencies_.data() + rotation * half;
            float* cosines = model_.cosines_.get() + angles_at(rotation, row);
            float* sines = model_.sines_.get() + angles_at(rotation, row);
            for (int i = 0; i < half; ++i) {
                const float angle = static_cast<float>(position) * frequencies[i];
                cosines[i] = magnitude * static_cast<float>(std::cos(static_cast<double>(angle)));
                sines[i] = magnitude * static_cast<float>(std::sin(static_cast<double>(angle)));
            }
        }
    }
}

void Forward::end(int stage, int thread) noexcept {
    const Stage& at = stages_[static_cast<std::size_t>(stage)];
    if (at.output_norm && at.kind != StageKind::NORM_OUTPUT)
        for (int row = 0; row < tiles_.rows(); ++row) norm_output(at, row, thread);
    if (!at.norm || at.kind == StageKind::NORM) return;
    for (int row = 0; row < normed_rows(at); ++row) norm(at, row, thread);
}

// Reads the first weights of the thread's next share into the cache.
void Forward::prefetch_next(int stage, int thread) noexcept {
    for (auto next = static_cast<std::size_t>(stage) + 1; next < stages_.size(); ++next) {
        const Stage& at = stages_[next];
        const int chunk = model_.pool_->share(chunk_counts_[next], thread);
        const auto fetch = [&](const Linear& linear, int block) {
            if (block >= linear.matrix.blocks()) return;
            const std::uint8_t* from = linear.matrix.block(block);
            for (std::size_t line = 0; line < NEXT_STAGE_BYTES; line += 64) __builtin_prefetch(from + line, 0, 2);
        };
        const Layer& layer = model_.layers_[static_cast<std::size_t>(at.layer)];
        switch (at.kind) {
            case StageKind::PROJECT: {
                const HeadOf head = head_of(chunk);
                return fetch(layer.part(head.part), head.index * (model_.padded_dim() / BLOCK));
            }
            case StageKind::ATTENTION_OUT: return fetch(layer.part(Part::ATTENTION_OUT), chunk);
            case StageKind::GATE_UP:
                for (const Part part : {Part::GATE, Part::UP}) fetch(layer.part(part), chunk * (GROUP / BLOCK));
                return;
            case StageKind::DOWN: return fetch(layer.part(Part::DOWN), chunk);
            case StageKind::HEAD: return fetch(model_.head(), chunk * HEAD_BLOCKS);
            case StageKind::NORM:
            case StageKind::NORM_HEADS:
            case StageKind::NORM_OUTPUT:
            case StageKind::COLLECT: continue;
            default: return;
        }
    }
}

void Forward::compute(int stage, int chunk, int thread) noexcept {
    const Stage& at = stages_[static_cast<std::size_t>(stage)];
    const Layer& layer = model_.layers_[static_cast<std::size_t>(at.layer)];
    switch (at.kind) {
        case StageKind::EMBED: return embed(chunk, thread);
        case StageKind::INPUT: {
            const bool tree = in_tree(request_.segments.front());
            const int stride = model_.padded_hidden();
            return product(tree ? model_.own_input_ : model_.target_input_, model_.inputs_, chunk,
                           model_.states_.get() + chunk * BLOCK, stride);
        }
        case StageKind::NORM: return norm(at, chunk, thread);
        case StageKind::NORM_OUTPUT: return norm_output(at, chunk, thread);
        case StageKind::PROJECT: return project(at.layer, chunk, thread);
        case StageKind::NORM_HEADS: return norm_heads(at.layer, chunk);
        case StageKind::ATTEND: return attend(at.layer, chunk, thread);
        case StageKind::COLLECT: return collect(chunk);
        case StageKind::ATTENTION_OUT:
            return add_product(layer.part(Part::ATTENTION_OUT), model_.attended_, chunk, thread);
        case StageKind::GATE_UP: return gate_up(at.layer, chunk, thread);
        case StageKind::DOWN: {
            add_product(layer.part(Part::DOWN), model_.inner_, chunk, thread);
            if (at.kept < 0 || at.output_norm) return;
            const int first = chunk * BLOCK, width = std::min(BLOCK, model_.shape().hidden - first);
            for (int row = 0; row < tiles_.rows(); ++row) keep(at.kept, row, first, width);
            return;
        }
        case StageKind::READ: return read(chunk);
        case StageKind::HEAD: return head(chunk, thread);
    }
}

int Forward::kept_slot(int layer) const {
    const auto& kept = model_.shape().feature_layers;
    const auto found = std::find(kept.begin(), kept.end(), layer);
    return found == kept.end() ? -1 : static_cast<int>(found - kept.begin());
}

void Model::forward(const Request& request) {
    const auto turn = pool_->take_turn();
    Forward pass(*this, request);
    reserve(pass.rows(), pass.longest());
    for (const Segment& segment : request.segments) segment.cache->reserve(segment.rows);
    pass.prepare();
    pool_->run(pass, turn);
    for (const Segment& segment : request.segments) segment.cache->advance(segment.rows);
}

}  // namespace sequoia
