#include "activations.hpp"

namespace sequoia {

void Activations::reserve(int rows) {
    if (rows <= capacity_ || groups_ == 0) return;
    capacity_ = rows;
    const auto groups = static_cast<std::size_t>(rows) * static_cast<std::size_t>(groups_);
    if (as_codes_) {
        codes_ = allocate<std::int8_t>(groups * GROUP);
        numbers_ = allocate<float>(groups * GROUP_NUMBERS);
    }
    if (as_floats_) floats_ = allocate<float>(groups * GROUP);
}

void Activations::put(const Kernels& kernels, const RowTiles& tiles, int row, int group, const float* values) {
    const int index = tiles.tile_of(row), first = tiles.first(index), height = tiles.height(index), within = row - first;
    const auto before = static_cast<std::size_t>(first) * static_cast<std::size_t>(groups_);
    const auto place = before + static_cast<std::size_t>(group) * static_cast<std::size_t>(height);
    if (as_codes_)
        kernels.quantize(values, height, codes_.get() + place * GROUP + within * 4,
                         numbers_.get() + place * GROUP_NUMBERS + within);
    if (as_floats_) {
        float* to = floats_.get() + place * GROUP + within;
        for (int i = 0; i < GROUP; ++i) to[i * height] = values[i];
    }
}

Tile Activations::tile(const RowTiles& tiles, int index) const {
    const auto before = static_cast<std::size_t>(tiles.first(index)) * static_cast<std::size_t>(groups_);
    Tile tile{tiles.height(index), nullptr, nullptr, nullptr};
    if (as_codes_) {
        tile.codes = codes_.get() + before * GROUP;
        tile.numbers = numbers_.get() + before * GROUP_NUMBERS;
    }
    if (as_floats_) tile.floats = floats_.get() + before * GROUP;
    return tile;
}

}  // namespace sequoia
