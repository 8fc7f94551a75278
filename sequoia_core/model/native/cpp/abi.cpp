#include "abi.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "model.hpp"
#include "rows.hpp"

struct sequoia_pool {
    std::shared_ptr<sequoia::Pool> value;
};
struct sequoia_model {
    std::shared_ptr<sequoia::Model> value;
};
struct sequoia_cache {
    sequoia::KvCache value;
};

namespace {

using namespace sequoia;

thread_local std::string last_error;

// Runs a function and turns an exception into a message; nothing is thrown across the C interface.
template <class Function>
int32_t guarded(Function function) {
    try {
        function();
        return 0;
    } catch (const std::bad_alloc&) {
        last_error = "not enough memory";
    } catch (const std::exception& error) {
        last_error = error.what();
    }
    return 1;
}

void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

Part part_of(int32_t part) {
    require(part >= 0 && part <= static_cast<int32_t>(Part::OWN_INPUT), "unknown part of a model");
    return static_cast<Part>(part);
}

void check_layer(const sequoia_model& model, int32_t layer) {
    require(layer >= 0 && layer < model.value->shape().layers, "layer out of range");
}

Logits logits_of(const sequoia_logits& given) {
    require(given.size == sizeof given, "logits of another version");
    require(given.rows > 0 && given.columns > 0 && given.values, "there are no logits");
    require(given.rows <= Pool::MOST_CHUNKS, "more rows than one call computes");
    return {given.values, given.rows, given.columns, given.inverse_temperature};
}

// Of the whole library, since rows of logits belong to no model.
const Kernels& best_kernels() {
    static const Kernels* const best = find_kernels(nullptr);
    require(best != nullptr, "this processor runs none of the instruction sets");
    return *best;
}

// The summary of each row, with the log probability of its token at its parent.
void log_probs(const Logits& logits, const std::vector<RowSummary>& found, const int64_t* parents,
               const int64_t* tokens, double* summaries) {
    for (int32_t row = 0; row < logits.rows; ++row) {
        require(parents[row] >= 0 && parents[row] < logits.rows, "a node's parent is out of range");
        const auto parent = static_cast<std::size_t>(parents[row]), columns = static_cast<std::size_t>(logits.columns);
        *summaries++ = found[static_cast<std::size_t>(row)].argmax;
        *summaries++ = found[static_cast<std::size_t>(row)].log_total;
        *summaries++ = found[static_cast<std::size_t>(row)].log_peak;
        // a token past the head's columns cannot be predicted
        const double logit =
            tokens[row] < 0 || tokens[row] >= logits.columns
                ? -std::numeric_limits<double>::infinity()
                : static_cast<double>(logits.values[parent * columns + static_cast<std::size_t>(tokens[row])]);
        *summaries++ = logit * static_cast<double>(logits.inverse_temperature) - found[parent].log_total;
    }
}

Paths paths_of(const sequoia_segment& given) {
    if (!given.path_lengths) return {0, nullptr, nullptr};
    const int32_t length = given.cache->value.length();
    require(!given.mask, "rows have either a mask or paths");
    require(given.prefix >= 0 && given.prefix <= length, "the prefix is out of range");
    int32_t slot = 0;
    for (int32_t row = 0; row < given.rows; ++row) {
        int32_t last = -1;
        for (int32_t at = 0; at < given.path_lengths[row]; ++at, ++slot) {
            require(slot < given.slot_count && given.path_slots[slot] > last, "a path does not ascend");
            last = given.path_slots[slot];
        }
        require(last == length - given.prefix + row, "a path does not end at its own row");
    }
    return {given.prefix, given.path_lengths, given.path_slots};
}

Reading reading_of(const sequoia_reading& given, int32_t rows, int32_t columns, const float* logits,
                   std::vector<RowSummary>& summaries) {
    require(given.size == sizeof given, "reading of another version");
    require(logits != nullptr, "there are no logits to read");
    require(given.wanted >= 0 && given.wanted <= columns, "more columns are wanted than there are");
    require(!given.wanted || (given.probs && given.columns && given.picked && given.stated && given.peaks),
            "columns need memory");
    require(!given.summaries || given.parents, "summaries need the rows' parents");
    if (given.summaries) summaries.resize(static_cast<std::size_t>(rows));
    return {given.inverse_temperature,
            given.summaries ? summaries.data() : nullptr,
            given.probs,
            given.wanted,
            given.uniforms,
            given.wanted ? given.columns : nullptr,
            given.picked,
            given.stated,
            given.peaks};
}

ModelShape shape_of(const sequoia_model_shape& given) {
    require(given.size == sizeof given, "model shape of another version");
    require(given.layers > 0 && given.hidden > 0 && given.heads > 0 && given.kv_heads > 0 && given.inner > 0 &&
                given.vocab > 0 && given.head_rows > 0,
            "sizes must be positive");
    require(given.head_dim > 0 && given.head_dim % 2 == 0, "head_dim must be even");
    constexpr int32_t most = 1 << 24;  // sums and products of two of them stay below 2^31
    require(given.layers <= 4096 && given.hidden <= most && given.heads <= 1 << 14 && given.head_dim <= 1 << 14 &&
                given.inner <= most && given.vocab <= most && given.head_rows <= most,
            "sizes that no model has");
    require(given.feature_count >= 0 && given.feature_count <= given.layers && given.target_features >= 0 &&
                given.target_features <= 64,
            "hidden states that no draft reads");
    require(given.heads % given.kv_heads == 0, "heads must share KV heads evenly");
    require(given.rotary_dim > 0 && given.rotary_dim <= given.head_dim && given.rotary_dim % 2 == 0,
            "an even number of a head's dimensions rotates");
    require(given.rotations >= 0 && given.rotations <= given.layers, "more rotations than layers");
    require(given.attention_scale >= 0.f && given.embedding_multiplier > 0.f && given.residual_multiplier > 0.f &&
                given.logits_divisor > 0.f && given.attention_softcap >= 0.f && given.logit_softcap >= 0.f,
            "scales, multipliers and caps must be positive");
    for (int32_t layer = 0; layer < given.layers; ++layer) {
        require(given.layer_rotations[layer] >= -1 && given.layer_rotations[layer] < given.rotations,
                "a layer's rotation is out of range");
        require(given.layer_windows[layer] >= 0, "a layer's window is negative");
    }
    ModelShape shape{given.layers,       given.hidden,          given.heads, given.kv_heads,
                     given.head_dim,     given.inner,           given.vocab, given.head_rows,
                     given.norm_epsilon, given.half_cache != 0, {},          given.target_features};
    shape.feature_layers.assign(given.feature_layers, given.feature_layers + given.feature_count);
    shape.gelu = given.gelu != 0;
    shape.rotary_dim = given.rotary_dim;
    shape.rotary_magnitudes.assign(given.rotary_magnitudes, given.rotary_magnitudes + given.rotations);
    shape.layer_rotations.assign(given.layer_rotations, given.layer_rotations + given.layers);
    shape.layer_windows.assign(given.layer_windows, given.layer_windows + given.layers);
    shape.attention_scale =
        given.attention_scale > 0.f ? given.attention_scale : 1.f / std::sqrt(static_cast<float>(given.head_dim));
    shape.embedding_multiplier = given.embedding_multiplier;
    shape.residual_multiplier = given.residual_multiplier;
    shape.logits_divisor = given.logits_divisor;
    shape.attention_softcap = given.attention_softcap;
    shape.logit_softcap = given.logit_softcap;
    return shape;
}

}  // namespace

