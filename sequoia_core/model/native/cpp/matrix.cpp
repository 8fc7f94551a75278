#include "matrix.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace sequoia {
namespace {

// Sizes of the file's own blocks: values, and bytes for them.
struct FileBlock {
    int values;
    std::size_t bytes;
};

FileBlock file_block(FileFormat format) {
    switch (format) {
        case FileFormat::F32: return {1, 4};
        case FileFormat::F16:
        case FileFormat::BF16: return {1, 2};
        case FileFormat::Q4_0: return {32, 18};
        case FileFormat::Q4_1: return {32, 20};
        case FileFormat::Q5_0: return {32, 22};
        case FileFormat::Q5_1: return {32, 24};
        case FileFormat::Q8_0: return {32, 34};
        case FileFormat::Q4_K: return {256, 144};
        case FileFormat::Q5_K: return {256, 176};
        case FileFormat::Q6_K: return {256, 210};
    }
    return {0, 0};
}

// What a group of 32 columns of a quantised row holds.
struct Group {
    std::int8_t codes[GROUP];              // 4-bit codes unsigned, others less their zero point
    std::uint16_t scale = 0, minimum = 0;  // halves
    std::uint8_t inner[2] = {0, 0};        // scale and minimum within a super-block, or two signed scales
};

std::uint16_t read_half(const std::uint8_t* from) {
    std::uint16_t half;
    std::memcpy(&half, from, sizeof half);
    return half;
}

// Six-bit scale and minimum of sub-block `index` out of the 12 bytes of Q4_K and Q5_K.
void read_six_bits(const std::uint8_t* packed, int index, std::uint8_t* inner) {
    if (index < 4) {
        inner[0] = packed[index] & 63;
        inner[1] = packed[index + 4] & 63;
    } else {
        inner[0] = static_cast<std::uint8_t>((packed[index + 4] & 15) | (packed[index - 4] >> 6 << 4));
        inner[1] = static_cast<std::uint8_t>((packed[index + 4] >> 4) | (packed[index] >> 6 << 4));
    }
}

// Formats with blocks of 32. Codes of columns 0-15 are the low nibbles, of 16-31 the high ones.
Group read_small(FileFormat format, const std::uint8_t* block) {
    Group group;
    group.scale = read_half(block);
    const bool has_minimum = format == FileFormat::Q4_1 || format == FileFormat::Q5_1;
    if (has_minimum) group.minimum = read_half(block + 2);
    const std::uint8_t* codes = block + (has_minimum ? 4 : 2);
    if (format == FileFormat::Q8_0) {
        std::memcpy(group.codes, codes, GROUP);
        return group;
    }
    std::uint32_t fifth = 0;
    const bool five_bits = format == FileFormat::Q5_0 || format == FileFormat::Q5_1;
    if (five_bits) {
        std::memcpy(&fifth, codes, sizeof fifth);
        codes += sizeof fifth;
    }
    const int zero = format == FileFormat::Q5_0 ? 16 : 0;
    for (int i = 0; i < GROUP; ++i) {
        const int nibble = i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
        group.codes[i] = static_cast<std::int8_t>((nibble | static_cast<int>(fifth >> i & 1) << 4) - zero);
    }
    return group;
}

// Sub-block `index` of 32 of a super-block of 256.
Group read_super(FileFormat format, const std::uint8_t* block, int index) {
    Group group;
    if (format == FileFormat::Q6_K) {  // 128 low nibbles, 64 pairs of bits, 16 scales, d
        const int half = index / 4, quarter = index % 4;
        const std::uint8_t* low = block + half * 64 + quarter % 2 * 32;
        const std::uint8_t* high = block + 128 + half * 32;
        for (int i = 0; i < GROUP; ++i) {
            const int nibble = quarter < 2 ? low[i] & 15 : low[i] >> 4;
            group.codes[i] = static_cast<std::int8_t>((nibble | (high[i] >> 2 * quarter & 3) << 4) - 32);
        }
        std::memcpy(group.inner, block + 192 + 2 * index, 2);
        group.scale = read_half(block + 208);
        return group;
    }
    group.scale = read_half(block);
    group.minimum = read_half(block + 2);
    read_six_bits(block + 4, index, group.inner);
    const bool five_bits = format == FileFormat::Q5_K;
    const std::uint8_t* codes = block + (five_bits ? 48 : 16) + index / 2 * 32;
    for (int i = 0; i < GROUP; ++i) {
        int code = index % 2 ? codes[i] >> 4 : codes[i] & 15;
        if (five_bits) code |= (block[16 + i] >> index & 1) << 4;
        group.codes[i] = static_cast<std::int8_t>(code);
    }
    return group;
}

bool has_super_blocks(FileFormat format) { return file_block(format).values == GROUP * SUPER_GROUPS; }

}  // namespace

