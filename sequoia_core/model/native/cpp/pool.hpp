// Threads that compute the stages of a forward pass together.
//
// A job is a list of stages, each a number of chunks; a stage begins when all chunks of the one before
// are done. Threads take chunks by a ticket from one counter, so a thread that the system does not run
// holds up at most the one chunk it has taken: a busy neighbour costs its share and no more.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace sequoia {

class Job {
   public:
    virtual ~Job() = default;
    virtual int stages() const = 0;
    virtual int chunks(int stage) const = 0;
    // Computes one chunk; `thread` is below Pool::threads() and not used by two calls at once.
    virtual void compute(int stage, int chunk, int thread) noexcept = 0;
};

class Pool {
   public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Computes all stages of a job; the calling thread takes part. Calls from several threads take turns.
    void run(Job& job);

   private:
    void serve(int thread);
    void take_part(Job& job, int thread);

    std::mutex turn_;
    std::atomic<bool> stopping_{false};
    alignas(64) std::atomic<std::uint64_t> ticket_{0};  // stage in the upper half, chunk in the lower
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<std::uint32_t> epoch_{0};
    std::atomic<int> inside_{0};
    std::atomic<Job*> job_{nullptr};
    std::vector<std::thread> workers_;
};

}  // namespace sequoia
