// Compiled once per instruction set, with SEQUOIA_ISA as its name and SEQUOIA_SIMD as its header.
#include "kernels.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include SEQUOIA_SIMD

namespace sequoia::SEQUOIA_ISA {
namespace {

// -------------------------------------------------------------------------------------- products

constexpr bool has_minimum(Layout layout) {
    return layout == Layout::CODES4_MIN || layout == Layout::CODES8_MIN || layout == Layout::CODES4_SUPER ||
           layout == Layout::CODES8_SUPER;
}

inline float number_of(const float* numbers, int which, int rows, int row) { return numbers[which * rows + row]; }
inline std::int32_t codes_of(const float* numbers, int which, int rows, int row) {
    return std::bit_cast<std::int32_t>(numbers[which * rows + row]);
}

// Rows whose sums no tile makes.
struct NoTiles {
    struct Rows {};
    NoTiles(const std::uint8_t*, int, const std::int8_t*) {}
    static void go_to(int) {}
    static Rows rows(int, int) { return {}; }
};

#if defined(__AMX_INT8__)
template <int R, Layout LAYOUT>
using Tiles = std::conditional_t<R >= FEWEST_TILED_ROWS, TiledSums<R, LAYOUT>, NoTiles>;
#else
template <int, Layout>
using Tiles = NoTiles;
#endif

// Sums over codes x activations of a group, or of its first or second half, for R rows.
template <int R>
struct Counts {
    Ints row[R > 0 ? R : 1];
    Ints codes;  // the codes' own sum, for the activations' center
};

// The same where tiles made those of the rows.
template <class Rows>
struct TiledCounts {
    Rows row;
    Ints codes;
};

template <int R>
inline void count_four_bits(const std::uint8_t* codes, const std::int8_t* quads, Counts<R>& counts) {
    Ints total = no_count();
    for (int r = 0; r < R; ++r) counts.row[r] = start4();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const Ints both = load_codes(codes + i * 64), low = low_nibbles(both), high = high_nibbles(both);
        for (int r = 0; r < R; ++r) counts.row[r] = dot4(counts.row[r], low, quad(quads + r * GROUP + i * 4));
        for (int r = 0; r < R; ++r) counts.row[r] = dot4(counts.row[r], high, quad(quads + r * GROUP + (i + 4) * 4));
        total = add_bytes(total, add_bytes(low, high));  // at most 120
    }
    counts.codes = dot4(start4(), total, ones());
}

// Quads [FIRST, FIRST + COUNT) of 8-bit codes.
template <int R, int FIRST, int COUNT>
inline void count_bytes(const std::uint8_t* codes, const std::int8_t* quads, const float* numbers, Counts<R>& counts) {
    for (int r = 0; r < R; ++r) {
        std::int32_t sum = 0;
        if (FIRST == 0) sum += codes_of(numbers, FIRST_CODES, R, r);
        if (FIRST + COUNT == 8) sum += codes_of(numbers, SECOND_CODES, R, r);
        counts.row[r] = start8(sum);
    }
    counts.codes = start8(4 * COUNT);
#pragma GCC unroll 8
    for (int i = FIRST; i < FIRST + COUNT; ++i) {
        const Ints eight = load_codes(codes + i * 64);
        for (int r = 0; r < R; ++r) counts.row[r] = dot8(counts.row[r], eight, quad(quads + r * GROUP + i * 4));
        counts.codes = dot8(counts.codes, eight, ones());
    }
}

// Sums over quads [FIRST, FIRST + COUNT), with those of the rows as they are given.
template <int R, Layout LAYOUT, int FIRST, int COUNT, class Rows>
inline auto counts_of(const std::uint8_t* codes, const std::int8_t* quads, const float* numbers, Rows rows) {
    constexpr bool tiled = !std::is_same_v<Rows, NoTiles::Rows>;
    constexpr int counted = tiled ? 0 : R;
    Counts<counted> counts;
    if constexpr (four_bits(LAYOUT)) count_four_bits<counted>(codes, quads, counts);
    else count_bytes<counted, FIRST, COUNT>(codes, quads, numbers, counts);
    if constexpr (tiled) return TiledCounts<Rows>{rows, counts.codes};
    else return counts;
}

template <Layout LAYOUT>
inline Floats counted(Ints count) {
    if constexpr (four_bits(LAYOUT)) return counted4(count);
    else return counted8(count);
}

template <int R, Layout LAYOUT>
void quantized_product(const std::uint8_t* block, int groups, const Tile& tile, float* out, std::size_t stride,
                       std::size_t ahead) {
    constexpr LayoutSizes sizes = sizes_of(LAYOUT);
    constexpr std::size_t code_bytes = four_bits(LAYOUT) ? CODES4_BYTES : CODES8_BYTES;
    for (int lane = 0; lane < BLOCK; lane += LANES) {
        Floats acc[R];
        for (int r = 0; r < R; ++r) acc[r] = broadcast(0.f);
        const std::uint8_t* at = block;
        const std::int8_t* quads = tile.codes;
        const float* numbers = tile.numbers;
        Tiles<R, LAYOUT> tiles(block, groups, tile.codes);
        Floats outer_scale = broadcast(1.f), outer_minimum = broadcast(0.f);
        for (int g = 0; g < groups; ++g) {
            if constexpr (sizes.super_bytes > 0) {
                if (g % SUPER_GROUPS == 0) {
                    outer_scale = from_halves(reinterpret_cast<const std::uint16_t*>(at) + lane);
                    if constexpr (has_minimum(LAYOUT))
                        outer_minimum = from_halves(reinterpret_cast<const std::uint16_t*>(at) + BLOCK + lane);
                    at += sizes.super_bytes;
                }
            }
            if (lane == 0 && ahead)
                for (std::size_t line = 0; line < sizes.group_bytes; line += 64) prefetch_far(at + ahead + line);
            const std::uint8_t* scales = at + code_bytes;
            const std::uint8_t* codes = at + lane * 4;
            tiles.go_to(g);
            if constexpr (LAYOUT == Layout::CODES8_HALVES) {
                const auto counts = counts_of<R, LAYOUT, 0, 4>(codes, quads, numbers, tiles.rows(g, 0));
                const Floats first_scale = from_signed_bytes(scales + lane);
                const Floats second_scale = from_signed_bytes(scales + BLOCK + lane);
                Floats first_half[R];
                for (int r = 0; r < R; ++r) first_half[r] = counted8(counts.row[r]) * first_scale;
                const auto second = counts_of<R, LAYOUT, 4, 4>(codes, quads, numbers, tiles.rows(g, 1));
                const Floats code_sum =
                    fused(counted8(second.codes), second_scale, counted8(counts.codes) * first_scale);
                for (int r = 0; r < R; ++r) {
                    const Floats both = fused(counted8(second.row[r]), second_scale, first_half[r]);
                    const Floats centered = code_sum * broadcast(number_of(numbers, CENTER, R, r));
                    const Floats value = fused(both, broadcast(number_of(numbers, SCALE, R, r)), centered);
                    acc[r] = fused(value, outer_scale, acc[r]);
                }
            } else {
                const auto counts = counts_of<R, LAYOUT, 0, 8>(codes, quads, numbers, tiles.rows(g, 0));
                Floats scale, minimum = broadcast(0.f);
                if constexpr (sizes.super_bytes > 0) {
                    scale = outer_scale * from_bytes(scales + lane);
                    minimum = broadcast(0.f) - outer_minimum * from_bytes(scales + BLOCK + lane);
                } else {
                    scale = from_halves(reinterpret_cast<const std::uint16_t*>(scales) + lane);
                    if constexpr (has_minimum(LAYOUT))
                        minimum = from_halves(reinterpret_cast<const std::uint16_t*>(scales) + BLOCK + lane);
                }
                const Floats code_sum = counted<LAYOUT>(counts.codes);
                for (int r = 0; r < R; ++r) {
                    const Floats center = broadcast(number_of(numbers, CENTER, R, r));
                    const Floats sum = broadcast(number_of(numbers, SUM, R, r));
                    Floats rest;
                    if constexpr (LAYOUT == Layout::CODES4) rest = fused(code_sum, center, sum * broadcast(-8.f));
                    else rest = code_sum * center;
                    const Floats value =
                        fused(counted<LAYOUT>(counts.row[r]), broadcast(number_of(numbers, SCALE, R, r)), rest);
                    acc[r] = fused(value, scale, acc[r]);
                    if constexpr (has_minimum(LAYOUT)) acc[r] = fused(minimum, sum, acc[r]);
                }
            }
            at += sizes.group_bytes;
            quads += GROUP * R;
            numbers += GROUP_NUMBERS * R;
        }
        for (int r = 0; r < R; ++r) store(out + static_cast<std::size_t>(r) * stride + lane, acc[r]);
    }
}

template <Layout LAYOUT>
inline Floats load_weights(const std::uint8_t* at, std::size_t index) {
    if constexpr (LAYOUT == Layout::FLOAT32) return load(reinterpret_cast<const float*>(at) + index);
    else return from_halves(reinterpret_cast<const std::uint16_t*>(at) + index);
}

template <int R, Layout LAYOUT>
void float_product(const std::uint8_t* block, int groups, const Tile& tile, float* out, std::size_t stride,
                   std::size_t ahead) {
    constexpr std::size_t group_bytes = sizes_of(LAYOUT).group_bytes;
    for (int lane = 0; lane < BLOCK; lane += LANES) {
        Floats acc[R];
        for (int r = 0; r < R; ++r) acc[r] = broadcast(0.f);
        const std::uint8_t* at = block;
        const float* x = tile.floats;
        for (int g = 0; g < groups; ++g) {
            if (lane == 0 && ahead)
                for (std::size_t line = 0; line < group_bytes; line += 64) prefetch_far(at + ahead + line);
#pragma GCC unroll 4
            for (int k = 0; k < GROUP; ++k) {
                const Floats w = load_weights<LAYOUT>(at, static_cast<std::size_t>(k * BLOCK + lane));
                for (int r = 0; r < R; ++r) acc[r] = fused(w, broadcast(x[k * R + r]), acc[r]);
            }
            at += group_bytes;
            x += GROUP * R;
        }
        for (int r = 0; r < R; ++r) store(out + static_cast<std::size_t>(r) * stride + lane, acc[r]);
    }
}

// Both operands are bfloat16; a vector of weights holds a pair of columns of each output.
template <int R>
void bfloat_product(const std::uint8_t* block, int groups, const Tile& tile, float* out, std::size_t stride,
                    std::size_t ahead) {
    constexpr std::size_t group_bytes = sizes_of(Layout::BFLOAT16).group_bytes;
    for (int lane = 0; lane < BLOCK; lane += LANES) {
        Floats acc[R];
        for (int r = 0; r < R; ++r) acc[r] = broadcast(0.f);
        const std::uint8_t* at = block;
        const std::uint32_t* pairs = tile.bfloats;
        for (int g = 0; g < groups; ++g) {
            if (lane == 0 && ahead)
                for (std::size_t line = 0; line < group_bytes; line += 64) prefetch_far(at + ahead + line);
#pragma GCC unroll 4
            for (int k = 0; k < GROUP / 2; ++k) {
                const Pairs weights = load_pairs(at + (k * BLOCK + lane) * 4);
                const std::uint32_t* inputs = pairs + k * PAIR_WORDS * R;
                for (int r = 0; r < R; ++r) acc[r] = dot_pairs<R>(acc[r], weights, inputs + r);
            }
            at += group_bytes;
            pairs += GROUP / 2 * PAIR_WORDS * R;
        }
        for (int r = 0; r < R; ++r) store(out + static_cast<std::size_t>(r) * stride + lane, acc[r]);
    }
}

using Product = void (*)(const std::uint8_t*, int, const Tile&, float*, std::size_t, std::size_t);

template <Layout LAYOUT, int R>
constexpr Product product_of() {
    if constexpr (is_quantized(LAYOUT)) return quantized_product<R, LAYOUT>;
    else if constexpr (LAYOUT == Layout::BFLOAT16) return bfloat_product<R>;
    else return float_product<R, LAYOUT>;
}

template <Layout LAYOUT, int... R>
constexpr std::array<Product, sizeof...(R)> products_of(std::integer_sequence<int, R...>) {
    return {product_of<LAYOUT, R + 1>()...};
}

template <int... LAYOUT>
constexpr auto all_products(std::integer_sequence<int, LAYOUT...>) {
    return std::array{products_of<static_cast<Layout>(LAYOUT)>(std::make_integer_sequence<int, TILE_ROWS>{})...};
}

constexpr auto PRODUCTS = all_products(std::make_integer_sequence<int, static_cast<int>(Layout::BFLOAT16) + 1>{});

void product(const Matrix& matrix, int block, const Tile& tile, float* out, std::size_t stride, std::size_t ahead) {
    const auto layout = static_cast<std::size_t>(matrix.layout()), rows = static_cast<std::size_t>(tile.rows - 1);
    PRODUCTS[layout][rows](matrix.block(block), matrix.groups(), tile, out, stride, ahead);
}

// -------------------------------------------------------------------------------- row operations

// Range and center instead of a largest magnitude: an outlier has one sign, which halves its group's step.
void quantize_group(const float* values, int rows, std::int8_t* codes, float* numbers) {
    Floats high = load(values), low = high;
    for (int i = LANES; i < GROUP; i += LANES) {
        high = maximum(high, load(values + i));
        low = minimum(low, load(values + i));
    }
    const float top = largest(high), bottom = smallest(low);
    const float center = 0.5f * (top + bottom), range = top - bottom;
    const float scale = range / 254.f, inverse = range > 0.f ? 254.f / range : 0.f;
    for (int i = 0; i < GROUP; i += LANES)
        to_codes((load(values + i) - broadcast(center)) * broadcast(inverse), codes + i);
    std::int32_t sums[2];
    sum_codes(codes, sums);
    numbers[SCALE * rows] = scale;
    numbers[CENTER * rows] = center;
    numbers[SUM * rows] = scale * static_cast<float>(sums[0] + sums[1]) + center * GROUP;
    numbers[FIRST_CODES * rows] = std::bit_cast<float>(sums[0]);
    numbers[SECOND_CODES * rows] = std::bit_cast<float>(sums[1]);
}

void quantize(const float* values, int groups, int rows, std::int8_t* codes, float* numbers) {
    for (int g = 0; g < groups; ++g, values += GROUP, codes += GROUP * rows, numbers += GROUP_NUMBERS * rows)
        quantize_group(values, rows, codes, numbers);
}

void round_pairs(const float* values, int groups, int rows, std::uint32_t* pairs) {
    alignas(64) std::uint16_t rounded[GROUP];
    for (int g = 0; g < groups; ++g, values += GROUP, pairs += GROUP / 2 * PAIR_WORDS * rows) {
        for (int i = 0; i < GROUP; i += LANES) to_bfloats(rounded + i, load(values + i));
        for (int i = 0; i < GROUP / 2 * PAIR_WORDS; ++i) {
            if constexpr (PAIR_WORDS == 1) __builtin_memcpy(pairs + i * rows, rounded + i * 2, 4);
            else pairs[i * rows] = static_cast<std::uint32_t>(rounded[i]) << 16;
        }
    }
}

void rms_norm(const float* x, const float* weight, int count, int padded, float epsilon, float* y) {
    Floats squares = broadcast(0.f);
    for (int i = 0; i < padded; i += LANES) squares = fused(load(x + i), load(x + i), squares);
    const float inverse = 1.f / std::sqrt(sum(squares) / static_cast<float>(count) + epsilon);
    for (int i = 0; i < padded; i += LANES) store(y + i, load(x + i) * broadcast(inverse) * load(weight + i));
}

// Cody and Waite's reduction and Taylor's series to degree 6: below 2e-7 relative error.
inline Floats exponential(Floats x) {
    x = minimum(maximum(x, broadcast(-87.f)), broadcast(88.f));
    const Floats power = rounded(x * broadcast(1.44269504f));
    Floats rest = fused(power, broadcast(-0.693145752f), x);
    rest = fused(power, broadcast(-1.42860677e-6f), rest);
    Floats series = broadcast(1.f / 720);
    for (const float factor : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f})
        series = fused(series, rest, broadcast(factor));
    return scaled_by_power(series, power);
}