float half_to_float(std::uint16_t half) {
    // the exponent's bias is 15 in a half and 127 in a float; the product also makes subnormals right
    const auto magnitude = static_cast<std::uint32_t>(half & 0x7fff) << 13;
    const auto sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
    const bool special = (half & 0x7c00) == 0x7c00;
    const std::uint32_t bits =
        special ? magnitude | 0x7f800000U : std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
    return std::bit_cast<float>(bits | sign);
}

std::size_t file_row_bytes(FileFormat format, int columns) {
    const FileBlock block = file_block(format);
    if (!block.values || columns % block.values) return 0;
    return static_cast<std::size_t>(columns / block.values) * block.bytes;
}

Layout layout_of(FileFormat format) {
    switch (format) {
        case FileFormat::F32: return Layout::FLOAT32;
        case FileFormat::F16: return Layout::FLOAT16;
        case FileFormat::BF16: return Layout::BFLOAT16;
        case FileFormat::Q4_0: return Layout::CODES4;
        case FileFormat::Q4_1: return Layout::CODES4_MIN;
        case FileFormat::Q4_K: return Layout::CODES4_SUPER;
        case FileFormat::Q5_0:
        case FileFormat::Q8_0: return Layout::CODES8;
        case FileFormat::Q5_1: return Layout::CODES8_MIN;
        case FileFormat::Q5_K: return Layout::CODES8_SUPER;
        case FileFormat::Q6_K: return Layout::CODES8_HALVES;
    }
    return Layout::FLOAT32;
}

void Matrix::shape(FileFormat format, int rows, int columns, std::uint8_t code_flip) {
    format_ = format;
    layout_ = layout_of(format);
    rows_ = rows;
    columns_ = columns;
    flip_ = code_flip;
}

std::size_t Matrix::block_bytes() const {
    const LayoutSizes sizes = sizes_of(layout_);
    const auto groups = static_cast<std::size_t>(this->groups());
    return groups * sizes.group_bytes + groups / SUPER_GROUPS * sizes.super_bytes;
}

std::uint8_t* Matrix::super(int row, int index) const {
    const LayoutSizes sizes = sizes_of(layout_);
    const auto outer = static_cast<std::size_t>(index / SUPER_GROUPS);
    std::uint8_t* base = data_ + static_cast<std::size_t>(row / BLOCK) * block_bytes();
    return base + outer * (SUPER_GROUPS * sizes.group_bytes + sizes.super_bytes);
}

std::uint8_t* Matrix::group(int row, int index) const {
    const LayoutSizes sizes = sizes_of(layout_);
    if (!sizes.super_bytes)
        return data_ + static_cast<std::size_t>(row / BLOCK) * block_bytes() +
               static_cast<std::size_t>(index) * sizes.group_bytes;
    return super(row, index) + sizes.super_bytes + static_cast<std::size_t>(index % SUPER_GROUPS) * sizes.group_bytes;
}

// Quad t holds columns 4 t to 4 t + 3 of all 16 rows. With 4 bits, byte b of 64 x i holds quad i in its
// low nibble and quad i + 4 in its high one.
void Matrix::put_codes(int row, int index, const std::int8_t* codes) {
    std::uint8_t* to = group(row, index) + row % BLOCK * 4;
    for (int i = 0; i < GROUP; ++i) {
        if (four_bits(layout_)) {
            std::uint8_t& byte = to[i / 4 % 4 * 64 + i % 4];
            byte = static_cast<std::uint8_t>(i < 16 ? (byte & 0xf0) | codes[i] : (byte & 15) | codes[i] << 4);
        } else {
            to[i / 4 * 64 + i % 4] = static_cast<std::uint8_t>(static_cast<std::uint8_t>(codes[i]) ^ flip_);
        }
    }
}

void Matrix::put_group(int row, int index, const std::uint8_t* source) {
    const FileBlock block = file_block(format_);
    const bool in_super = has_super_blocks(format_);
    const auto place = static_cast<std::size_t>(in_super ? index / SUPER_GROUPS : index);
    const std::uint8_t* from = source + place * block.bytes;
    const Group read = in_super ? read_super(format_, from, index % SUPER_GROUPS) : read_small(format_, from);
    put_codes(row, index, read.codes);
    const int lane = row % BLOCK;
    std::uint8_t* scales = group(row, index) + (four_bits(layout_) ? CODES4_BYTES : CODES8_BYTES);
    if (!in_super) {
        std::memcpy(scales + lane * 2, &read.scale, 2);
        if (layout_ == Layout::CODES4_MIN || layout_ == Layout::CODES8_MIN)
            std::memcpy(scales + BLOCK * 2 + lane * 2, &read.minimum, 2);
        return;
    }
    scales[lane] = read.inner[0];
    scales[BLOCK + lane] = read.inner[1];
    std::uint8_t* outer = super(row, index);
    std::memcpy(outer + lane * 2, &read.scale, 2);
    if (layout_ != Layout::CODES8_HALVES) std::memcpy(outer + BLOCK * 2 + lane * 2, &read.minimum, 2);
}