int32_t sequoia_abi_version(void) { return SEQUOIA_ABI_VERSION; }
const char* sequoia_error(void) { return last_error.c_str(); }
const char* sequoia_instruction_sets(void) { return kernel_names(); }

sequoia_pool* sequoia_pool_new(int32_t threads) {
    sequoia_pool* made = nullptr;
    guarded([&] {
        require(threads > 0 && threads <= 1024, "threads must be 1 to 1024");
        made = new sequoia_pool{std::make_shared<Pool>(threads)};
    });
    return made;
}
void sequoia_pool_free(sequoia_pool* pool) { delete pool; }

sequoia_model* sequoia_model_new(const sequoia_model_shape* shape, sequoia_pool* pool, const char* instruction_set,
                                 sequoia_model* embedding_of) {
    sequoia_model* made = nullptr;
    guarded([&] {
        const Kernels* kernels = find_kernels(instruction_set);
        require(kernels != nullptr, "the processor does not run these instructions, or the system refuses them");
        ModelShape checked = shape_of(*shape);
        const float* first = shape->inverse_frequencies;
        std::vector<float> frequencies(first, first + checked.rotations() * (checked.rotary_dim / 2));
        made = new sequoia_model{std::make_shared<Model>(std::move(checked), pool->value, *kernels,
                                                         embedding_of ? embedding_of->value : nullptr,
                                                         std::move(frequencies))};
    });
    return made;
}
void sequoia_model_free(sequoia_model* model) { delete model; }

