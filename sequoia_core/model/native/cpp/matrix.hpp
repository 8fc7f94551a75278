// Weight matrices in the order in which the products read them.
//
// 16 output rows lie together as a block, so that a vector holds one column quad of all of them. A block
// is a list of groups of 32 columns. The values are those of the file, bit for bit: codes and scales change
// their place, and codes of five and six bits take eight.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sequoia {

constexpr int GROUP = 32;        // columns that share a scale
constexpr int BLOCK = 16;        // output rows side by side
constexpr int SUPER_GROUPS = 8;  // groups that share the outer scale of a K-quant

// How a tensor is stored in its file. The values are part of the C ABI.
enum class FileFormat : std::int32_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    BF16 = 30,
};

// How codes and scales lie in a block.
enum class Layout {
    CODES4,        // unsigned 4-bit codes less a zero point of 8, a half scale
    CODES4_MIN,    // unsigned 4-bit codes, a half scale and a half minimum
    CODES4_SUPER,  // scale and minimum are a byte each, times two halves per super-block
    CODES8,
    CODES8_MIN,
    CODES8_SUPER,
    CODES8_HALVES,  // a signed byte per 16 columns times a half per super-block
    FLOAT32,
    FLOAT16,
    BFLOAT16,
};

// Sizes of one layout.
struct LayoutSizes {
    std::size_t group_bytes;  // codes and scales of 16 rows x 32 columns
    std::size_t super_bytes;  // outer scales before each SUPER_GROUPS groups; 0 for none
};

constexpr std::size_t CODES4_BYTES = BLOCK * GROUP / 2, CODES8_BYTES = BLOCK * GROUP;

constexpr LayoutSizes sizes_of(Layout layout) {
    switch (layout) {
        case Layout::CODES4: return {CODES4_BYTES + 2 * BLOCK, 0};
        case Layout::CODES4_MIN: return {CODES4_BYTES + 4 * BLOCK, 0};
        case Layout::CODES4_SUPER: return {CODES4_BYTES + 2 * BLOCK, 4 * BLOCK};
        case Layout::CODES8: return {CODES8_BYTES + 2 * BLOCK, 0};
        case Layout::CODES8_MIN: return {CODES8_BYTES + 4 * BLOCK, 0};
        case Layout::CODES8_SUPER: return {CODES8_BYTES + 2 * BLOCK, 4 * BLOCK};
        case Layout::CODES8_HALVES: return {CODES8_BYTES + 2 * BLOCK, 2 * BLOCK};
        case Layout::FLOAT32: return {BLOCK * GROUP * 4, 0};
        case Layout::FLOAT16:
        case Layout::BFLOAT16: return {BLOCK * GROUP * 2, 0};
    }
    return {0, 0};
}

// Bytes of a row of the file, or 0 where the columns do not fill its blocks.
std::size_t file_row_bytes(FileFormat format, int columns);

Layout layout_of(FileFormat format);

constexpr bool is_quantized(Layout layout) { return layout < Layout::FLOAT32; }
constexpr bool four_bits(Layout layout) { return layout <= Layout::CODES4_SUPER; }

class Matrix {
 public:
    // Describes a matrix without memory. `code_flip` is XORed with 8-bit codes (0x80 makes them unsigned).
    void shape(FileFormat format, int rows, int columns, std::uint8_t code_flip);
    void place(std::uint8_t* memory) { data_ = memory; }
    // Stores a row of the file at output `row`.
    void put(int row, const std::uint8_t* source);
    // The values of a row, `columns` of them.
    void get(int row, float* values) const;

    bool empty() const { return rows_ == 0; }
    int rows() const { return rows_; }
    int columns() const { return columns_; }
    int groups() const { return (columns_ + GROUP - 1) / GROUP; }
    int blocks() const { return (rows_ + BLOCK - 1) / BLOCK; }
    FileFormat format() const { return format_; }
    Layout layout() const { return layout_; }
    std::size_t block_bytes() const;
    std::size_t bytes() const { return static_cast<std::size_t>(blocks()) * block_bytes(); }
    const std::uint8_t* block(int index) const { return data_ + static_cast<std::size_t>(index) * block_bytes(); }

 private:
    std::uint8_t* group(int row, int index) const;
    std::uint8_t* super(int row, int index) const;
    void put_group(int row, int index, const std::uint8_t* row_source);
    void put_codes(int row, int index, const std::int8_t* codes);
    void get_codes(int row, int index, std::int8_t* codes) const;
    void get_quantized(int row, int index, float* values) const;
    void get_floats(int row, int index, float* values) const;
    std::size_t place_of_float(int column, int lane) const;

    FileFormat format_ = FileFormat::F32;
    Layout layout_ = Layout::FLOAT32;
    int rows_ = 0, columns_ = 0;
    std::uint8_t flip_ = 0;
    std::uint8_t* data_ = nullptr;
};

float half_to_float(std::uint16_t half);

}  // namespace sequoia