// gate = gate * sigmoid(slope(gate)) * up
template <class Slope>
inline void gated(float* gate, const float* up, int count, Slope slope) {
    for (int i = 0; i < count; i += LANES) {
        const Floats z = load(gate + i);
        const Floats denominator = exponential(broadcast(0.f) - slope(z)) + broadcast(1.f);
        store(gate + i, z / denominator * load(up + i));
    }
}

void swiglu(float* gate, const float* up, int count) {
    gated(gate, up, count, [](Floats z) { return z; });
}

// 0.5 * (1 + tanh(y)) is sigmoid(2 y), and y is sqrt(2 / pi) * (z + 0.044715 * z^3)
void geglu(float* gate, const float* up, int count) {
    gated(gate, up, count, [](Floats z) { return z * fused(z * z, broadcast(0.0713548163f), broadcast(1.59576912f)); });
}

// tanh(y) is 1 - 2 / (exp(2 y) + 1); what is no number stays none, although its exponential is a number
void softcap(float* values, int count, float cap) {
    constexpr float largest_by_exponential = 256.f;  // its error is 1e-7 of the cap, however small a value is
    if (cap > largest_by_exponential) {
        for (int i = 0; i < count; ++i) values[i] = cap * std::tanh(values[i] / cap);
        return;
    }
    const Floats most = broadcast(std::numeric_limits<float>::max());
    for (int i = 0; i < count; i += LANES) {
        const Floats value = load(values + i);
        const Floats denominator = exponential(value * broadcast(2.f / cap)) + broadcast(1.f);
        const Floats capped = broadcast(cap) - broadcast(2.f * cap) / denominator;
        const Floats finite = minimum(most, maximum(broadcast(0.f) - most, value));  // the second where that is none
        store(values + i, fused(finite, broadcast(0.f), capped));
    }
}

