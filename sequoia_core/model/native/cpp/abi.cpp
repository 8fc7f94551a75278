#include "abi.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "model.hpp"

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

ModelShape shape_of(const sequoia_model_shape& given) {
    require(given.size == sizeof given, "model shape of another version");
    require(given.layers > 0 && given.hidden > 0 && given.heads > 0 && given.kv_heads > 0 && given.inner > 0 &&
                given.vocab > 0 && given.head_rows > 0,
            "sizes must be positive");
    require(given.head_dim > 0 && given.head_dim % 2 == 0, "head_dim must be even");
    require(given.heads % given.kv_heads == 0, "heads must share KV heads evenly");
    ModelShape shape{given.layers, given.hidden, given.heads, given.kv_heads, given.head_dim, given.inner,
                     given.vocab, given.head_rows, given.norm_epsilon, given.half_cache != 0, {}, given.target_features};
    shape.feature_layers.assign(given.feature_layers, given.feature_layers + given.feature_count);
    return shape;
}

}  // namespace

int32_t sequoia_abi_version(void) { return SEQUOIA_ABI_VERSION; }
const char* sequoia_error(void) { return last_error.c_str(); }
const char* sequoia_instruction_sets(void) { return kernel_names(); }

sequoia_pool* sequoia_pool_new(int32_t threads) {
    sequoia_pool* made = nullptr;
    guarded([&] {
        require(threads > 0, "threads must be positive");
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
        require(kernels != nullptr, "this processor does not run these instructions");
        std::vector<float> frequencies(shape->inverse_frequencies, shape->inverse_frequencies + shape->head_dim / 2);
        made = new sequoia_model{std::make_shared<Model>(shape_of(*shape), pool->value, *kernels,
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
        require(file_row_bytes(stored, columns) > 0, "a row does not fill the blocks of this format, or the format is unknown");
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

int32_t sequoia_model_set_scale(sequoia_model* model, int32_t layer, int32_t part, const float* values, int32_t count) {
    return guarded([&] {
        check_layer(*model, layer);
        model->value->set_scale(layer, part_of(part), values, count);
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
                        const int64_t* token_ids, const int64_t* position_ids, float* logits) {
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
                                        given.rows, given.logit_rows, given.mask});
        }
        require(rows > 0, "there are no rows");
        require(logits || logit_rows == 0, "there is no room for logits");
        for (int64_t row = 0; row < rows; ++row)
            require(token_ids[row] >= 0 && token_ids[row] < model->value->shape().vocab, "a token id is past the embedding");
        model->value->forward(request);
    });
}
