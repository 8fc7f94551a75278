#include "model.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace sequoia {
namespace {

// Read beyond the last matrix by prefetching.
constexpr std::size_t PREFETCH_SLACK = 16384;

int padded(int count, int to) { return (count + to - 1) / to * to; }

std::vector<float> padded_copy(const float* values, int count, int to) {
    std::vector<float> copy(static_cast<std::size_t>(padded(count, to)), 0.f);
    std::copy_n(values, count, copy.begin());
    return copy;
}

}  // namespace

Model::Model(ModelShape shape, std::shared_ptr<Pool> pool, const Kernels& kernels, std::shared_ptr<Model> embedding_of,
             std::vector<float> inverse_frequencies)
    : shape_(std::move(shape)),
      pool_(std::move(pool)),
      kernels_(kernels),
      embedding_of_(std::move(embedding_of)),
      inverse_frequencies_(std::move(inverse_frequencies)),
      layers_(static_cast<std::size_t>(shape_.layers)) {
    scratch_.resize(static_cast<std::size_t>(pool_->threads()));
    scores_.resize(static_cast<std::size_t>(pool_->threads()));
}

CacheShape Model::cache_shape() const {
    return {shape_.layers,
            shape_.kv_heads,
            shape_.head_dim,
            shape_.half_cache,
            static_cast<int>(shape_.feature_layers.size()),
            shape_.hidden};
}

const Linear& Model::embedding() const { return embedding_of_ ? embedding_of_->embedding() : embedding_; }

Linear& Model::linear(int layer, Part part) {
    switch (part) {
        case Part::EMBEDDING: return embedding_;
        case Part::HEAD: return head_;
        case Part::TARGET_INPUT: return target_input_;
        case Part::OWN_INPUT: return own_input_;
        default: return layers_.at(static_cast<std::size_t>(layer)).part(part);
    }
}

// Heads begin at multiples of 16 rows. llama.cpp's files rotate neighbours of a head, we rotate its halves.
int Model::output_row(Part part, int row, bool interleaved_rotary) const {
    if (part != Part::QUERY && part != Part::KEY && part != Part::VALUE) return row;
    const int dim = shape_.head_dim, head = row / dim;
    int within = row % dim;
    if (interleaved_rotary && part != Part::VALUE) within = within % 2 * (dim / 2) + within / 2;
    return head * padded_dim() + within;
}

std::pair<int, int> Model::sizes_of(Part part) const {
    const int hidden = shape_.hidden;
    switch (part) {
        case Part::QUERY: return {shape_.heads * shape_.head_dim, hidden};
        case Part::KEY:
        case Part::VALUE: return {shape_.kv_heads * shape_.head_dim, hidden};
        case Part::ATTENTION_OUT: return {hidden, shape_.heads * shape_.head_dim};
        case Part::GATE:
        case Part::UP: return {shape_.inner, hidden};
        case Part::DOWN: return {hidden, shape_.inner};
        case Part::EMBEDDING: return {shape_.vocab, hidden};
        case Part::HEAD: return {shape_.head_rows, hidden};
        case Part::TARGET_INPUT: return {hidden, (shape_.target_features + 1) * hidden};
        case Part::OWN_INPUT: return {hidden, 2 * hidden};
    }
    return {0, 0};
}

void Model::declare(int layer, Part part, FileFormat format, int rows, int columns) {
    if (std::pair(rows, columns) != sizes_of(part))
        throw std::invalid_argument("a matrix has another shape than the model says");
    const bool heads = part == Part::QUERY || part == Part::KEY || part == Part::VALUE;
    const int stored = heads ? rows / shape_.head_dim * padded_dim() : rows;
    linear(layer, part).matrix.shape(format, stored, columns, kernels_.code_flip);
}

void Model::allocate_weights() {
    std::vector<Matrix*> order;
    for (Linear* each : {&target_input_, &own_input_}) order.push_back(&each->matrix);
    for (Layer& layer : layers_)
        for (Linear& each : layer.parts) order.push_back(&each.matrix);
    for (Linear* each : {&head_, &embedding_}) order.push_back(&each->matrix);
    weight_bytes_ = 0;
    for (const Matrix* each : order) weight_bytes_ += each->bytes();
    weights_ = allocate<std::uint8_t>(weight_bytes_ + PREFETCH_SLACK);
    std::uint8_t* next = weights_.get();
    for (Matrix* each : order) {
        each->place(next);
        next += each->bytes();
    }
    const Layer& first = layers_.front();
    InputForms inputs, hidden, attended, inner;
    hidden.add(head().matrix);
    for (const Layer& layer : layers_) {
        for (const Part part : {Part::QUERY, Part::KEY, Part::VALUE, Part::GATE, Part::UP})
            hidden.add(layer.part(part).matrix);
        attended.add(layer.part(Part::ATTENTION_OUT).matrix);
        inner.add(layer.part(Part::DOWN).matrix);
    }
    for (const Linear* each : {&target_input_, &own_input_}) inputs.add(each->matrix);
    hidden_.shape(shape_.hidden, hidden);
    attended_.shape(first.part(Part::ATTENTION_OUT).matrix.columns(), attended);
    inner_.shape(shape_.inner, inner);
    if (shape_.target_features) inputs_.shape((shape_.target_features + 1) * shape_.hidden, inputs);
}

