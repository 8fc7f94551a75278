// Aligned memory on huge pages where the kernel has them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace sequoia {

struct FreeDeleter {
    void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using Buffer = std::unique_ptr<T[], FreeDeleter>;

// Zeroed memory for `count` values, aligned to a cache line, or to a huge page where it is large.
template <class T>
Buffer<T> allocate(std::size_t count) {
    constexpr std::size_t line = 64, huge_page = std::size_t{2} << 20;
    const std::size_t wanted = count * sizeof(T);
    const std::size_t alignment = wanted >= huge_page ? huge_page : line;
    const std::size_t bytes = (wanted + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, bytes ? bytes : alignment);
    if (!memory) throw std::bad_alloc();
    if (alignment == huge_page) madvise(memory, bytes, MADV_HUGEPAGE);
    std::memset(memory, 0, bytes ? bytes : alignment);
    return Buffer<T>(static_cast<T*>(memory));
}

}  // namespace sequoia