// Which number of a group is that of a column and lane: bfloat16 lies in pairs of columns.
std::size_t Matrix::place_of_float(int column, int lane) const {
    if (layout_ != Layout::BFLOAT16) return static_cast<std::size_t>(column * BLOCK + lane);
    return static_cast<std::size_t>((column / 2 * BLOCK + lane) * 2 + column % 2);
}

void Matrix::put(int row, const std::uint8_t* source) {
    if (is_quantized(layout_)) {
        for (int index = 0; index < groups(); ++index) put_group(row, index, source);
        return;
    }
    const std::size_t size = file_block(format_).bytes;  // columns of 16 rows side by side
    for (int column = 0; column < columns_; ++column) {
        const std::size_t to = place_of_float(column % GROUP, row % BLOCK);
        std::memcpy(group(row, column / GROUP) + to * size, source + static_cast<std::size_t>(column) * size, size);
    }
}

// Codes of a row's group, less the zero point of the layout.
void Matrix::get_codes(int row, int index, std::int8_t* codes) const {
    const std::uint8_t* from = group(row, index) + row % BLOCK * 4;
    if (!four_bits(layout_)) {
        for (int quad = 0; quad < GROUP / 4; ++quad) std::memcpy(codes + quad * 4, from + quad * 64, 4);
        for (int i = 0; i < GROUP; ++i)
            codes[i] = static_cast<std::int8_t>(static_cast<std::uint8_t>(codes[i]) ^ flip_);
        return;
    }
    std::uint8_t pairs[GROUP / 2];
    for (int quad = 0; quad < GROUP / 8; ++quad) std::memcpy(pairs + quad * 4, from + quad * 64, 4);
    const int zero = layout_ == Layout::CODES4 ? 8 : 0;
    for (int i = 0; i < GROUP / 2; ++i) {
        codes[i] = static_cast<std::int8_t>((pairs[i] & 15) - zero);
        codes[i + GROUP / 2] = static_cast<std::int8_t>((pairs[i] >> 4) - zero);
    }
}

// The scales of a group are read once, so that the loops over its columns become vector operations.
void Matrix::get_quantized(int row, int index, float* values) const {
    std::int8_t codes[GROUP];
    get_codes(row, index, codes);
    const int lane = row % BLOCK;
    const std::uint8_t* scales = group(row, index) + (four_bits(layout_) ? CODES4_BYTES : CODES8_BYTES);
    const std::uint8_t* outer = super(row, index);
    float scale[2], offset = 0.f;
    switch (layout_) {
        case Layout::CODES4_SUPER:
        case Layout::CODES8_SUPER:
            scale[0] = scale[1] = half_to_float(read_half(outer + lane * 2)) * scales[lane];
            offset = -(half_to_float(read_half(outer + BLOCK * 2 + lane * 2)) * scales[BLOCK + lane]);
            break;
        case Layout::CODES8_HALVES:
            for (int half = 0; half < 2; ++half)
                scale[half] = half_to_float(read_half(outer + lane * 2)) *
                              static_cast<float>(static_cast<std::int8_t>(scales[half * BLOCK + lane]));
            break;
        default:
            scale[0] = scale[1] = half_to_float(read_half(scales + lane * 2));
            if (layout_ == Layout::CODES4_MIN || layout_ == Layout::CODES8_MIN)
                offset = half_to_float(read_half(scales + BLOCK * 2 + lane * 2));
    }
    for (int half = 0; half < 2; ++half)
        for (int i = half * 16; i < half * 16 + 16; ++i)
            values[i] = scale[half] * static_cast<float>(codes[i]) + offset;
}

void Matrix::get_floats(int row, int index, float* values) const {
    const std::uint8_t* from = group(row, index);
    for (int i = 0; i < GROUP; ++i) {
        const std::size_t place = place_of_float(i, row % BLOCK);
        if (layout_ == Layout::FLOAT32) {
            std::memcpy(values + i, from + place * 4, 4);
        } else {
            const std::uint16_t bits = read_half(from + place * 2);
            values[i] = layout_ == Layout::FLOAT16 ? half_to_float(bits)
                                                   : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
        }
    }
}

void Matrix::get(int row, float* values) const {
    for (int index = 0; index < groups(); ++index) {
        float group_values[GROUP];
        if (is_quantized(layout_)) get_quantized(row, index, group_values);
        else get_floats(row, index, group_values);
        std::copy_n(group_values, std::min(GROUP, columns_ - index * GROUP), values + index * GROUP);
    }
}

}  // namespace sequoia
