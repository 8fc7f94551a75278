// Aligned memory on huge pages where the kernel has them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace sequoia {

struct Release {
    std::size_t mapped = 0;  // bytes of a mapping, or 0 for memory of the C library
    void operator()(void* memory) const {
        if (mapped) munmap(memory, mapped);
        else std::free(memory);
    }
};

template <class T>
using Buffer = std::unique_ptr<T[], Release>;

// A mapping whose start is a multiple of `alignment`, itself a multiple of the system's pages.
inline void* map_aligned(std::size_t bytes, std::size_t alignment) {
    void* const whole = mmap(nullptr, bytes + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (whole == MAP_FAILED) throw std::bad_alloc();
    const std::size_t past = reinterpret_cast<std::uintptr_t>(whole) % alignment, before = past ? alignment - past : 0;
    std::byte* const start = static_cast<std::byte*>(whole) + before;
    if (before) munmap(whole, before);
    munmap(start + bytes, alignment - before);
    return start;
}

// Zeroed memory for `count` values, aligned to a cache line. Large memory has huge pages of its own, which the
// are returned to the system at once: the C library would keep them, and other memory would soon lie between.
template <class T>
Buffer<T> allocate(std::size_t count) {
    constexpr std::size_t line = 64, huge_page = std::size_t{2} << 20;
    const std::size_t wanted = count * sizeof(T);
    const std::size_t alignment = wanted >= huge_page ? huge_page : line;
    const std::size_t bytes = (wanted + alignment - 1) / alignment * alignment;
    if (alignment == huge_page) {
        void* const mapped = map_aligned(bytes, huge_page);
        madvise(mapped, bytes, MADV_HUGEPAGE);
        return Buffer<T>(static_cast<T*>(mapped), Release{bytes});
    }
    void* const memory = std::aligned_alloc(alignment, bytes ? bytes : alignment);
    if (!memory) throw std::bad_alloc();
    std::memset(memory, 0, bytes ? bytes : alignment);
    return Buffer<T>(static_cast<T*>(memory));
}

}  // namespace sequoia