void add(float* to, const float* from, int count) {
    for (int i = 0; i < count; i += LANES) store(to + i, load(to + i) + load(from + i));
}

void halve_precision(const float* from, int count, std::uint16_t* to) {
    for (int i = 0; i < count; i += LANES) to_halves(to + i, load(from + i));
}

void multiply(float* values, float factor, int count) {
    for (int i = 0; i < count; i += LANES) store(values + i, load(values + i) * broadcast(factor));
}

// ------------------------------------------------------------------------------- rows of logits

// The vector at `from` of a row that ends at `last`; past it, what no maximum takes and no sum counts.
inline Floats load_within(const float* from, const float* last) {
    if (last - from >= LANES) return load(from);
    float padded[LANES];
    for (int lane = 0; lane < LANES; ++lane) padded[lane] = from + lane < last ? from[lane] : -INFINITY;
    return load(padded);
}

struct Peak {
    int index;
    float logit;  // no number if any logit of the row is none, or is infinite
};

Peak peak_of(const float* logits, int count) {
    constexpr int STRETCH = 32 * LANES;  // the argmax is looked for only within the one that holds it
    const float* const last = logits + count;
    int first = 0;
    float peak = -INFINITY;
    Floats numbers = broadcast(0.f);
    const Floats lowest = broadcast(std::numeric_limits<float>::lowest());  // -infinity is a probability of 0
    for (int begin = 0; begin < count; begin += STRETCH) {
        const int end = std::min(count, begin + STRETCH);
        Floats high = broadcast(-INFINITY);
        for (int i = begin; i < end; i += LANES) {
            const Floats logit = load_within(logits + i, last);
            high = maximum(high, logit);
            numbers = fused(maximum(lowest, logit), broadcast(0.f), numbers);  // the second where one is no number
        }
        if (const float here = largest(high); here > peak) {
            peak = here;
            first = begin;
        }
    }
    int at = first;
    while (at < count - 1 && logits[at] != peak) ++at;
    if (!std::isfinite(sum(numbers)) || !std::isfinite(peak)) peak = std::numeric_limits<float>::quiet_NaN();
    return {at, peak};
}

