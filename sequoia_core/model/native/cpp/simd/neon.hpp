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
inline Floats from_halves(const std::uint16_t* from) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}
inline void to_halves(std::uint16_t* to, Floats v) { vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
inline Floats from_bfloats(const std::uint16_t* from) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(from)), 16));
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
inline std::int32_t to_codes(Floats v, std::int8_t* to) {
    const Ints codes = vcvtnq_s32_f32(v);
    std::int32_t lanes[4];
    vst1q_s32(lanes, codes);
    for (int lane = 0; lane < 4; ++lane) to[lane] = static_cast<std::int8_t>(lanes[lane]);
    return vaddvq_s32(codes);
}
inline void prefetch_far(const void* at) { __builtin_prefetch(at, 0, 2); }

}  // namespace sequoia::SEQUOIA_ISA