int32_t sequoia_model_declare(sequoia_model* model, int32_t layer, int32_t part, int32_t format, int32_t rows,
                              int32_t columns) {
    return guarded([&] {
        check_layer(*model, layer);
        require(rows > 0 && columns > 0, "sizes must be positive");
        const auto stored = static_cast<FileFormat>(format);
        require(file_row_bytes(stored, columns) > 0,
                "a row does not fill the blocks of this format, or the format is unknown");
        model->value->declare(layer, part_of(part), stored, rows, columns);
    });
}

int32_t sequoia_model_allocate(sequoia_model* model) {
    return guarded([&] { model->value->allocate_weights(); });
}

int32_t sequoia_model_fill(sequoia_model* model, int32_t layer, int32_t part, int32_t first, int32_t count,
                           const uint8_t* rows, size_t bytes, int32_t interleaved_rotary) {
    return guarded([&] {
        check_layer(*model, layer);
        const int stored = model->value->stored_rows(layer, part_of(part));
        require(first >= 0 && count >= 0 && count <= stored - first, "rows out of range");
        model->value->fill(layer, part_of(part), first, count, rows, bytes, interleaved_rotary != 0);
    });
}

int32_t sequoia_model_set_bias(sequoia_model* model, int32_t layer, int32_t part, const float* values, int32_t count,
                               int32_t interleaved_rotary) {
    return guarded([&] {
        check_layer(*model, layer);
        model->value->set_bias(layer, part_of(part), values, count, interleaved_rotary != 0);
    });
}

int32_t sequoia_model_set_vector(sequoia_model* model, int32_t layer, int32_t vector, const float* values,
                                 int32_t count) {
    return guarded([&] {
        check_layer(*model, layer);
        require(vector >= 0 && vector <= static_cast<int32_t>(Vector::INPUT_SCALE), "unknown vector of a model");
        model->value->set_vector(layer, static_cast<Vector>(vector), values, count);
    });
}

size_t sequoia_model_bytes(const sequoia_model* model) { return model->value->weight_bytes(); }

sequoia_cache* sequoia_cache_new(const sequoia_model* model) {
    sequoia_cache* made = nullptr;
    guarded([&] { made = new sequoia_cache{KvCache(model->value->cache_shape())}; });
    return made;
}
void sequoia_cache_free(sequoia_cache* cache) { delete cache; }
int32_t sequoia_cache_length(const sequoia_cache* cache) { return cache->value.length(); }
size_t sequoia_cache_bytes(const sequoia_cache* cache) { return cache->value.bytes(); }

int32_t sequoia_cache_truncate(sequoia_cache* cache, int32_t length) {
    return guarded([&] {
        require(length >= 0 && length <= cache->value.length(), "length out of range");
        cache->value.truncate(length);
    });
}

int32_t sequoia_cache_keep(sequoia_cache* cache, int32_t committed, const int32_t* rows, int32_t count) {
    return guarded([&] {
        require(committed >= 0 && committed <= cache->value.length(), "committed out of range");
        for (int32_t i = 0; i < count; ++i)
            require(rows[i] >= committed + i && rows[i] < cache->value.length() && (i == 0 || rows[i] > rows[i - 1]),
                    "rows must ascend within the cache");
        cache->value.keep(committed, rows, count);
    });
}

