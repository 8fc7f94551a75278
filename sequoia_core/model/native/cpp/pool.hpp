// Threads that compute the stages of a forward pass together.
//
// A job is a list of stages, each a number of chunks; a stage begins when all chunks of the one before
// are done. Threads take chunks by a ticket from one counter, so a thread that the system does not run
// holds up at most the one chunk it has taken, and who waits for it sleeps: a busy neighbour costs its
// share and no more.
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
};

// Safe to fork: a fork waits for the job that is computed, and a child's first job starts threads anew.
class Pool {
 public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

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
    // Stage, its number of chunks and the next chunk. Complete in itself, since a thread may take a ticket
    // when the job is over, and must not touch it then; only the holder of a valid one knows that it lives.
    alignas(64) std::atomic<std::uint64_t> ticket_{0};
    alignas(64) std::atomic<int> done_{0};               // chunks of the stage
    alignas(64) std::atomic<std::uint32_t> changes_{0};  // of the stage; what threads sleep on
    std::atomic<bool> finished_{true};
};

}  // namespace sequoia
