#include "models/flat.h"

#include <algorithm>
#include <tuple>

namespace offramp {
namespace {

constexpr std::int64_t kGranule = 16;  // elements: 64 bytes of fp32
std::int64_t padded(std::int64_t n) { return (n + kGranule - 1) / kGranule * kGranule; }

enum class Section { matrices, vectors, tied, guests, writers };

// Parameters that share one accumulator, and with it one place in the buffers.
struct Place {
  std::vector<Parameter*> parameters;
  Section section = Section::matrices;
  int segment = 0, tie = -1;
  std::int64_t offset = 0;
  Parameter& first() const { return *parameters.front(); }
};

Section section_of(const FlatEntry& entry, bool first_writer) {
  if (!first_writer) return Section::writers;
  if (!entry.owner) return Section::guests;
  if (entry.tie >= 0) return Section::tied;
  return entry.parameter->decayed() ? Section::matrices : Section::vectors;
}

// Sizes that no memory holds are refused here, while their products still fit in 64 bits.
void check_size(const Parameter& parameter) {
  double elements = 1;
  for (int i = 0; i < parameter.shape.rank; ++i) elements *= static_cast<double>(parameter.shape[i]);
  if (elements > 1e13)
    fail(Exit::memory, "{} would be a tensor of {}, more than any host holds: reduce the model", parameter.name(),
         to_text(parameter.shape));
}

// One place per (name, writer kind), in the order of first appearance. Within a tie the lowest writer kind is the first writer.
std::vector<Place> make_places(const std::vector<FlatEntry>& entries) {
  std::map<std::string, Writer> first_writer;
  for (const auto& e : entries) {
    auto [it, fresh] = first_writer.try_emplace(e.parameter->name(), e.parameter->writer);
    if (!fresh) it->second = std::min(it->second, e.parameter->writer);
  }
  std::vector<Place> places;
  std::map<std::pair<std::string, Writer>, std::size_t> known;
  for (const auto& e : entries) {
    const Parameter& p = *e.parameter;
    check_size(p);
    auto [it, fresh] = known.try_emplace({p.name(), p.writer}, places.size());
    if (fresh) {
      places.push_back({{e.parameter}, section_of(e, first_writer.at(p.name()) == p.writer), e.segment, e.tie});
      continue;
    }
    Place& place = places[it->second];
    OFFRAMP_CHECK(place.first().shape == p.shape, "{} has shapes {} and {}", p.name(), to_text(place.first().shape), to_text(p.shape));
    place.parameters.push_back(e.parameter);
    place.segment = std::max(place.segment, e.segment);
  }
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return std::tuple(a.section, a.tie, a.section == Section::matrices ? a.segment : 0) <
           std::tuple(b.section, b.tie, b.section == Section::matrices ? b.segment : 0);
  });
  std::int64_t offset = 0;
  for (Place& p : places) offset = (p.offset = offset) + padded(p.first().shape.elements());
  return places;
}

// The end of the last place whose section is at most `last`.
std::int64_t end_of(const std::vector<Place>& places, Section last) {
  std::int64_t end = 0;
  for (const Place& p : places)
    if (p.section <= last) end = p.offset + padded(p.first().shape.elements());
  return end;
}

std::vector<Bucket> make_buckets(const std::vector<Place>& places) {
  int last_segment = 0;
  for (const Place& p : places) last_segment = std::max(last_segment, p.segment);
  std::vector<Bucket> buckets;
  for (const Place& p : places) {
    if (p.section > Section::tied) break;
    const Range range{p.offset, p.offset + padded(p.first().shape.elements())};
    const int segment = p.section == Section::matrices ? p.segment : p.section == Section::vectors ? last_segment : -1;
    const bool grows = !buckets.empty() && p.tie < 0 && buckets.back().tie < 0 && buckets.back().segment == segment;
    if (grows)
      buckets.back().range.end = range.end;
    else
      buckets.push_back({range, segment, p.tie});
  }
  return buckets;
}

std::vector<UpdateRange> make_updates(const std::vector<Place>& places) {
  std::vector<UpdateRange> updates;
  for (const Place& p : places) {
    if (p.section > Section::tied) break;
    const Range range{p.offset, p.offset + padded(p.first().shape.elements())};
    const bool grows = !updates.empty() && updates.back().decay == p.first().decayed() && updates.back().lr_scale == p.first().lr_scale;
    if (grows)
      updates.back().range.end = range.end;
    else
      updates.push_back({range, p.first().decayed(), p.first().lr_scale});
  }
  return updates;
}

Tensor slice(const Tensor& buffer, const Place& place) {
  const Shape shape = place.first().shape;
  return buffer.narrow(0, place.offset, shape.elements()).reshape(shape);
}

}  // namespace

std::vector<Bucket> plan_buckets(const std::vector<FlatEntry>& entries) { return make_buckets(make_places(entries)); }

Flat::Flat(Arena& arena, std::vector<FlatEntry> entries, std::span<const std::string> optimizer_state) {
  const std::vector<Place> places = make_places(entries);
  values_ = arena.tensor({end_of(places, Section::guests)}, DType::f32);
  gradients_ = arena.tensor({end_of(places, Section::writers)}, DType::f32);
  for (const auto& name : optimizer_state) state_[name] = arena.tensor({end_of(places, Section::tied)}, DType::f32);
  buckets_ = make_buckets(places);
  updates_ = make_updates(places);

  std::map<std::string, Tensor> value_of;  // guests and owners come before further writers
  std::map<int, TiedHere> tied;
  for (const Place& p : places) {
    const bool holds = p.section != Section::writers;
    const Tensor grad = slice(gradients_, p);
    if (holds) {
      value_of[p.first().name()] = slice(values_, p);
      holders_.push_back(p.parameters.front());
      if (p.section <= Section::tied) owned_.push_back(p.parameters.front());
    }
    for (Parameter* parameter : p.parameters) {
      parameter->value = value_of.at(p.first().name());
      parameter->grad = grad;
    }
    if (p.tie < 0) continue;
    if (holds)
      tied[p.tie] = {p.tie, p.section == Section::tied, p.first().value, grad, {}};
    else
      tied.at(p.tie).writers.push_back(grad);
  }
  for (auto& [tie, here] : tied) tied_.push_back(std::move(here));
}

Tensor Flat::state(const std::string& name, Range range) const {
  const auto it = state_.find(name);
  OFFRAMP_CHECK(it != state_.end(), "[flat] no optimizer state is called {}", name);
  return it->second.narrow(0, range.begin, range.count());
}

std::size_t Flat::state_bytes() const {
  std::size_t bytes = 0;
  for (const auto& [name, tensor] : state_) bytes += tensor.bytes();
  return bytes;
}

}  // namespace offramp
