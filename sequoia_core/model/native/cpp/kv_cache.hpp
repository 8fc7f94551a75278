// Keys and values of one conversation, and the features that a conditioned draft reads.
//
// Memory comes in pages of 256 tokens, so a cache takes what its text needs and growing copies nothing.
// A page holds, for every layer and KV head, 16 blocks of keys [D][16] and 256 rows of values [D padded].
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"

namespace sequoia {

struct CacheShape {
    int layers, kv_heads, head_dim;
    bool halves;        // keys and values are float16, else float32
    int feature_slots;  // hidden states kept per token
    int hidden;

    int padded_dim() const { return (head_dim + BLOCK - 1) / BLOCK * BLOCK; }
    std::size_t element() const { return halves ? 2 : 4; }
    std::size_t head_bytes() const;  // keys and values of a layer's KV head within a page
    std::size_t page_bytes() const;
};

class KvCache {
 public:
    explicit KvCache(const CacheShape& shape) : shape_(shape) {}

    const CacheShape& shape() const { return shape_; }
    int length() const { return length_; }
    std::size_t bytes() const { return pages_.size() * shape_.page_bytes(); }

    // Makes room for `rows` tokens after the present ones.
    void reserve(int rows);
    void advance(int rows) { length_ += rows; }
    void truncate(int length);
    // Keeps the first `committed` tokens and, after them, the given later rows (ascending).
    void keep(int committed, const std::int32_t* rows, int count);

    HeadMemory head(int layer, int kv_head) const;
    std::byte* key(int layer, int kv_head, int token) const;    // elements lie 16 apart
    std::byte* value(int layer, int kv_head, int token) const;  // a row of padded_dim
    float* feature(int token, int slot) const;

 private:
    std::size_t offset(int layer, int kv_head) const;

    CacheShape shape_;
    int length_ = 0;
    std::vector<Buffer<std::byte>> pages_;
    std::vector<const std::byte*> page_starts_;
};

}  // namespace sequoia
