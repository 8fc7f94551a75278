#include "rows.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

namespace sequoia {
namespace {

// One stage, a chunk for each row.
template <class Function>
class EachRow final : public Job {
 public:
    EachRow(const Logits& logits, Function function) : logits_(logits), function_(function) {}

    int stages() const override { return 1; }
    int chunks(int) const override { return logits_.rows; }
    void compute(int, int row, int thread) noexcept override {
        const auto offset = static_cast<std::size_t>(row) * static_cast<std::size_t>(logits_.columns);
        function_(row, offset, thread);
    }

 private:
    const Logits& logits_;
    Function function_;
};

constexpr int DRAW_BLOCK = 128;  // columns whose probabilities are summed at once

// A distribution without the columns that were drawn from it.
class Urn {
 public:
    Urn(const float* probs, int count) : probs_(probs), count_(count) {
        for (int begin = 0; begin < count; begin += DRAW_BLOCK) masses_.push_back(mass(begin / DRAW_BLOCK));
    }

    std::int32_t draw(double uniform) {
        double left = 0;
        for (const double each : masses_) left += each;
        if (std::isnan(left)) return -1;
        const std::int32_t column = left > 0 ? at(uniform * left) : among_the_rest(uniform);
        drawn_.push_back(column);
        const auto block = static_cast<std::size_t>(column / DRAW_BLOCK);
        masses_[block] = mass(static_cast<int>(block));
        return column;
    }

 private:
    bool drawn(int column) const { return std::find(drawn_.begin(), drawn_.end(), column) != drawn_.end(); }

    double mass(int block) const {
        const int begin = block * DRAW_BLOCK, end = std::min(count_, begin + DRAW_BLOCK);
        for (const std::int32_t column : drawn_)
            if (column / DRAW_BLOCK == block) return mass_without_drawn(begin, end);
        constexpr int CHAINS = 8;  // sums that do not wait for each other
        std::array<double, CHAINS> sums{};
        int column = begin;
        for (; column + CHAINS <= end; column += CHAINS)
            for (std::size_t chain = 0; chain < CHAINS; ++chain)
                sums[chain] += static_cast<double>(probs_[column + static_cast<int>(chain)]);
        for (; column < end; ++column) sums[0] += static_cast<double>(probs_[column]);
        return std::accumulate(sums.begin(), sums.end(), 0.0);
    }

    // Summed again: a difference would keep rounding errors.
    double mass_without_drawn(int begin, int end) const {
        double sum = 0;
        for (int column = begin; column < end; ++column)
            if (!drawn(column)) sum += static_cast<double>(probs_[column]);
        return sum;
    }

    // Where the distribution function passes `target`; the last column with any mass where rounding puts it past that.
    std::int32_t at(double target) const {
        std::size_t filled = 0;
        for (std::size_t block = 0; block < masses_.size(); ++block) {
            if (masses_[block] <= 0) continue;
            filled = block;
            if (target < masses_[block]) break;
            if (block + 1 < masses_.size()) target -= masses_[block];
        }
        return within(filled, target);
    }

    std::int32_t within(std::size_t block, double target) const {
        const int begin = static_cast<int>(block) * DRAW_BLOCK, end = std::min(count_, begin + DRAW_BLOCK);
        double passed = 0;
        std::int32_t found = -1;
        for (int column = begin; column < end; ++column) {
            if (!(probs_[column] > 0) || drawn(column)) continue;
            passed += static_cast<double>(probs_[column]);
            found = column;
            if (passed > target) break;
        }
        return found;
    }

    std::int32_t among_the_rest(double uniform) const {
        auto skip = static_cast<std::int64_t>(uniform * static_cast<double>(count_ - static_cast<int>(drawn_.size())));
        for (std::int32_t column = 0;; ++column)
            if (!drawn(column) && skip-- == 0) return column;
    }

    const float* probs_;
    int count_;
    std::vector<double> masses_;
    std::vector<std::int32_t> drawn_;
};

}  // namespace

void draw_ordered(const float* probs, int count, int wanted, const double* uniforms, std::int32_t* columns) {
    Urn urn(probs, count);
    for (int rank = 0; rank < wanted; ++rank) columns[rank] = urn.draw(uniforms[rank]);
}

void label(Pool& pool, const Kernels& kernels, const Logits& logits, const Labels& labels) {
    const auto width = static_cast<std::size_t>(logits.columns);
    std::vector<float> scratch(labels.drawn ? static_cast<std::size_t>(pool.threads()) * width : 0);
    EachRow job(logits, [&](int row, std::size_t offset, int thread) {
        const float* const values = logits.values + offset;
        const auto wanted = static_cast<std::size_t>(labels.wanted), first = static_cast<std::size_t>(row) * wanted;
        kernels.top(values, logits.columns, labels.wanted, labels.columns + first);
        if (!labels.drawn) return;
        const double log_total = kernels.summarize(values, logits.columns, logits.inverse_temperature).log_total;
        for (std::size_t rank = first; rank < first + wanted; ++rank)
            labels.probs[rank] =
                std::exp(values[labels.columns[rank]] * logits.inverse_temperature - static_cast<float>(log_total));
        labels.drawn[row] = std::isnan(log_total) ? -1 : labels.columns[first];
        if (!(labels.temperatures[row] > 0)) return;
        float* const own = scratch.data() + static_cast<std::size_t>(thread) * width;
        kernels.distribution(values, logits.columns, 1.f / labels.temperatures[row], own);
        draw_ordered(own, logits.columns, 1, labels.uniforms + row, labels.drawn + row);
    });
    pool.run(job);
}

void distributions(Pool& pool, const Kernels& kernels, const Logits& logits, float* probs) {
    EachRow job(logits, [&](int, std::size_t offset, int) {
        kernels.distribution(logits.values + offset, logits.columns, logits.inverse_temperature, probs + offset);
    });
    pool.run(job);
}

}  // namespace sequoia
