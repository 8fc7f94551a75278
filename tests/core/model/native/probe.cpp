// Runs the library through its C interface where Python does not run: on an emulated processor.
//
// For every block format a small model reads a text and a token tree; each node of the tree must have the
// bits of plain decoding. Prints a digest of the logits in coarse steps, which other processors share.
// Arguments: the number of threads, 2 by default, and the only format, all by default.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "abi.h"

namespace {

constexpr int HIDDEN = 256, HEADS = 6, KV_HEADS = 2, DIM = 48, INNER = 256, VOCAB = 61, LAYERS = 2, LENGTH = 270;

std::uint32_t state = 1;
std::uint32_t next_random() { return state = state * 1664525u + 1013904223u; }
std::uint8_t random_byte() { return static_cast<std::uint8_t>(next_random() >> 24); }

std::uint16_t half(float value) {  // of a number from 6.2e-5 on, which is normal as a half
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | ((bits >> 13) - (112u << 10)) & 0x7fff);
}

struct Format {
    const char* name;
    int number, values, bytes, halves[2];
    float scale;
};

const Format FORMATS[] = {
    {"F32", 0, 1, 4, {-1, -1}, 0.f},          {"F16", 1, 1, 2, {-1, -1}, 0.f},
    {"BF16", 30, 1, 2, {-1, -1}, 0.f},        {"Q4_0", 2, 32, 18, {0, -1}, 2e-2f},
    {"Q4_1", 3, 32, 20, {0, 2}, 2e-2f},       {"Q5_0", 6, 32, 22, {0, -1}, 1e-2f},
    {"Q5_1", 7, 32, 24, {0, 2}, 1e-2f},       {"Q8_0", 8, 32, 34, {0, -1}, 2e-3f},
    {"Q4_K", 12, 256, 144, {0, 2}, 4e-4f},    {"Q5_K", 13, 256, 176, {0, 2}, 4e-4f},
    {"Q6_K", 14, 256, 210, {208, -1}, 5e-4f},
};

void require(bool holds, const char* what) {
    if (holds) return;
    std::printf("FAILED: %s (%s)\n", what, sequoia_error());
    std::exit(1);
}

std::vector<std::uint8_t> random_matrix(const Format& format, int rows, int columns) {
    std::vector<std::uint8_t> data;
    for (int i = 0; i < rows * columns; ++i) {
        if (format.values > 1) break;
        const float value = (static_cast<float>(random_byte()) - 127.5f) / 800.f;
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        const std::uint16_t short_bits = format.number == 1 ? half(value) : static_cast<std::uint16_t>(bits >> 16);
        const auto* from = format.number == 0 ? reinterpret_cast<const std::uint8_t*>(&bits)
                                              : reinterpret_cast<const std::uint8_t*>(&short_bits);
        data.insert(data.end(), from, from + format.bytes);
    }
    for (int i = 0; format.values > 1 && i < rows * columns / format.values; ++i) {
        std::vector<std::uint8_t> block(static_cast<std::size_t>(format.bytes));
        for (auto& byte : block) byte = random_byte();
        for (const int place : format.halves) {
            if (place < 0) continue;
            const std::uint16_t bits = half(format.scale * (0.25f + random_byte() / 340.f));
            std::memcpy(block.data() + place, &bits, 2);
        }
        data.insert(data.end(), block.begin(), block.end());
    }
    return data;
}

// `own`: with what families have beyond a Llama.
sequoia_model* random_model(const Format& format, sequoia_pool* pool, const char* instruction_set, bool own) {
    state = 1;
    std::vector<float> frequencies;
    for (int i = 0; i < DIM / 2; ++i) frequencies.push_back(std::pow(10000.f, -2.f * static_cast<float>(i) / DIM));
    const std::int32_t rotations[LAYERS] = {0, own ? -1 : 0}, windows[LAYERS] = {0, own ? 9 : 0};
    const float magnitude = own ? 1.2f : 1.f;
    sequoia_model_shape shape{
        sizeof shape, LAYERS,    HIDDEN,  HEADS,   KV_HEADS, DIM, INNER, VOCAB, VOCAB,
        1e-5f,        1,         0,       nullptr, 0,        0,   DIM,   1,     frequencies.data(),
        &magnitude,   rotations, windows, 0.f,     1.f,      1.f, 1.f,   0.f,   0.f};
    if (own) {
        shape.gelu = 1;
        shape.rotary_dim = DIM / 2;
        shape.embedding_multiplier = 3.f;
        shape.residual_multiplier = shape.logits_divisor = shape.attention_scale = 0.5f;
        shape.attention_softcap = 20.f;
        shape.logit_softcap = 200.f;
    }
    sequoia_model* model = sequoia_model_new(&shape, pool, instruction_set, nullptr);
    require(model, "a model");
    const Format& plain = FORMATS[1];  // HEADS * DIM does not fill a super-block
    const int rows[] = {HEADS * DIM, KV_HEADS * DIM, KV_HEADS * DIM, HIDDEN, INNER, INNER, HIDDEN, VOCAB, VOCAB};
    const int columns[] = {HIDDEN, HIDDEN, HIDDEN, HEADS * DIM, HIDDEN, HIDDEN, INNER, HIDDEN, HIDDEN};
    auto each = [&](auto visit) {
        for (int layer = 0; layer < LAYERS; ++layer)
            for (int part = 0; part < 7; ++part) visit(layer, part, part == 3 ? plain : format);
        visit(0, 7, format);
        visit(0, 8, format);
    };
    each([&](int layer, int part, const Format& stored) {
        require(!sequoia_model_declare(model, layer, part, stored.number, rows[part], columns[part]), "a matrix");
    });
    require(!sequoia_model_allocate(model), "memory");
    each([&](int layer, int part, const Format& stored) {
        const auto data = random_matrix(stored, rows[part], columns[part]);
        require(!sequoia_model_fill(model, layer, part, 0, rows[part], data.data(),
                                    data.size() / static_cast<std::size_t>(rows[part]), 1),
                "rows");
    });
    const int widths[] = {HIDDEN, HIDDEN, HEADS * DIM, KV_HEADS * DIM, HIDDEN, HIDDEN};  // as Vector in model.hpp
    const std::vector<float> ones(HEADS * DIM, 1.f);
    for (int layer = 0; layer < LAYERS; ++layer)
        for (int vector = 0; vector < (own ? 6 : 2); ++vector)
            require(!sequoia_model_set_vector(model, layer, vector, ones.data(), widths[vector]), "a norm");
    require(!sequoia_model_set_vector(model, 0, 6, ones.data(), HIDDEN), "the final norm");
    return model;
}