// The sum of exp((logit - peak) / temperature), as `CHAINS` sums that do not wait for each other.
template <class Use>
float weights_of(const float* logits, int count, float peak, float inverse_temperature, Use use) {
    constexpr int CHAINS = 4;
    Floats totals[CHAINS];
    for (Floats& total : totals) total = broadcast(0.f);
    const Floats highest = broadcast(peak), inverse = broadcast(inverse_temperature);
    for (int i = 0; i < count; i += CHAINS * LANES)
        for (int chain = 0; chain < CHAINS && i + chain * LANES < count; ++chain) {
            const Floats logit = load_within(logits + i + chain * LANES, logits + count);
            const Floats weight = zero_where_infinite(logit, exponential((logit - highest) * inverse));
            totals[chain] = totals[chain] + weight;
            use(i + chain * LANES, weight);
        }
    // the exponential of what is no number is one
    return std::isnan(peak) ? peak : sum((totals[0] + totals[1]) + (totals[2] + totals[3]));
}

RowSummary summarize(const float* logits, int count, float inverse_temperature) {
    const Peak peak = peak_of(logits, count);
    const float total = weights_of(logits, count, peak.logit, inverse_temperature, [](int, Floats) {});
    const double log_sum = std::log(static_cast<double>(total));
    return {static_cast<double>(peak.index),
            static_cast<double>(peak.logit) * static_cast<double>(inverse_temperature) + log_sum, -log_sum};
}

