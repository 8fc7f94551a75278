// Inputs of matrix products: rows in tiles, as codes with a scale and a center, as floats, or as both.
#pragma once

#include <vector>

#include "kernels.hpp"
#include "memory.hpp"

namespace sequoia {

// n rows as tiles of nearly equal height.
class RowTiles {
   public:
    RowTiles() = default;
    RowTiles(int rows, int most) : rows_(rows), count_((rows + most - 1) / most) {}
    int rows() const { return rows_; }
    int count() const { return count_; }
    int first(int tile) const { return static_cast<int>(static_cast<long>(rows_) * tile / count_); }
    int height(int tile) const { return first(tile + 1) - first(tile); }
    int tile_of(int row) const {
        int tile = static_cast<int>(static_cast<long>(row) * count_ / rows_);
        while (first(tile + 1) <= row) ++tile;
        return tile;
    }

   private:
    int rows_ = 0, count_ = 0;
};

class Activations {
   public:
    // Says which forms the matrices that read this input need.
    void shape(int columns, bool as_codes, bool as_floats) {
        groups_ = (columns + GROUP - 1) / GROUP;
        as_codes_ = as_codes;
        as_floats_ = as_floats;
    }
    void reserve(int rows);
    int groups() const { return groups_; }
    // Stores 32 values of a row.
    void put(const Kernels& kernels, const RowTiles& tiles, int row, int group, const float* values);
    Tile tile(const RowTiles& tiles, int index) const;

   private:
    int groups_ = 0, capacity_ = 0;
    bool as_codes_ = false, as_floats_ = false;
    Buffer<std::int8_t> codes_;
    Buffer<float> numbers_, floats_;
};

}  // namespace sequoia
