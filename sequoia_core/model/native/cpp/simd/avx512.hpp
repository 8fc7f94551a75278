// Vector operations with AVX-512 and its byte dot products (VNNI).
#pragma once

#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstdint>

namespace sequoia::SEQUOIA_ISA {

using Floats = __m512;
using Ints = __m512i;
constexpr int LANES = 16;
#if defined(__AMX_INT8__)
constexpr int TILE_ROWS = 16;  // rows of a product's tile: AMX's
#else
constexpr int TILE_ROWS = 12;  // as many sums as registers hold
#endif
constexpr int QUERY_TILE = 6;
constexpr int VALUE_VECTORS = 4;
constexpr int SCORE_CHAINS = 4;           // vectors of keys side by side, times QUERY_TILE sums
constexpr std::uint8_t CODE_FLIP = 0x80;  // one operand of the byte product is unsigned

inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats v) { _mm512_storeu_ps(to, v); }
inline Floats broadcast(float x) { return _mm512_set1_ps(x); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats minimum(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline float sum(Floats v) { return _mm512_reduce_add_ps(v); }
inline float largest(Floats v) { return _mm512_reduce_max_ps(v); }
inline float smallest(Floats v) { return _mm512_reduce_min_ps(v); }
inline Floats from_halves(const std::uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline void to_halves(std::uint16_t* to, Floats v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
// Pairs of bfloat16: as they lie where the processor has their dot products, else widened.
#if defined(__AVX512BF16__)
constexpr int PAIR_WORDS = 1;
using Pairs = __m512bh;
inline Pairs load_pairs(const std::uint8_t* from) { return std::bit_cast<__m512bh>(_mm512_loadu_si512(from)); }
template <int>
inline Floats dot_pairs(Floats acc, Pairs weights, const std::uint32_t* inputs) {
    return _mm512_dpbf16_ps(acc, weights, std::bit_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(inputs[0]))));
}
#else
constexpr int PAIR_WORDS = 2;
struct Pairs {
    Floats even, odd;
};
inline Pairs load_pairs(const std::uint8_t* from) {
    const Ints both = _mm512_loadu_si512(from);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000U))))};
}
template <int ROWS>
inline Floats dot_pairs(Floats acc, const Pairs& weights, const std::uint32_t* inputs) {
    acc = fused(weights.even, broadcast(__builtin_bit_cast(float, inputs[0])), acc);
    return fused(weights.odd, broadcast(__builtin_bit_cast(float, inputs[ROWS])), acc);
}
#endif
// Adds half of the last place, less where the result would be odd: numbers are finite.
inline void to_bfloats(std::uint16_t* to, Floats v) {
    const Ints bits = _mm512_castps_si512(v);
    const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const Ints rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
inline Floats from_bytes(const std::uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline Floats from_signed_bytes(const std::uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline Ints load_codes(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
inline Ints low_nibbles(Ints v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
inline Ints high_nibbles(Ints v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)); }
inline Ints quad(const std::int8_t* from) {
    std::int32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return _mm512_set1_epi32(four);
}
inline Ints ones() { return _mm512_set1_epi8(1); }
inline Ints add_bytes(Ints a, Ints b) { return _mm512_add_epi8(a, b); }
inline Ints no_count() { return _mm512_setzero_si512(); }
// Sums of four products of neighbours, added to each lane: of 4-bit codes, or of 8-bit ones.
inline Ints dot4(Ints count, Ints codes, Ints quads) { return _mm512_dpbusd_epi32(count, codes, quads); }
inline Ints dot8(Ints count, Ints codes, Ints quads) { return _mm512_dpbusd_epi32(count, codes, quads); }
// A count of dot8 begins with what undoes the flip of the codes' sign bit.
inline Ints start8(std::int32_t quads_sum) { return _mm512_set1_epi32(-128 * quads_sum); }
inline Ints start4() { return no_count(); }
inline Floats counted4(Ints count) { return _mm512_cvtepi32_ps(count); }
inline Floats counted8(Ints count) { return _mm512_cvtepi32_ps(count); }
inline Floats scaled_by_power(Floats x, Floats exponent) { return _mm512_scalef_ps(x, exponent); }
inline Floats rounded(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
inline Floats zero_where_infinite(Floats x, Floats result) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, broadcast(-INFINITY), _CMP_NEQ_OQ), result);
}
inline void to_codes(Floats v, std::int8_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
}
// Sums of the first and the last 16 of 32 codes.
inline void sum_codes(const std::int8_t* codes, std::int32_t* sums) {
    for (int half = 0; half < 2; ++half) {
        const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(codes) + half);
        const __m128i sum = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
        sums[half] = _mm_cvtsi128_si32(sum) + _mm_extract_epi16(sum, 4) - 16 * 128;
    }
}
inline void prefetch_far(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1); }

}  // namespace sequoia::SEQUOIA_ISA
