// Threads that compute the stages of a forward pass together.
//
// Work stealing with prefetching: a job is a list of stages, each a number of chunks, and a stage begins when all
// chunks of the one before are done. Each thread has a share of consecutive chunks, since memory is read fastest in
// order. A thread without work steals half of another's remaining share; before it waits, it prefetches what it reads
// first in the next stage. So another busy process costs little more than its share. Threads that wait long sleep.
//
// A thread that the system stops delays the chunk that it computes; others steal the rest of its share. In the few
// instructions of a theft it delays the stolen chunks, and while it opens a stage, the whole job.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace sequoia {

class Job {
 public:
    Job() = default;
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;
    virtual ~Job() = default;
    virtual int stages() const = 0;
    virtual int chunks(int stage) const = 0;
    // Computes one chunk; `thread` is below Pool::threads() and not used by two calls at once.
    virtual void compute(int stage, int chunk, int thread) noexcept = 0;
    // Called by a thread that has computed chunks of the stage and will wait for others' chunks.
    virtual void prefetch_next(int /*stage*/, int /*thread*/) noexcept {}
    // Called once, when all chunks of the stage are done.
    virtual void end(int /*stage*/, int /*thread*/) noexcept {}
};

// Safe to fork: a fork waits for the current job, and a child's first job starts new threads.
class Pool {
 public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // Of a stage, since a share has 20 bits each for its first chunk and its end.
    static constexpr int CHUNK_BITS = 20, MOST_CHUNKS = (1 << CHUNK_BITS) - 1;

    int threads() const { return threads_; }
    // The first of a thread's chunks out of `count`. The last thread has at least one, unless there are none.
    int share(int count, int thread) const {
        return static_cast<int>(static_cast<std::int64_t>(count) * thread / threads_);
    }

    using Turn = std::unique_lock<std::mutex>;
    // Callers take turns: it is held while a job is prepared and run.
    Turn take_turn() { return Turn(turn_); }
    // Computes all stages of a job; the calling thread takes part.
    void run(Job& job, const Turn& turn);
    void run(Job& job) { run(job, take_turn()); }

 private:
    friend class ForkGuard;
    void start();
    void abandon();
    void serve(int thread);
    static constexpr int NONE = -1;
    // The next chunk of the thread's own share, or of another's.
    int take(int thread);
    int steal_half(int thread, std::uint64_t epoch);
    void take_chunks(int thread);
    // Opens the first stage from `stage` on that has chunks, or ends the job.
    void open(const Job& job, int stage);
    void wait_for_change(std::uint32_t seen) const;

    const int threads_;
    std::mutex turn_;
    std::vector<std::thread> workers_;
    bool lost_ = false;  // the workers stayed in the process that this one was forked from
    std::atomic<bool> stopping_{false};
    std::atomic<Job*> job_{nullptr};
    // A thread's remaining share: its epoch (the number of its stage among all that were opened), its first chunk and
    // its end, in one word: a thread may read a share when the job is over, and must not touch the job then. The job
    // exists for certain only while a thread has a chunk that is not counted as done.
    struct alignas(64) Share {
        std::atomic<std::uint64_t> range{0};
    };
    std::vector<Share> shares_;
    std::atomic<std::uint64_t>& range(int thread) { return shares_[static_cast<std::size_t>(thread)].range; }
    std::uint64_t epoch_ = 0;
    std::atomic<int> stage_{0};
    alignas(64) std::atomic<int> done_{0};               // chunks of the stage
    alignas(64) std::atomic<std::uint32_t> changes_{0};  // of the stage; threads sleep on it
    std::atomic<bool> finished_{true};
};

}  // namespace sequoia