void top(const float* logits, int count, int wanted, std::int32_t* columns) {
    constexpr int STRETCH = 4 * LANES;
    const float* const last = logits + count;
    int held = 0;
    for (int begin = 0; begin < count; begin += STRETCH) {
        const int end = std::min(count, begin + STRETCH);
        if (held == wanted) {
            Floats high = load_within(logits + begin, last);
            for (int i = begin + LANES; i < end; i += LANES) high = maximum(high, load_within(logits + i, last));
            if (!(largest(high) > logits[columns[held - 1]])) continue;
        }
        for (int column = begin; column < end; ++column) {
            if (held == wanted && !(logits[column] > logits[columns[held - 1]])) continue;
            int place = held < wanted ? held++ : held - 1;
            for (; place > 0 && logits[column] > logits[columns[place - 1]]; --place)
                columns[place] = columns[place - 1];
            columns[place] = column;
        }
    }
}

void distribution(const float* logits, int count, float inverse_temperature, float* probs) {
    const Peak peak = peak_of(logits, count);
    const float total = weights_of(logits, count, peak.logit, inverse_temperature, [&](int at, Floats weight) {
        if (count - at >= LANES) return store(probs + at, weight);
        float padded[LANES];
        store(padded, weight);
        std::copy_n(padded, count - at, probs + at);
    });
    const float inverse = 1.f / total;
    const int whole = count / LANES * LANES;
    multiply(probs, inverse, whole);
    for (int i = whole; i < count; ++i) probs[i] *= inverse;
}