int Model::stored_rows(int layer, Part part) const {
    const int rows = linear(layer, part).matrix.rows();
    const bool heads = part == Part::QUERY || part == Part::KEY || part == Part::VALUE;
    return heads ? rows / padded_dim() * shape_.head_dim : rows;
}

void Model::fill(int layer, Part part, int first, int count, const std::uint8_t* rows, std::size_t row_bytes,
                 bool interleaved_rotary) {
    Matrix& matrix = linear(layer, part).matrix;
    if (row_bytes != file_row_bytes(matrix.format(), matrix.columns()))
        throw std::invalid_argument("rows of a matrix have another size than their format says");
    for (int row = first; row < first + count; ++row, rows += row_bytes)
        matrix.put(output_row(part, row, interleaved_rotary), rows);
}

void Model::set_bias(int layer, Part part, const float* values, int count, bool interleaved_rotary) {
    Linear& to = linear(layer, part);
    if (count != stored_rows(layer, part)) throw std::invalid_argument("a bias has another size than its matrix");
    to.bias.assign(static_cast<std::size_t>(to.matrix.blocks() * BLOCK), 0.f);
    for (int row = 0; row < count; ++row)
        to.bias[static_cast<std::size_t>(output_row(part, row, interleaved_rotary))] = values[row];
}

// Of queries and keys a head's width, or that of all heads.
bool Model::fits(Vector vector, int count) const {
    const int dim = shape_.head_dim;
    switch (vector) {
        case Vector::QUERY_NORM: return count == dim || count == shape_.heads * dim;
        case Vector::KEY_NORM: return count == dim || count == shape_.kv_heads * dim;
        case Vector::INPUT_SHIFT:
        case Vector::INPUT_SCALE: return count == (shape_.target_features + 1) * shape_.hidden;
        default: return count == shape_.hidden;
    }
}

std::vector<float> Model::padded_heads(const float* values, int count) const {
    const int dim = shape_.head_dim;
    std::vector<float> copy(static_cast<std::size_t>(count / dim * padded_dim()), 0.f);
    for (int i = 0; i < count; ++i) copy[static_cast<std::size_t>(i / dim * padded_dim() + i % dim)] = values[i];
    return copy;
}

void Model::set_vector(int layer, Vector vector, const float* values, int count) {
    if (!fits(vector, count)) throw std::invalid_argument("a vector has another size than the model says");
    const bool of_heads = vector == Vector::QUERY_NORM || vector == Vector::KEY_NORM;
    std::vector<float> copy = of_heads ? padded_heads(values, count) : padded_copy(values, count, GROUP);
    switch (vector) {
        case Vector::FINAL_NORM: final_norm_ = std::move(copy); break;
        case Vector::INPUT_SHIFT: input_shift_ = std::move(copy); break;
        case Vector::INPUT_SCALE: input_scale_ = std::move(copy); break;
        default: layers_.at(static_cast<std::size_t>(layer)).vector(vector) = std::move(copy);
    }
}

void Model::reserve(int rows, int longest) {
    // what has room is noted last: if memory is full, the next call tries again
    if (rows > row_capacity_) {
        const int wanted = std::max(rows, 16);
        const auto capacity = static_cast<std::size_t>(wanted);
        for (Activations* each : {&inputs_, &hidden_, &attended_, &inner_}) each->reserve(wanted);
        states_ = allocate<float>(capacity * static_cast<std::size_t>(padded_hidden()));
        queries_ = allocate<float>(capacity * static_cast<std::size_t>(shape_.heads * padded_dim()));
        outputs_ = allocate<float>(norms_outputs() ? capacity * static_cast<std::size_t>(padded_hidden()) : 0);
        const int heads = norms_whole() ? shape_.heads + shape_.kv_heads : 0;
        unnormed_ = allocate<float>(capacity * static_cast<std::size_t>(heads * padded_dim()));
        mixed_ = allocate<float>(capacity * static_cast<std::size_t>(attended_.groups() * GROUP));
        const std::size_t angles = capacity * static_cast<std::size_t>(shape_.rotations() * (shape_.rotary_dim / 2));
        cosines_ = allocate<float>(angles);
        sines_ = allocate<float>(angles);
        // a head, or gate and up of a group, of all rows; and a row of any width
        const std::size_t block = capacity * static_cast<std::size_t>(std::max(padded_dim(), 2 * GROUP));
        const auto row = static_cast<std::size_t>(std::max({padded_hidden(), inputs_.groups() * GROUP, padded_dim()}));
        for (auto& each : scratch_) each = allocate<float>(std::max(block, 2 * row));
        row_capacity_ = wanted;
    }
    if (longest > key_capacity_) {
        const int wanted = padded(longest + 4 * BLOCK, PAGE_KEYS);
        const auto mixed = static_cast<std::size_t>(MOST_QUERIES * padded_dim());
        for (auto& each : scores_)
            each = allocate<float>(static_cast<std::size_t>(MOST_QUERIES) * static_cast<std::size_t>(wanted) + mixed);
        key_capacity_ = wanted;
    }
}

}  // namespace sequoia
