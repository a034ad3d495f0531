#include "models/parameter.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "tensor/check.h"

namespace offramp {
namespace {

// Axes of more than one element, in order of their steps through the logical tensor. Returns how many there are.
std::size_t sort_axes(const Piece& piece, std::array<Axis, 4>& axes) {
  axes = piece.axes;
  const auto end = std::remove_if(axes.begin(), axes.end(), [](const Axis& a) { return a.count == 1; });
  std::sort(axes.begin(), end, [](const Axis& a, const Axis& b) { return a.global_stride > b.global_stride; });
  const auto used = static_cast<std::size_t>(end - axes.begin());
  std::int64_t extent = 1;  // of the axes inside this one: they must not reach into its next step
  for (std::size_t i = used; i-- > 0;) {
    OFFRAMP_CHECK(axes[i].global_stride >= extent, "[runs] {}: the axis of {} steps of {} overlaps its inner axes of {} elements",
                  piece.name, axes[i].count, axes[i].global_stride, extent);
    extent += (axes[i].count - 1) * axes[i].global_stride;
  }
  return used;
}

// Joins runs that continue each other, and passes on what can grow no further.
class Joiner {
 public:
  explicit Joiner(const std::function<void(const Run&)>& visit) : visit_(visit) {}
  void add(const Run& run) {
    if (run.count <= 0) return;
    if (run.local == open_.local + open_.count && run.global == open_.global + open_.count) {
      open_.count += run.count;
      return;
    }
    flush();
    open_ = run;
  }
  void flush() {
    if (open_.count > 0) visit_(open_);
    open_.count = 0;
  }

 private:
  const std::function<void(const Run&)>& visit_;
  Run open_;
};

// What of a run lies in [begin, end) of the parameter.
Run clip(Run run, std::int64_t begin, std::int64_t end) {
  const std::int64_t skip = std::max<std::int64_t>(begin - run.local, 0);
  const std::int64_t stop = std::min(run.count, end - run.local);
  return {run.local + skip, run.global + skip, stop - skip};
}

void fill(float* value, const Run& run, const Init& init, Key key) {
  float* out = value + run.local;
  if (init.kind != Init::Kind::normal) {
    std::fill_n(out, run.count, init.kind == Init::Kind::ones ? 1.0f : 0.0f);
    return;
  }
  // Every element stands alone, so threads change nothing but the time.
#pragma omp parallel for if (run.count > 1 << 14)
  for (std::int64_t i = 0; i < run.count; ++i) {
    out[i] = static_cast<float>(init.deviation * static_cast<double>(normal(key, static_cast<std::uint64_t>(run.global + i))));
  }
}

}  // namespace

std::int64_t Piece::elements() const {
  std::int64_t n = 1;
  for (const Axis& axis : axes) n *= axis.count;
  return n;
}

Piece whole(std::string name, Shape global) { return rows_of(std::move(name), global, 0, global[0]); }

Piece rows_of(std::string name, Shape global, std::int64_t first, std::int64_t count) {
  const std::int64_t row = global.elements() / global[0];
  Piece piece{.name = std::move(name), .global = global, .global_first = first * row};
  piece.axes[0] = {count * row, 1, 1};
  return piece;
}

void runs(const Piece& piece, std::int64_t begin, std::int64_t end, const std::function<void(const Run&)>& visit) {
  if (piece.elements() == 0) return;
  std::array<Axis, 4> axes;
  std::size_t outer = sort_axes(piece, axes);
  std::int64_t count = 1;  // elements of one step: the innermost axis as a whole where it is dense on both sides
  if (outer > 0 && axes[outer - 1].global_stride == 1 && axes[outer - 1].local_stride == 1) count = axes[--outer].count;

  Joiner joiner(visit);
  std::array<std::int64_t, 4> at{};
  for (std::size_t axis = outer;;) {
    Run run{piece.local_first, piece.global_first, count};
    for (std::size_t i = 0; i < outer; ++i) {
      run.local += at[i] * axes[i].local_stride;
      run.global += at[i] * axes[i].global_stride;
    }
    joiner.add(clip(run, begin, end));
    for (axis = outer; axis > 0 && ++at[axis - 1] == axes[axis - 1].count; --axis) at[axis - 1] = 0;
    if (axis == 0) break;
  }
  joiner.flush();
}

void runs(const Piece& piece, const std::function<void(const Run&)>& visit) {
  runs(piece, 0, std::numeric_limits<std::int64_t>::max(), visit);
}

void initialize(const Parameter& parameter, Tensor values, std::uint64_t seed, const NameOf& origin) {
  std::int64_t covered = 0;
  for (const Piece& piece : parameter.pieces) covered += piece.elements();
  OFFRAMP_CHECK(covered == parameter.shape.elements() && values.elements() == covered && values.contiguous(),
                "[initialize] {}: pieces hold {} elements, the parameter is {}, its memory {}", parameter.name(), covered,
                to_text(parameter.shape), to_text(values.shape));
  for (const Piece& piece : parameter.pieces) {
    const Key key{seed, Use::init, hash(origin ? origin(piece.name) : piece.name)};
    runs(piece, [&](const Run& run) { fill(values.as<float>(), run, parameter.init, key); });
  }
}

}  // namespace offramp