// ------------------------------------------------------------------------------------- attention

template <class Element>
inline Floats load_elements(const Element* from) {
    if constexpr (sizeof(Element) == 2) return from_halves(from);
    else return load(from);
}

constexpr int BLOCK_VECTORS = BLOCK / LANES;

// Scores of CHAINS vectors of keys at once, so that additions of one chain hide another's latency.
template <class Element, int Q>
void score_tile(const HeadMemory& memory, const float* const* queries, int blocks, float* scores, std::size_t stride) {
    constexpr int CHAINS = Q < 3 ? 4 : SCORE_CHAINS;
    const auto block_size = static_cast<std::size_t>(memory.head_dim) * BLOCK;
    const int vectors = (blocks * BLOCK_VECTORS + CHAINS - 1) / CHAINS * CHAINS;
    for (int v = 0; v < vectors; v += CHAINS) {
        const Element* keys[CHAINS];
        for (int k = 0; k < CHAINS; ++k) {
            const int block = (v + k) / BLOCK_VECTORS;
            const std::byte* page = memory.pages[block / (PAGE_KEYS / BLOCK)];
            keys[k] = reinterpret_cast<const Element*>(page + memory.key_offset) +
                      static_cast<std::size_t>(block % (PAGE_KEYS / BLOCK)) * block_size +
                      (v + k) % BLOCK_VECTORS * LANES;
        }
        Floats acc[Q][CHAINS];
        for (int q = 0; q < Q; ++q)
            for (int k = 0; k < CHAINS; ++k) acc[q][k] = broadcast(0.f);
        for (int d = 0; d < memory.head_dim; ++d)
            for (int k = 0; k < CHAINS; ++k) {
                const Floats key = load_elements(keys[k] + d * BLOCK);
                for (int q = 0; q < Q; ++q) acc[q][k] = fused(key, broadcast(queries[q][d]), acc[q][k]);
            }
        for (int q = 0; q < Q; ++q)
            for (int k = 0; k < CHAINS; ++k)
                store(scores + static_cast<std::size_t>(q) * stride + (v + k) * LANES, acc[q][k]);
    }
}

