#include "activations.hpp"

namespace sequoia {

void InputForms::add(const Matrix& reader) {
    if (reader.empty()) return;
    if (is_quantized(reader.layout())) codes = true;
    else if (reader.layout() == Layout::BFLOAT16) bfloats = true;
    else floats = true;
}

void Activations::reserve(int rows) {
    if (rows <= capacity_ || groups_ == 0) return;
    const auto groups = static_cast<std::size_t>(rows) * static_cast<std::size_t>(groups_);
    if (forms_.codes) {
        codes_ = allocate<std::int8_t>(groups * GROUP);
        numbers_ = allocate<float>(groups * GROUP_NUMBERS);
    }
    if (forms_.bfloats) bfloats_ = allocate<std::uint32_t>(groups * GROUP);
    if (forms_.floats) floats_ = allocate<float>(groups * GROUP);
    capacity_ = rows;
}

void Activations::put(const Kernels& kernels, const RowTiles& tiles, int row, int group, int count,
                      const float* values) {
    const int index = tiles.tile_of(row), first = tiles.first(index), height = tiles.height(index);
    const auto within = static_cast<std::size_t>(row - first);
    const auto before = static_cast<std::size_t>(first) * static_cast<std::size_t>(groups_);
    const auto place = before + static_cast<std::size_t>(group) * static_cast<std::size_t>(height);
    if (forms_.codes)
        kernels.quantize(values, count, height, codes_.get() + (place + within) * GROUP,
                         numbers_.get() + place * GROUP_NUMBERS + within);
    if (forms_.bfloats) {
        const auto words = static_cast<std::size_t>(group * height * (GROUP / 2) * kernels.pair_words);
        kernels.round_pairs(values, count, height, bfloats_.get() + before * GROUP + words + within);
    }
    if (forms_.floats) {
        float* to = floats_.get() + place * GROUP + within;
        for (int i = 0; i < count * GROUP; ++i) to[i * height] = values[i];
    }
}

Tile Activations::tile(const RowTiles& tiles, int index) const {
    const auto before = static_cast<std::size_t>(tiles.first(index)) * static_cast<std::size_t>(groups_);
    Tile tile{tiles.height(index), nullptr, nullptr, nullptr, nullptr};
    if (forms_.codes) {
        tile.codes = codes_.get() + before * GROUP;
        tile.numbers = numbers_.get() + before * GROUP_NUMBERS;
    }
    if (forms_.bfloats) tile.bfloats = bfloats_.get() + before * GROUP;
    if (forms_.floats) tile.floats = floats_.get() + before * GROUP;
    return tile;
}

}  // namespace sequoia
