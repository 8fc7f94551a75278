#include "pool.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sequoia {
namespace {

// About 50 microseconds: a draft's level follows within that time; longer waits give the core away.
constexpr int SPINS_BEFORE_SLEEP = 2000;
constexpr int SPINS_BEFORE_YIELD = 1024;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) {
    for (int thread = 1; thread < threads; ++thread)
        workers_.emplace_back([this, thread] { serve(thread); });
}

Pool::~Pool() {
    stopping_ = true;
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Pool::run(Job& job) {
    const std::lock_guard<std::mutex> lock(turn_);
    ticket_.store(0, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    job_.store(&job, std::memory_order_seq_cst);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    take_part(job, 0);
    // a worker that has not come by now finds no job; one that has is waited for
    job_.store(nullptr, std::memory_order_seq_cst);
    while (inside_.load(std::memory_order_seq_cst)) relax();
}

void Pool::serve(int thread) {
    for (std::uint32_t seen = 0;;) {
        for (int spins = 0; spins < SPINS_BEFORE_SLEEP && epoch_.load(std::memory_order_acquire) == seen; ++spins)
            relax();
        epoch_.wait(seen, std::memory_order_acquire);
        seen = epoch_.load(std::memory_order_acquire);
        if (stopping_) return;
        inside_.fetch_add(1, std::memory_order_seq_cst);
        if (Job* job = job_.load(std::memory_order_seq_cst)) take_part(*job, thread);
        inside_.fetch_sub(1, std::memory_order_seq_cst);
    }
}

void Pool::take_part(Job& job, int thread) {
    const int stages = job.stages();
    for (;;) {
        const std::uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
        const int stage = static_cast<int>(ticket >> 32);
        const int chunk = static_cast<int>(ticket & 0xffffffff);
        if (stage >= stages) return;
        const int chunks = job.chunks(stage);
        if (chunk < chunks) {
            job.compute(stage, chunk, thread);
            if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 < chunks) continue;
            done_.store(0, std::memory_order_relaxed);
            ticket_.store(static_cast<std::uint64_t>(stage + 1) << 32, std::memory_order_release);
            continue;
        }
        for (int spins = 1; static_cast<int>(ticket_.load(std::memory_order_acquire) >> 32) == stage; ++spins)
            if (spins % SPINS_BEFORE_YIELD) relax();
            else std::this_thread::yield();
    }
}

}  // namespace sequoia