float softmax(float* scores, int count) {
    for (int j = count; j % LANES; ++j) scores[j] = -INFINITY;
    Floats high = load(scores);
    for (int j = LANES; j < count; j += LANES) high = maximum(high, load(scores + j));
    const Floats peak = broadcast(largest(high));
    Floats total = broadcast(0.f);
    for (int j = 0; j < count; j += LANES) {
        const Floats score = load(scores + j);
        const Floats weight = zero_where_infinite(score, exponential(score - peak));
        total = total + weight;
        store(scores + j, weight);
    }
    return 1.f / sum(total);
}

template <class Element>
inline const Element* value_row(const HeadMemory& memory, int key) {
    return reinterpret_cast<const Element*>(memory.pages[key / PAGE_KEYS] + memory.value_offset) +
           static_cast<std::size_t>(key % PAGE_KEYS) * static_cast<std::size_t>(memory.padded_dim);
}

template <class Element, int Q, int VECTORS>
void add_values(const HeadMemory& memory, const float* weights, std::size_t stride, int keys, int d, float* out) {
    Floats acc[Q][VECTORS];
    for (int q = 0; q < Q; ++q)
        for (int v = 0; v < VECTORS; ++v) acc[q][v] = load(out + q * memory.padded_dim + d + v * LANES);
    for (int first = 0; first < keys; first += PAGE_KEYS) {
        const Element* row = value_row<Element>(memory, first) + d;
        const int last = keys < first + PAGE_KEYS ? keys : first + PAGE_KEYS;
        for (int key = first; key < last; ++key, row += memory.padded_dim) {
            Floats value[VECTORS];
            for (int v = 0; v < VECTORS; ++v) value[v] = load_elements(row + v * LANES);
            for (int q = 0; q < Q; ++q) {
                const Floats weight = broadcast(weights[static_cast<std::size_t>(q) * stride + key]);
                for (int v = 0; v < VECTORS; ++v) acc[q][v] = fused(value[v], weight, acc[q][v]);
            }
        }
    }
    for (int q = 0; q < Q; ++q)
        for (int v = 0; v < VECTORS; ++v) store(out + q * memory.padded_dim + d + v * LANES, acc[q][v]);
}

