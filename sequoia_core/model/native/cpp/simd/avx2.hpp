// Vector operations with AVX2, FMA and F16C; with the byte dot products of AVX-VNNI where they are compiled in.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>

namespace sequoia::SEQUOIA_ISA {

using Floats = __m256;
using Ints = __m256i;
constexpr int LANES = 8;
constexpr int TILE_ROWS = 6;
constexpr int QUERY_TILE = 6;
constexpr int VALUE_VECTORS = 2;
constexpr int SCORE_CHAINS = 2;
#if defined(__AVXVNNI__)
constexpr std::uint8_t CODE_FLIP = 0x80;
#else
constexpr std::uint8_t CODE_FLIP = 0;
#endif

inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Floats v) { _mm256_storeu_ps(to, v); }
inline Floats broadcast(float x) { return _mm256_set1_ps(x); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats maximum(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats minimum(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline float sum(Floats v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float largest(Floats v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline float smallest(Floats v) { return -largest(_mm256_sub_ps(_mm256_setzero_ps(), v)); }
inline Floats from_halves(const std::uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline void to_halves(std::uint16_t* to, Floats v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
// Pairs of bfloat16, widened: the even columns and the odd ones.
constexpr int PAIR_WORDS = 2;
struct Pairs {
    Floats even, odd;
};
inline Pairs load_pairs(const std::uint8_t* from) {
    const Ints both = _mm256_loadu_si256(reinterpret_cast<const Ints*>(from));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000U))))};
}
template <int ROWS>
inline Floats dot_pairs(Floats acc, const Pairs& weights, const std::uint32_t* inputs) {
    acc = fused(weights.even, broadcast(__builtin_bit_cast(float, inputs[0])), acc);
    return fused(weights.odd, broadcast(__builtin_bit_cast(float, inputs[ROWS])), acc);
}
// Adds half of the last place, less where the result would be odd: numbers are finite.
inline void to_bfloats(std::uint16_t* to, Floats v) {
    const Ints bits = _mm256_castps_si256(v);
    const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const Ints rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const Ints high = _mm256_srli_epi32(rounded, 16);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
}
inline Floats from_bytes(const std::uint8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline Floats from_signed_bytes(const std::uint8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline Ints load_codes(const std::uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const Ints*>(from)); }
inline Ints low_nibbles(Ints v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline Ints high_nibbles(Ints v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)); }
inline Ints quad(const std::int8_t* from) {
    std::int32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return _mm256_set1_epi32(four);
}
inline Ints ones() { return _mm256_set1_epi8(1); }
inline Ints add_bytes(Ints a, Ints b) { return _mm256_add_epi8(a, b); }
inline Ints no_count() { return _mm256_setzero_si256(); }
inline Ints start4() { return no_count(); }
inline Floats counted8(Ints count) { return _mm256_cvtepi32_ps(count); }
#if defined(__AVXVNNI__)
inline Ints dot4(Ints count, Ints codes, Ints quads) { return _mm256_dpbusd_avx_epi32(count, codes, quads); }
inline Ints dot8(Ints count, Ints codes, Ints quads) { return _mm256_dpbusd_avx_epi32(count, codes, quads); }
inline Ints start8(std::int32_t quads_sum) { return _mm256_set1_epi32(-128 * quads_sum); }
inline Floats counted4(Ints count) { return _mm256_cvtepi32_ps(count); }
#else
// Without these the compiler sums a group's products pairwise and runs out of registers.
inline void keep_in_order(Ints& count) { asm("" : "+x"(count)); }
// A group's int16 sums of 8 x 2 products stay below 2^15 (15 x 127), so they are widened once.
inline Ints dot4(Ints count, Ints codes, Ints quads) {
    count = _mm256_add_epi16(count, _mm256_maddubs_epi16(codes, quads));
    keep_in_order(count);
    return count;
}
inline Floats counted4(Ints count) { return _mm256_cvtepi32_ps(_mm256_madd_epi16(count, _mm256_set1_epi16(1))); }
// The codes' signs move to the other operand: 2 x 128 x 127 stays below 2^15.
inline Ints dot8(Ints count, Ints codes, Ints quads) {
    const Ints pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(quads, codes));
    count = _mm256_add_epi32(count, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    keep_in_order(count);
    return count;
}
inline Ints start8(std::int32_t) { return no_count(); }
#endif
inline Floats scaled_by_power(Floats x, Floats exponent) {
    const Ints biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)));
}
inline Floats rounded(Floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT); }
inline Floats zero_where_infinite(Floats x, Floats result) {
    return _mm256_and_ps(_mm256_cmp_ps(x, broadcast(-INFINITY), _CMP_NEQ_OQ), result);
}
inline void to_codes(Floats v, std::int8_t* to) {
    const Ints codes = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
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