std::vector<float> run(sequoia_model* model, sequoia_cache* cache, const std::vector<std::int64_t>& ids,
                       const std::vector<std::int64_t>& places, const std::uint8_t* mask) {
    std::vector<float> logits(ids.size() * VOCAB);
    const auto rows = static_cast<std::int32_t>(ids.size());
    const sequoia_segment segment{sizeof segment, rows, rows, cache, nullptr, mask};
    require(!sequoia_forward(model, &segment, 1, ids.data(), places.data(), logits.data(), nullptr), "a forward");
    return logits;
}

void read_text(sequoia_model* model, sequoia_cache* cache, int chunk) {
    for (int first = 0; first < LENGTH; first += chunk) {
        std::vector<std::int64_t> ids, places;
        for (int i = first; i < first + chunk && i < LENGTH; ++i) {
            ids.push_back(i * 7 % VOCAB);
            places.push_back(i);
        }
        run(model, cache, ids, places, nullptr);
    }
}

void check(const Format& format, sequoia_pool* pool, const char* instruction_set, bool own = false) {
    sequoia_model* model = random_model(format, pool, instruction_set, own);
    constexpr int nodes = 21;
    int parents[nodes];
    std::vector<std::int64_t> ids, places;
    std::vector<std::uint8_t> mask(nodes * (LENGTH + nodes));
    for (int node = 0; node < nodes; ++node) {
        parents[node] = node ? static_cast<int>(next_random() >> 8) % node : -1;
        std::uint8_t* row = mask.data() + node * (LENGTH + nodes);
        std::memset(row, 1, LENGTH);
        if (node) std::memcpy(row + LENGTH, mask.data() + parents[node] * (LENGTH + nodes) + LENGTH, nodes);
        row[LENGTH + node] = 1;
        ids.push_back(random_byte() % VOCAB);
        places.push_back(node ? places[static_cast<std::size_t>(parents[node])] + 1 : LENGTH);
    }
    sequoia_cache* tree = sequoia_cache_new(model);
    read_text(model, tree, 33);
    const auto logits = run(model, tree, ids, places, mask.data());
    for (int leaf = 0; leaf < nodes; ++leaf) {
        sequoia_cache* plain = sequoia_cache_new(model);
        read_text(model, plain, leaf % 2 ? 64 : 270);
        for (int node = 0; node <= leaf; ++node) {
            if (!mask[static_cast<std::size_t>(leaf * (LENGTH + nodes) + LENGTH + node)]) continue;
            const auto at = static_cast<std::size_t>(node);
            const auto alone = run(model, plain, {ids[at]}, {places[at]}, nullptr);
            require(!std::memcmp(alone.data(), logits.data() + node * VOCAB, VOCAB * sizeof(float)), format.name);
        }
        sequoia_cache_free(plain);
        if (leaf == 4) leaf = 15;  // a few paths of each format will do
    }
    double total = 0;
    for (const float logit : logits) total += std::fabs(static_cast<double>(logit));
    std::printf("%s %s%s %.2f\n", instruction_set, format.name, own ? " with all features" : "",
                total / static_cast<double>(logits.size()));
    sequoia_cache_free(tree);
    sequoia_model_free(model);
}

}  // namespace

int main(int count, char** arguments) {
    std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // each line as it is known
    const int threads = count > 1 ? std::atoi(arguments[1]) : 2;
    char names[256];
    std::strncpy(names, sequoia_instruction_sets(), sizeof names - 1);
    require(names[0], "an instruction set");
    sequoia_pool* pool = sequoia_pool_new(threads);
    bool found = false;
    for (char* name = std::strtok(names, " "); name; name = std::strtok(nullptr, " "))
        for (const Format& format : FORMATS) {
            if (count > 2 && std::strcmp(arguments[2], format.name)) continue;
            check(format, pool, name);
            if (!std::strcmp(format.name, "Q4_1")) check(format, pool, name, true);
            found = true;
        }
    require(found, "a format of that name");
    sequoia_pool_free(pool);
}