int32_t sequoia_cache_features(const sequoia_cache* cache, int32_t first, int32_t count, float* features) {
    return guarded([&] {
        const KvCache& from = cache->value;
        require(first >= 0 && count >= 0 && count <= from.length() - first, "tokens out of range");
        const auto width = static_cast<std::size_t>(from.shape().feature_slots * from.shape().hidden);
        require(width > 0 || count == 0, "this cache keeps no hidden states");
        for (int32_t i = 0; i < count; ++i)
            std::copy_n(from.feature(first + i, 0), width, features + static_cast<std::size_t>(i) * width);
    });
}

int32_t sequoia_forward(sequoia_model* model, const sequoia_segment* segments, int32_t segment_count,
                        const int64_t* token_ids, const int64_t* position_ids, float* logits,
                        const sequoia_reading* reading) {
    return guarded([&] {
        Request request{{}, token_ids, position_ids, logits};
        int64_t rows = 0, logit_rows = 0;
        for (int32_t i = 0; i < segment_count; ++i) {
            const sequoia_segment& given = segments[i];
            require(given.size == sizeof given, "segment of another version");
            require(given.rows > 0, "a segment has no rows");
            require(given.logit_rows >= 0 && given.logit_rows <= given.rows, "a segment has no such rows of logits");
            for (int32_t other = 0; other < i; ++other)
                require(segments[other].cache != given.cache, "two segments share a cache");
            rows += given.rows;
            logit_rows += given.logit_rows;
            request.segments.push_back({&given.cache->value, given.target_cache ? &given.target_cache->value : nullptr,
                                        given.rows, given.logit_rows, given.mask, paths_of(given)});
        }
        require(rows > 0, "there are no rows");
        require(rows <= Pool::MOST_CHUNKS, "more rows than one call computes");
        require(logits || logit_rows == 0, "there is no room for logits");
        for (int64_t row = 0; row < rows; ++row)
            require(token_ids[row] >= 0 && token_ids[row] < model->value->shape().vocab,
                    "a token id is past the embedding");
        if (!reading) return model->value->forward(request);
        std::vector<RowSummary> found;
        require(!reading->summaries || rows == logit_rows, "summaries need the logits of all rows");
        const Reading wanted =
            reading_of(*reading, static_cast<int32_t>(rows), model->value->shape().head_rows, logits, found);
        request.reading = &wanted;
        model->value->forward(request);
        if (reading->summaries)
            log_probs({logits, static_cast<int>(rows), model->value->shape().head_rows, wanted.inverse_temperature},
                      found, reading->parents, token_ids, reading->summaries);
    });
}

int32_t sequoia_distributions(sequoia_pool* pool, const sequoia_logits* logits, float* probs) {
    return guarded([&] { distributions(*pool->value, best_kernels(), logits_of(*logits), probs); });
}

int32_t sequoia_label(sequoia_pool* pool, const sequoia_logits* logits, const sequoia_labels* labels) {
    return guarded([&] {
        const Logits rows = logits_of(*logits);
        require(labels->size == sizeof *labels, "labels of another version");
        require(labels->wanted > 0 && labels->wanted <= rows.columns, "more columns are wanted than there are");
        require(labels->columns, "labels need memory");
        require(!labels->drawn || (labels->temperatures && labels->uniforms && labels->probs), "draws need memory");
        label(*pool->value, best_kernels(), rows,
              {labels->temperatures, labels->uniforms, labels->wanted, labels->columns, labels->probs, labels->drawn});
    });
}

int32_t sequoia_draw_ordered(const float* probs, int32_t rows, int32_t columns, int32_t wanted, const double* uniforms,
                             int32_t* drawn) {
    return guarded([&] {
        require(rows > 0 && wanted > 0 && wanted <= columns, "more columns are wanted than there are");
        for (int32_t row = 0; row < rows; ++row) {
            const auto first = static_cast<std::size_t>(row) * static_cast<std::size_t>(wanted);
            draw_ordered(probs + static_cast<std::size_t>(row) * static_cast<std::size_t>(columns), columns, wanted,
                         uniforms + first, drawn + first);
        }
    });
}
