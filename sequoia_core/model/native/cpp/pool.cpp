#include "pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <system_error>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sequoia {
namespace {

// A stage, and the pause between two levels of a draft, end within that time; what takes longer is worth
// the few microseconds that waking costs.
constexpr std::chrono::microseconds SPIN{200};
constexpr int PAUSES_PER_LOOK_AT_THE_CLOCK = 32;

constexpr int CHUNK_BITS = 24, COUNT_BITS = 24;
constexpr std::uint64_t CHUNK_MASK = (std::uint64_t{1} << CHUNK_BITS) - 1;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

// All pools of the process, whose turns a fork takes first: a child then finds no job half done and no
// lock that a thread of its parent holds.
class ForkGuard {
 public:
    static ForkGuard& instance() {
        static auto* guard = new ForkGuard;  // never destroyed, since a fork may come late
        return *guard;
    }
    void add(Pool* pool) {
        const std::lock_guard<std::mutex> lock(mutex_);
        pools_.push_back(pool);
    }
    void remove(Pool* pool) {
        const std::lock_guard<std::mutex> lock(mutex_);
        pools_.erase(std::find(pools_.begin(), pools_.end(), pool));
    }

 private:
    ForkGuard() { pthread_atfork(before, in_parent, in_child); }
    static void before() {
        instance().mutex_.lock();
        for (Pool* pool : instance().pools_) pool->turn_.lock();
    }
    static void in_parent() {
        for (Pool* pool : instance().pools_) pool->turn_.unlock();
        instance().mutex_.unlock();
    }
    static void in_child() {
        for (Pool* pool : instance().pools_) pool->lost_ = true;
        in_parent();
    }

    std::mutex mutex_;
    std::vector<Pool*> pools_;
};

Pool::Pool(int threads) : threads_(threads) {
    ForkGuard::instance().add(this);
    start();
}

Pool::~Pool() {
    ForkGuard::instance().remove(this);
    if (lost_) {
        abandon();
        return;
    }
    stopping_ = true;
    changes_.fetch_add(1);
    changes_.notify_all();
    for (auto& worker : workers_) worker.join();
}

// Where the system gives no more threads, those that there are compute.
void Pool::start() {
    workers_.reserve(static_cast<std::size_t>(threads_));
    try {
        for (int thread = 1; thread < threads_; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
    } catch (const std::system_error&) {}
}

// Forgets threads of another process, which can be neither joined nor destroyed.
void Pool::abandon() {
    static_cast<void>(std::make_unique<std::vector<std::thread>>(std::move(workers_)).release());
    workers_.clear();
}

void Pool::run(Job& job, const Turn&) {
    if (lost_) {
        abandon();
        lost_ = false;
        start();
    }
    finished_.store(false, std::memory_order_relaxed);
    job_.store(&job, std::memory_order_relaxed);
    open(job, 0);
    for (;;) {
        const std::uint32_t seen = changes_.load(std::memory_order_acquire);
        if (finished_.load(std::memory_order_acquire)) return;
        take_chunks(0);
        if (finished_.load(std::memory_order_acquire)) return;
        wait_for_change(seen);
    }
}

void Pool::serve(int thread) {
    for (;;) {
        const std::uint32_t seen = changes_.load(std::memory_order_acquire);
        if (stopping_) return;
        take_chunks(thread);
        wait_for_change(seen);
    }
}

void Pool::open(const Job& job, int stage) {
    const int stages = job.stages();
    while (stage < stages && job.chunks(stage) == 0) ++stage;
    const bool over = stage == stages;
    const auto count = static_cast<std::uint64_t>(over ? 0 : job.chunks(stage));
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(static_cast<std::uint64_t>(stage) << (CHUNK_BITS + COUNT_BITS) | count << CHUNK_BITS,
                  std::memory_order_release);
    if (over) finished_.store(true, std::memory_order_release);
    changes_.fetch_add(1, std::memory_order_release);
    changes_.notify_all();
}

void Pool::take_chunks(int thread) {
    for (;;) {
        const std::uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
        const auto stage = static_cast<int>(ticket >> (CHUNK_BITS + COUNT_BITS));
        const auto count = static_cast<int>(ticket >> CHUNK_BITS & CHUNK_MASK);
        const auto chunk = static_cast<int>(ticket & CHUNK_MASK);
        if (chunk >= count) return;
        Job& job = *job_.load(std::memory_order_relaxed);
        job.compute(stage, chunk, thread);
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) open(job, stage + 1);
    }
}

void Pool::wait_for_change(std::uint32_t seen) const {
    const auto began = std::chrono::steady_clock::now();
    do {
        for (int pauses = 0; pauses < PAUSES_PER_LOOK_AT_THE_CLOCK; ++pauses) {
            if (changes_.load(std::memory_order_acquire) != seen) return;
            relax();
        }
    } while (std::chrono::steady_clock::now() - began < SPIN);
    changes_.wait(seen, std::memory_order_acquire);
}

}  // namespace sequoia
