// Vector operations with NEON and its byte dot products (Armv8.2 dotprod).
#pragma once

#include <arm_neon.h>

#include <cmath>
#include <cstdint>

namespace sequoia::SEQUOIA_ISA {

using Floats = float32x4_t;
using Ints = int32x4_t;  // a count, or 16 codes
constexpr int LANES = 4;
constexpr int TILE_ROWS = 8;
constexpr int QUERY_TILE = 6;
constexpr int VALUE_VECTORS = 4;
constexpr int SCORE_CHAINS = 4;
constexpr std::uint8_t CODE_FLIP = 0;

inline int8x16_t bytes(Ints v) { return vreinterpretq_s8_s32(v); }
inline Ints words(int8x16_t v) { return vreinterpretq_s32_s8(v); }

inline Floats load(const float* from) { return vld1q_f32(from); }
inline void store(float* to, Floats v) { vst1q_f32(to, v); }
inline Floats broadcast(float x) { return vdupq_n_f32(x); }
inline Floats fused(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats maximum(Floats a, Floats b) { return vmaxq_f32(a, b); }
inline Floats minimum(Floats a, Floats b) { return vminq_f32(a, b); }
inline float sum(Floats v) { return vaddvq_f32(v); }
inline float largest(Floats v) { return vmaxvq_f32(v); }
inline float smallest(Floats v) { return vminvq_f32(v); }
inline Floats from_halves(const std::uint16_t* from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
inline void to_halves(std::uint16_t* to, Floats v) { vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
// Pairs of bfloat16: as they lie where the processor has their dot products, else widened.
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
constexpr int PAIR_WORDS = 1;
using Pairs = bfloat16x8_t;
inline Pairs load_pairs(const std::uint8_t* from) { return vreinterpretq_bf16_u8(vld1q_u8(from)); }
template <int>
inline Floats dot_pairs(Floats acc, Pairs weights, const std::uint32_t* inputs) {
    return vbfdotq_f32(acc, weights, vreinterpretq_bf16_u32(vdupq_n_u32(inputs[0])));
}
#else
constexpr int PAIR_WORDS = 2;
struct Pairs {
    Floats even, odd;
};
inline Pairs load_pairs(const std::uint8_t* from) {
    const uint32x4_t both = vreinterpretq_u32_u8(vld1q_u8(from));
    return {vreinterpretq_f32_u32(vshlq_n_u32(both, 16)),
            vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000U)))};
}
template <int ROWS>
inline Floats dot_pairs(Floats acc, const Pairs& weights, const std::uint32_t* inputs) {
    acc = fused(weights.even, broadcast(__builtin_bit_cast(float, inputs[0])), acc);
    return fused(weights.odd, broadcast(__builtin_bit_cast(float, inputs[ROWS])), acc);
}
#endif
// Adds half of the last place, less where the result would be odd: numbers are finite.
inline void to_bfloats(std::uint16_t* to, Floats v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    vst1_u16(to, vshrn_n_u32(rounded, 16));
}
inline uint8x8_t four_bytes(const std::uint8_t* from) {
    std::uint32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return vreinterpret_u8_u32(vdup_n_u32(four));
}
inline Floats from_bytes(const std::uint8_t* from) {
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(from)))));
}
inline Floats from_signed_bytes(const std::uint8_t* from) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(from))))));
}
inline Ints load_codes(const std::uint8_t* from) { return words(vreinterpretq_s8_u8(vld1q_u8(from))); }
inline Ints low_nibbles(Ints v) { return words(vandq_s8(bytes(v), vdupq_n_s8(15))); }
inline Ints high_nibbles(Ints v) { return words(vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(bytes(v)), 4))); }
inline Ints quad(const std::int8_t* from) {
    std::int32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return vdupq_n_s32(four);
}
inline Ints ones() { return words(vdupq_n_s8(1)); }
inline Ints add_bytes(Ints a, Ints b) { return words(vaddq_s8(bytes(a), bytes(b))); }
inline Ints no_count() { return vdupq_n_s32(0); }
inline Ints start4() { return no_count(); }
inline Ints start8(std::int32_t) { return no_count(); }
inline Ints dot4(Ints count, Ints codes, Ints quads) { return vdotq_s32(count, bytes(codes), bytes(quads)); }
inline Ints dot8(Ints count, Ints codes, Ints quads) { return vdotq_s32(count, bytes(codes), bytes(quads)); }
inline Floats counted4(Ints count) { return vcvtq_f32_s32(count); }
inline Floats counted8(Ints count) { return vcvtq_f32_s32(count); }
inline Floats scaled_by_power(Floats x, Floats exponent) {
    const Ints biased = vaddq_s32(vcvtnq_s32_f32(exponent), vdupq_n_s32(127));
    return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)));
}
inline Floats rounded(Floats x) { return vrndnq_f32(x); }
inline Floats zero_where_infinite(Floats x, Floats result) {
    const uint32x4_t infinite = vceqq_f32(x, broadcast(-INFINITY));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(result), infinite));
}
inline void to_codes(Floats v, std::int8_t* to) {
    const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(v));
    vst1_lane_s32(reinterpret_cast<std::int32_t*>(to), vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
}
// Sums of the first and the last 16 of 32 codes.
inline void sum_codes(const std::int8_t* codes, std::int32_t* sums) {
    for (int half = 0; half < 2; ++half) sums[half] = vaddlvq_s8(vld1q_s8(codes + half * 16));
}
inline void prefetch_far(const void* at) { __builtin_prefetch(at, 0, 2); }

}  // namespace sequoia::SEQUOIA_ISA
