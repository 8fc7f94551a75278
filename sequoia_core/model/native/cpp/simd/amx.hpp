// AVX-512 with tiles (AMX): matrices of bytes in registers, for products of many rows.
#pragma once

#include "../kernels.hpp"
#include "avx512.hpp"

namespace sequoia::SEQUOIA_ISA {

constexpr int FEWEST_TILED_ROWS = 8;  // with fewer, memory is waited for in any case

// Instructions as text: GCC's functions take no number of a tile from a template, and some of its versions do not
// know that a load reads memory.
template <int TILE>
inline void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
template <int TILE>
inline void tile_load(const void* from, std::size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE>
inline void tile_store(void* to, std::size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(TILE) : "memory");
}
// Sums [row][lane] of A [row][column] times B [column / 4][lane][4], both signed bytes.
template <int TO, int A, int B>
inline void tile_dot() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(TO), "i"(A), "i"(B));
}

// Tiles in two threes, of which one can be filled while the other is read: sums, rows, codes.
constexpr int SUMS = 0, ROWS = 2, CODES = 4;

struct TileShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16];
    std::uint8_t rows[16];
};
static_assert(sizeof(TileShapes) == 64);

inline constinit thread_local int shaped_tiles = 0;

// Gives this thread tiles for `rows` rows and `depth` columns, unless it has them.
inline void shape_tiles(int rows, int depth) {
    const int wanted = rows * 64 + depth;
    if (shaped_tiles == wanted) return;
    TileShapes shapes{.row_bytes = {64, 64, 0, 0, 64, 64}, .rows = {}};
    for (int i = 0; i < 2; ++i) {
        shapes.row_bytes[ROWS + i] = static_cast<std::uint16_t>(depth);
        shapes.rows[SUMS + i] = shapes.rows[ROWS + i] = static_cast<std::uint8_t>(rows);
        shapes.rows[CODES + i] = static_cast<std::uint8_t>(depth / 4);
    }
    asm volatile("ldtilecfg %0" ::"m"(shapes));
    shaped_tiles = wanted;
    give_back = [] {
        asm volatile("tilerelease");
        shaped_tiles = 0;
    };
}

// Sums [row][16 outputs] that tiles made, read as vectors are.
struct TiledRows {
    const std::int32_t* first;
    Ints operator[](int row) const { return _mm512_load_si512(first + row * BLOCK); }
};

// Sums over codes x activations of a block's groups, made by tiles one group ahead of their use, since the vector
// operations on a group's sums take longer than the tiles' on the next one.
template <int R, Layout LAYOUT>
class TiledSums {
 public:
    TiledSums(const std::uint8_t* block, int groups, const std::int8_t* rows)
        : block_(block), rows_(rows), groups_(groups) {
        shape_tiles(R, DEPTH);
        unpack(0);
        if (groups > 1) unpack(1);
        multiply(0);
    }
    // Groups are gone to in turn.
    void go_to(int group) {
        if (group + 2 < groups_) unpack(group + 2);
        if (group + 1 < groups_) multiply(group + 1);
    }
    // Sums of the group gone to, or of one of its halves where those have scales.
    TiledRows rows(int group, int half) const { return {sums_[group % 2] + half * R * BLOCK}; }

 private:
    static constexpr LayoutSizes SIZES = sizes_of(LAYOUT);
    static constexpr int DEPTH = LAYOUT == Layout::CODES8_HALVES ? GROUP / 2 : GROUP;

    // Codes as signed bytes.
    void unpack(int group) {
        const auto index = static_cast<std::size_t>(group);
        const std::size_t supers = SIZES.super_bytes ? index / SUPER_GROUPS + 1 : 0;
        const std::uint8_t* from = block_ + index * SIZES.group_bytes + supers * SIZES.super_bytes;
        std::uint8_t* to = codes_[group % 2];
        if constexpr (four_bits(LAYOUT)) {
            for (std::size_t at = 0; at < CODES8_BYTES / 2; at += 64) {
                _mm512_store_si512(to + at, low_nibbles(load_codes(from + at)));
                _mm512_store_si512(to + CODES8_BYTES / 2 + at, high_nibbles(load_codes(from + at)));
            }
        } else {
            const Ints flip = _mm512_set1_epi8(static_cast<char>(CODE_FLIP));
            for (std::size_t at = 0; at < CODES8_BYTES; at += 64)
                _mm512_store_si512(to + at, _mm512_xor_si512(load_codes(from + at), flip));
        }
    }
    void multiply(int group) {
        const std::int8_t* rows = rows_ + static_cast<std::size_t>(group) * R * GROUP;
        const std::uint8_t* codes = codes_[group % 2];
        std::int32_t* sums = sums_[group % 2];
        if constexpr (DEPTH < GROUP) {
            multiply<0>(rows, codes, sums);
            multiply<1>(rows + DEPTH, codes + DEPTH * BLOCK, sums + R * BLOCK);
        } else if (group % 2) {
            multiply<1>(rows, codes, sums);
        } else {
            multiply<0>(rows, codes, sums);
        }
    }
    template <int I>
    static void multiply(const std::int8_t* rows, const std::uint8_t* codes, std::int32_t* sums) {
        tile_zero<SUMS + I>();
        tile_load<ROWS + I>(rows, GROUP);
        tile_load<CODES + I>(codes, BLOCK * 4);
        tile_dot<SUMS + I, ROWS + I, CODES + I>();
        tile_store<SUMS + I>(sums, BLOCK * sizeof(std::int32_t));
    }

    const std::uint8_t* block_;
    const std::int8_t* rows_;
    int groups_;
    alignas(64) std::uint8_t codes_[2][CODES8_BYTES];
    alignas(64) std::int32_t sums_[2][GROUP / DEPTH * R * BLOCK];
};

}  // namespace sequoia::SEQUOIA_ISA
