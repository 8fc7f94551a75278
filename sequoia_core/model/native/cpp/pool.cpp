#include "pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <memory>
#include <system_error>
#include <utility>

#include "kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sequoia {

constinit thread_local GiveBack give_back = nullptr;

namespace {

// A stage, and the pause between two levels of a draft, end within that time; what takes longer is worth
// the few microseconds that waking costs.
constexpr std::chrono::microseconds SPIN{200};
constexpr int PAUSES_PER_LOOK_AT_THE_CLOCK = 32;

constexpr int CHUNK_BITS = Pool::CHUNK_BITS, EPOCH_BITS = 64 - 2 * CHUNK_BITS;
constexpr std::uint64_t CHUNK_MASK = Pool::MOST_CHUNKS;

constexpr std::uint64_t packed(std::uint64_t epoch, int first, int end) {
    return epoch << 2 * CHUNK_BITS | static_cast<std::uint64_t>(first) << CHUNK_BITS | static_cast<std::uint64_t>(end);
}
constexpr std::uint64_t epoch_of(std::uint64_t share) { return share >> 2 * CHUNK_BITS; }
constexpr int first_of(std::uint64_t share) { return static_cast<int>(share >> CHUNK_BITS & CHUNK_MASK); }
constexpr int end_of(std::uint64_t share) { return static_cast<int>(share & CHUNK_MASK); }
constexpr int size_of(std::uint64_t share) { return end_of(share) - first_of(share); }

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void release_registers() {
    if (give_back) std::exchange(give_back, nullptr)();
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

Pool::Pool(int threads) : threads_(threads), shares_(static_cast<std::size_t>(threads)) {
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
        if (finished_.load(std::memory_order_acquire)) return release_registers();
        take_chunks(0);
        if (finished_.load(std::memory_order_acquire)) return release_registers();
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
    const int count = over ? 0 : job.chunks(stage);
    done_.store(0, std::memory_order_relaxed);
    stage_.store(stage, std::memory_order_relaxed);
    epoch_ = (epoch_ + 1) % (std::uint64_t{1} << EPOCH_BITS);
    // Others compute as soon as they see a share, and may open the next stage, whose shares a late store would
    // overwrite. The last share is stored last and never empty, share(count, threads - 1) < count, so no stage ends
    // before all its shares are stored.
    assert(over || share(count, threads_ - 1) < count);
    for (int thread = 0; thread < threads_; ++thread)
        range(thread).store(packed(epoch_, share(count, thread), share(count, thread + 1)), std::memory_order_release);
    if (over) finished_.store(true, std::memory_order_release);
    changes_.fetch_add(1, std::memory_order_release);
    changes_.notify_all();
}

int Pool::take(int thread) {
    std::uint64_t seen = range(thread).load(std::memory_order_acquire);
    while (size_of(seen) > 0) {
        const std::uint64_t left = packed(epoch_of(seen), first_of(seen) + 1, end_of(seen));
        if (range(thread).compare_exchange_weak(seen, left, std::memory_order_acq_rel, std::memory_order_acquire))
            return first_of(seen);
    }
    return steal_half(thread, epoch_of(seen));
}

// Takes the second half of the largest share: its first chunk is returned, so that no thread steals it back, and the
// rest becomes the thread's own share. That share is empty and no other thread changes it: threads steal from full ones
// only, and the next stage cannot open before the stolen chunks are done. Only within one epoch, since while a stage
// opens a share may still be of the one before.
int Pool::steal_half(int thread, std::uint64_t epoch) {
    for (;;) {
        int victim = NONE;
        std::uint64_t most = 0;
        for (int other = 0; other < threads_; ++other) {
            const std::uint64_t seen = range(other).load(std::memory_order_acquire);
            if (epoch_of(seen) != epoch || size_of(seen) <= size_of(most)) continue;
            victim = other;
            most = seen;
        }
        if (victim == NONE) return NONE;
        const int middle = first_of(most) + size_of(most) / 2, end = end_of(most);
        const std::uint64_t left = packed(epoch, first_of(most), middle);
        if (!range(victim).compare_exchange_strong(most, left, std::memory_order_acq_rel)) continue;
        range(thread).store(packed(epoch, middle + 1, end), std::memory_order_release);
        return middle;
    }
}

// A stage cannot end before a thread has counted the chunks that it took, so these are all of one stage.
void Pool::take_chunks(int thread) {
    for (;;) {
        int chunk = take(thread);
        if (chunk == NONE) return;
        Job& job = *job_.load(std::memory_order_relaxed);
        const int stage = stage_.load(std::memory_order_relaxed), count = job.chunks(stage);
        int taken = 0;
        for (; chunk != NONE; chunk = take(thread), ++taken) job.compute(stage, chunk, thread);
        // the job lives until these chunks are counted; where they are the last, all others would wait for the prefetch
        if (done_.load(std::memory_order_relaxed) + taken < count) job.prefetch_next(stage, thread);
        if (done_.fetch_add(taken, std::memory_order_acq_rel) + taken < count) return;
        job.end(stage, thread);
        open(job, stage + 1);
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
    release_registers();
    changes_.wait(seen, std::memory_order_acquire);
}

}  // namespace sequoia
