// Inputs of matrix products: rows in tiles, in the forms that the matrices read.
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

// How the inputs of a product are stored: 8-bit codes with a scale and a center per group, pairs of bfloat16,
// or float32.
struct InputForms {
    bool codes = false, bfloats = false, floats = false;
    void add(const Matrix& reader);
};

class Activations {
 public:
    void shape(int columns, InputForms forms) {
        groups_ = (columns + GROUP - 1) / GROUP;
        forms_ = forms;
    }
    void reserve(int rows);
    int groups() const { return groups_; }
    // Stores `count` groups of a row, from `group` on.
    void put(const Kernels& kernels, const RowTiles& tiles, int row, int group, int count, const float* values);
    Tile tile(const RowTiles& tiles, int index) const;

 private:
    int groups_ = 0, capacity_ = 0;
    InputForms forms_;
    Buffer<std::int8_t> codes_;
    Buffer<std::uint32_t> bfloats_;
    Buffer<float> numbers_, floats_;
};

}  // namespace sequoia