template <class Element, int Q>
void value_tile(const HeadMemory& memory, const float* weights, std::size_t stride, int keys, float* out) {
    int d = 0;
    for (; d + VALUE_VECTORS * LANES <= memory.padded_dim; d += VALUE_VECTORS * LANES)
        add_values<Element, Q, VALUE_VECTORS>(memory, weights, stride, keys, d, out);
    for (; d < memory.padded_dim; d += LANES) add_values<Element, Q, 1>(memory, weights, stride, keys, d, out);
}

template <class Element>
void add_listed(const HeadMemory& memory, const float* weights, const std::int32_t* keys, int count, float* out) {
    for (int d = 0; d < memory.padded_dim; d += LANES) {
        Floats acc = load(out + d);
        for (int i = 0; i < count; ++i)
            acc = fused(load_elements(value_row<Element>(memory, keys[i]) + d), broadcast(weights[i]), acc);
        store(out + d, acc);
    }
}

// Calls `function` with a number of queries that the compiler knows.
template <class Function>
void with_count(int count, Function function) {
    switch (count) {
        case 1: return function(std::integral_constant<int, 1>{});
        case 2: return function(std::integral_constant<int, 2>{});
        case 3: return function(std::integral_constant<int, 3>{});
        case 4: return function(std::integral_constant<int, 4>{});
        case 5: return function(std::integral_constant<int, 5>{});
        default: return function(std::integral_constant<int, MOST_QUERIES>{});
    }
}

void scores(const HeadMemory& memory, const float* const* queries, int count, int blocks, float* out,
            std::size_t stride) {
    with_count(count, [&](auto q) {
        if (memory.halves) score_tile<std::uint16_t, q>(memory, queries, blocks, out, stride);
        else score_tile<float, q>(memory, queries, blocks, out, stride);
    });
}

void values(const HeadMemory& memory, const float* weights, std::size_t stride, int count, int keys, float* out) {
    with_count(count, [&](auto q) {
        if (memory.halves) value_tile<std::uint16_t, q>(memory, weights, stride, keys, out);
        else value_tile<float, q>(memory, weights, stride, keys, out);
    });
}

void listed_values(const HeadMemory& memory, const float* weights, const std::int32_t* keys, int count, float* out) {
    if (memory.halves) add_listed<std::uint16_t>(memory, weights, keys, count, out);
    else add_listed<float>(memory, weights, keys, count, out);
}

#define SEQUOIA_TEXT(name) #name
#define SEQUOIA_NAME(name) SEQUOIA_TEXT(name)

}  // namespace

extern const Kernels KERNELS;
const Kernels KERNELS = {
    .name = SEQUOIA_NAME(SEQUOIA_ISA),
    .tile_rows = TILE_ROWS,
    .query_tile = QUERY_TILE,
    .code_flip = CODE_FLIP,
    .pair_words = PAIR_WORDS,
    .product = product,
    .quantize = quantize,
    .round_pairs = round_pairs,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .geglu = geglu,
    .add = add,
    .to_halves = halve_precision,
    .scores = scores,
    .softcap = softcap,
    .softmax = softmax,
    .values = values,
    .listed_values = listed_values,
    .multiply = multiply,
    .summarize = summarize,
    .top = top,
    .distribution = distribution,
};

}  // namespace sequoia::SEQUOIA_ISA
