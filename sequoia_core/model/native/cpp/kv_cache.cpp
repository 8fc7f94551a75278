#include "kv_cache.hpp"

#include <cstring>

namespace sequoia {

std::size_t CacheShape::head_bytes() const {
    return static_cast<std::size_t>(PAGE_KEYS) * static_cast<std::size_t>(head_dim + padded_dim()) * element();
}

std::size_t CacheShape::page_bytes() const {
    const std::size_t features = static_cast<std::size_t>(PAGE_KEYS) * static_cast<std::size_t>(feature_slots) *
                                 static_cast<std::size_t>(hidden) * sizeof(float);
    return static_cast<std::size_t>(layers * kv_heads) * head_bytes() + features;
}

void KvCache::reserve(int rows) {
    while (static_cast<int>(pages_.size()) * PAGE_KEYS < length_ + rows) {
        pages_.push_back(allocate<std::byte>(shape_.page_bytes()));
        page_starts_.push_back(pages_.back().get());
    }
}

void KvCache::truncate(int length) {
    length_ = length;
    // one page more than the text needs stays, so that a rejected branch at a page's end costs nothing
    const auto needed = static_cast<std::size_t>((length + PAGE_KEYS - 1) / PAGE_KEYS) + 1;
    if (pages_.size() > needed) {
        pages_.resize(needed);
        page_starts_.resize(needed);
    }
}

namespace {

// A token's keys of one head lie BLOCK elements apart.
template <class Element>
void copy_key(std::byte* to, const std::byte* from, int head_dim) {
    auto* target = reinterpret_cast<Element*>(to);
    const auto* source = reinterpret_cast<const Element*>(from);
    for (int d = 0; d < head_dim; ++d) target[d * BLOCK] = source[d * BLOCK];
}

}  // namespace

void KvCache::keep(int committed, const std::int32_t* rows, int count) {
    int moved = 0;  // a path's first rows often lie in their places
    while (moved < count && rows[moved] == committed + moved) ++moved;
    const auto row_bytes = static_cast<std::size_t>(shape_.padded_dim()) * shape_.element();
    for (int layer = 0; layer < shape_.layers && moved < count; ++layer)
        for (int head = 0; head < shape_.kv_heads; ++head)
            for (int i = moved; i < count; ++i) {
                const int from = rows[i], to = committed + i;
                std::memcpy(value(layer, head, to), value(layer, head, from), row_bytes);
                const auto copy = shape_.halves ? copy_key<std::uint16_t> : copy_key<float>;
                copy(key(layer, head, to), key(layer, head, from), shape_.head_dim);
            }
    const auto feature_bytes = static_cast<std::size_t>(shape_.feature_slots * shape_.hidden) * sizeof(float);
    for (int i = moved; i < count && feature_bytes; ++i)
        std::memcpy(feature(committed + i, 0), feature(rows[i], 0), feature_bytes);
    length_ = committed + count;
}

std::size_t KvCache::offset(int layer, int kv_head) const {
    return static_cast<std::size_t>(layer * shape_.kv_heads + kv_head) * shape_.head_bytes();
}

HeadMemory KvCache::head(int layer, int kv_head) const {
    const std::size_t keys = offset(layer, kv_head);
    const auto key_bytes = static_cast<std::size_t>(PAGE_KEYS * shape_.head_dim) * shape_.element();
    return {page_starts_.data(), keys, keys + key_bytes, shape_.head_dim, shape_.padded_dim(), shape_.halves};
}

std::byte* KvCache::key(int layer, int kv_head, int token) const {
    const int slot = token % PAGE_KEYS;
    const auto place = static_cast<std::size_t>(slot / BLOCK * shape_.head_dim * BLOCK + slot % BLOCK);
    return pages_[static_cast<std::size_t>(token / PAGE_KEYS)].get() + offset(layer, kv_head) +
           place * shape_.element();
}

std::byte* KvCache::value(int layer, int kv_head, int token) const {
    const auto key_elements = static_cast<std::size_t>(PAGE_KEYS * shape_.head_dim);
    const auto place = key_elements + static_cast<std::size_t>(token % PAGE_KEYS * shape_.padded_dim());
    return pages_[static_cast<std::size_t>(token / PAGE_KEYS)].get() + offset(layer, kv_head) +
           place * shape_.element();
}

float* KvCache::feature(int token, int slot) const {
    const auto layers = static_cast<std::size_t>(shape_.layers * shape_.kv_heads);
    std::byte* start = pages_[static_cast<std::size_t>(token / PAGE_KEYS)].get() + layers * shape_.head_bytes();
    const auto place = static_cast<std::size_t>(token % PAGE_KEYS * shape_.feature_slots + slot);
    return reinterpret_cast<float*>(start) + place * static_cast<std::size_t>(shape_.hidden);
}

}  // namespace sequoia
