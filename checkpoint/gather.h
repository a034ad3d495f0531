// Logical tensors from the ranks that hold them, a part at a time, for exports: in full precision (of bf16 weights the masters). And back
// to them, for what changes tensors as a whole. Every rank knows from the options alone who holds what, so nothing but data is sent.
//
//   Gatherer gatherer(machine);
//   for (first = 0; first < elements; first += Gatherer::kMost)
//     values = gatherer.gather(name, first, std::min(Gatherer::kMost, elements - first));   // on every rank
#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/state.h"

namespace offramp {

class Gatherer {
 public:
  static constexpr std::int64_t kMost = std::int64_t{1} << 22;  // elements a call: 16 MiB of memory, whatever the tensor's size

  explicit Gatherer(Machine& machine);
  // All are collective over the world, every rank with the same arguments. On rank 0 what was asked for, valid until the next call;
  // elsewhere nothing. Throw Error(Exit::internal) for a name that the model does not have.
  //
  // Elements first .. first + count of the tensor, row-major.
  std::span<const float> gather(const std::string& name, std::int64_t first, std::int64_t count);
  // Columns first .. first + count of a matrix [rows, columns], transposed: [count, rows].
  std::span<const float> gather_columns(const std::string& name, std::int64_t first, std::int64_t count);

  // Lines first .. first + count of a tensor along one of its axes: rows (axis 1), or columns or a whole vector (axis 0).
  struct Lines {
    std::string tensor;
    int axis = 0;
    std::int64_t first = 0, count = 1;
    std::string kind = kWeights;  // or an optimizer's state
  };
  std::span<float> gather(const Lines& lines);  // [count, length]
  // The way back, of rank 0's `values`; the machine's are what they were until settle(): once after all that was scattered, it rounds
  // masters to the working type and brings everything to those that have copies.
  void scatter(const Lines& lines, std::span<const float> values);
  void settle();
  // Elements of a line, and how many lines there are.
  std::pair<std::int64_t, std::int64_t> extent(const std::string& name, int axis);

 private:
  // What is asked for, and where each element of the logical tensor goes.
  struct Window {
    std::int64_t first = 0, count = 0;        // elements, or columns
    std::int64_t rows = 0, row_elements = 0;  // of the matrix whose columns are asked for; 0: elements in a row
    std::int64_t elements() const { return rows > 0 ? rows * count : count; }
  };
  // Elements at `local` of their parameter that go to the window's place at, at + step, ...
  struct Stretch {
    std::int64_t local, at, step, count;
  };
  // A rank that holds some of a tensor.
  struct Holder {
    int rank = 0;  // in the world
    const Holdings* held = nullptr;
    const Parameter* parameter = nullptr;
    const Piece* piece = nullptr;
  };
  enum class Copies : std::uint8_t { first, all };  // of what every tensor rank has
  std::span<float> gather(const std::string& name, const Window& window, const std::string& kind = kWeights);
  Shape shape_of(const std::string& name);
  Window window_of(const Lines& lines);
  // Calls `move` on rank 0 and on each holder in turn, if it has any of the window.
  using Move = std::function<void(const Holder& holder, const std::vector<Stretch>& parts, Tensor message)>;
  void each_holder(const std::string& name, const Window& window, Copies copies, const Move& move);
  std::vector<Holder> holders_of(const std::string& name, Copies copies);
  const Holdings& held_by(const Coordinates& at);
  void append_holders(std::vector<Holder>& holders, const std::string& name, const Coordinates& at, Copies copies);
  std::vector<Stretch> stretches(const Holder& holder, const Window& window) const;
  float* held_at(const Holder& holder, const Stretch& part, const std::string& kind);

  Machine& machine_;
  std::map<std::string, std::vector<int>> stages_of_;  // that own some of the tensor: the lowest, of split output matrices each
  std::map<int, std::unique_ptr<Holdings>> held_;      // by rank, of one tensor's stages at a time
  std::vector<int> stages_held_;
  Arena nowhere_{Backing::none, kUnlimited};
  std::vector<float> values_, message_;
};

}  // namespace offramp
