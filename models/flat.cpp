#include "models/flat.h"

#include <algorithm>
#include <tuple>

namespace offramp {
namespace {

constexpr std::int64_t kGranule = 16;  // elements: 64 bytes of fp32
std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

enum class Section { matrices, replicated, vectors, tied, guests, writers, frozen };

// Parameters that share one accumulator, and with it one place in the buffers.
struct Place {
  std::vector<Parameter*> parameters;
  Section section = Section::matrices;
  int segment = 0, tie = -1;
  std::vector<TiedPart> parts{};
  std::int64_t within = -1;
  int stage = 0;
  Range range{};  // padded
  Parameter& first() const { return *parameters.front(); }
  std::int64_t elements() const { return first().shape.elements(); }
};

Section section_of(const FlatEntry& entry, bool first_writer) {
  if (entry.parameter->frozen) return Section::frozen;
  if (!first_writer) return Section::writers;
  if (!entry.owner) return Section::guests;
  if (entry.tie >= 0) return Section::tied;
  if (entry.parameter->replicated) return Section::replicated;
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

// Who has the value: of the lowest stage the lowest writer kind.
std::map<std::string, std::pair<int, Writer>> first_writers(const std::vector<FlatEntry>& entries) {
  std::map<std::string, std::pair<int, Writer>> first;
  for (const auto& e : entries) {
    if (e.within >= 0 || e.parameter->frozen) continue;
    const std::pair site{e.stage, e.parameter->writer};
    auto [it, fresh] = first.try_emplace(e.parameter->name(), site);
    if (!fresh) it->second = std::min(it->second, site);
  }
  return first;
}

// What entries must have in common to share a place. A part of a frozen matrix is apart from the whole.
std::tuple<std::string, int, Writer, std::int64_t> site_of(const FlatEntry& entry) {
  const Parameter& p = *entry.parameter;
  if (p.frozen) return {p.name(), 0, Writer::head, p.shape.elements()};
  return {p.name(), entry.stage, p.writer, 0};
}

// One place per (name, stage, writer kind), in the order of first appearance.
std::vector<Place> gather_places(const std::vector<FlatEntry>& entries) {
  const auto first_writer = first_writers(entries);
  std::vector<Place> places;
  std::map<decltype(site_of(entries.front())), std::size_t> known;
  for (const auto& e : entries) {
    const Parameter& p = *e.parameter;
    check_size(p);
    auto [it, fresh] = known.try_emplace(site_of(e), places.size());
    if (fresh) {
      const bool first = !p.frozen && e.within < 0 && first_writer.at(p.name()) == std::pair{e.stage, p.writer};
      places.push_back({{e.parameter}, section_of(e, first), e.segment, e.tie, e.parts, e.within, e.stage});
      continue;
    }
    Place& place = places[it->second];
    OFFRAMP_CHECK(place.first().shape == p.shape, "{} has shapes {} and {}", p.name(), to_text(place.first().shape), to_text(p.shape));
    place.parameters.push_back(e.parameter);
    place.segment = std::max(place.segment, e.segment);
  }
  return places;
}

struct Plan {
  std::vector<Place> places;
  std::vector<Bucket> buckets;
  std::int64_t end_of(Section last) const {
    std::int64_t end = 0;
    for (const Place& p : places)
      if (p.section <= last) end = p.range.end;
    return last == Section::tied && !buckets.empty() ? buckets.back().range.end : end;
  }
  std::int64_t values_end() const {
    const bool frozen = !places.empty() && places.back().section == Section::frozen;
    return std::max(end_of(Section::tied), end_of(frozen ? Section::frozen : Section::guests));
  }
};

// Stage by stage, so that a stage's buckets are the same whatever else its rank has.
std::tuple<bool, int, Section, int, int> order_of(const Place& p) {
  if (p.section <= Section::vectors) return {false, -p.stage, p.section, -1, p.section == Section::matrices ? p.segment : 0};
  return {true, 0, p.section, p.tie, -p.stage};
}

// A bucket is padded so that it divides into `shards` parts on whole cache lines.
Plan make_plan(const std::vector<FlatEntry>& entries, int shards) {
  Plan plan{gather_places(entries), {}};
  std::stable_sort(plan.places.begin(), plan.places.end(), [](const Place& a, const Place& b) { return order_of(a) < order_of(b); });
  std::map<int, int> last_segment;  // by stage
  for (const Place& p : plan.places) last_segment[p.stage] = std::max(last_segment[p.stage], p.segment);
  std::int64_t end = 0;
  for (Place& p : plan.places) {
    const bool owned = p.section <= Section::tied;
    const int segment = p.tie >= 0 ? -1 : p.section == Section::matrices ? p.segment : last_segment.at(p.stage);
    const Bucket fresh{{}, segment, p.tie, p.first().replicated, p.stage};
    const auto alike = [](const Bucket& b) { return std::tuple(b.stage, b.segment, b.replicated); };
    const bool opens = owned && (plan.buckets.empty() || p.tie >= 0 || alike(plan.buckets.back()) != alike(fresh));
    if (opens && !plan.buckets.empty()) end = plan.buckets.back().range.end;
    if (opens) plan.buckets.push_back(fresh), plan.buckets.back().range = {end, end};
    if (!owned && !plan.buckets.empty()) end = std::max(end, plan.buckets.back().range.end);
    p.range = {end, end + round_up(p.elements(), kGranule)};
    end = p.range.end;
    if (!owned) continue;
    Range& bucket = plan.buckets.back().range;
    bucket.end = bucket.begin + round_up(end - bucket.begin, kGranule * shards);
  }
  return plan;
}

// Owned places in a row that are updated alike, with the padding behind them.
std::vector<Update> update_ranges(const std::vector<Place>& places) {
  std::vector<Update> updates;
  for (const Place& p : places) {
    if (p.section > Section::tied) break;
    const Update next{p.range, p.first().decayed(), p.first().lr_scale, p.first().clip_group};
    const auto kind = [](const Update& u) { return std::tuple(u.decay, u.lr_scale, u.clip_group); };
    if (!updates.empty() && kind(updates.back()) == kind(next))
      updates.back().range.end = p.range.end;
    else
      updates.push_back(next);
  }
  return updates;
}

std::vector<Update> kept_updates(const std::vector<Place>& places, std::span<const Range> kept) {
  std::vector<Update> updates;
  for (const Range& k : kept)
    for (Update u : update_ranges(places)) {
      u.range = u.range & k;
      if (u.range.count() > 0) updates.push_back(u);
    }
  return updates;
}

Tensor slice(const Tensor& buffer, const Place& place) {
  return buffer.narrow(0, place.range.begin, place.elements()).reshape(place.first().shape);
}

Tensor elements_of(const Tensor& tensor, Range range) { return tensor.reshape({tensor.elements()}).narrow(0, range.begin, range.count()); }

}  // namespace

std::vector<Bucket> plan_buckets(const std::vector<FlatEntry>& entries) { return make_plan(entries, 1).buckets; }

Flat::Flat(Arena& arena, const std::vector<FlatEntry>& entries, const FlatOptions& options) : options_(options) {
  const Plan plan = make_plan(entries, options.data_size);
  buckets_ = plan.buckets;
  const std::int64_t owned_end = plan.end_of(Section::tied);
  if (options.shard_state)
    for (const Bucket& bucket : buckets_) kept_.push_back(shard(bucket));
  else if (owned_end > 0)
    kept_.push_back({0, owned_end});
  updates_ = kept_updates(plan.places, kept_);
  values_ = arena.tensor({plan.values_end()}, options.values);
  gradients_ = arena.tensor({std::max(owned_end, plan.end_of(Section::writers))}, DType::f32);
  std::int64_t state_elements = 0;
  for (const Range& kept : kept_) state_elements += kept.count();
  if (options.values != DType::f32) masters_ = arena.tensor({state_elements}, DType::f32);
  for (const auto& name : options.optimizer_state) state_[name] = arena.tensor({state_elements}, DType::f32);

  std::map<std::string, Tensor> value_of;        // guests and owners come before further writers
  std::map<std::pair<int, int>, TiedHere> tied;  // by tie, then from the highest stage
  for (const Place& p : plan.places) {
    const bool frozen = p.section == Section::frozen, holds = p.section != Section::writers;
    const Tensor grad = frozen ? Tensor{} : slice(gradients_, p);
    if (holds) {
      value_of[p.first().name()] = slice(values_, p);
      holders_.push_back(p.parameters.front());
      if (p.section <= Section::tied) owned_.push_back(p.parameters.front());
      if (frozen) frozen_.push_back(p.parameters.front());
    }
    for (Parameter* parameter : p.parameters) {
      const Tensor& value = value_of.at(p.first().name());
      parameter->value = p.within < 0 ? value : elements_of(value, {p.within, p.within + p.elements()}).reshape(p.first().shape);
      parameter->grad = grad;
      if (holds) places_[parameter] = {p.range.begin, p.range.begin + p.elements()};
    }
    if (p.tie < 0) continue;
    for (const TiedPart& part : p.parts)
      tied[{part.tie, -p.stage}] = {
          part.tie, p.stage, true, true, elements_of(p.first().value, part.elements), elements_of(grad, part.elements), {}};
    if (!p.parts.empty()) continue;
    const auto [it, fresh] = tied.try_emplace({p.tie, -p.stage});
    if (fresh)
      it->second = {p.tie, p.stage, p.section == Section::tied, holds, p.first().value, grad, {}};
    else
      it->second.writers.push_back(grad);
  }
  for (auto& [tie, here] : tied) tied_.push_back(std::move(here));
}

std::size_t Flat::bucket_of(int stage, int index) const {
  for (std::size_t b = 0; b < buckets_.size(); ++b)
    if (buckets_[b].stage == stage && index-- == 0) return b;
  broken("a bucket of this rank", fmt::format("[flat] stage {} has no such bucket", stage));
}

const TiedHere& Flat::tied_at(int tie, int stage) const {
  const auto it = std::ranges::find_if(tied_, [&](const TiedHere& here) { return here.tie == tie && here.stage == stage; });
  OFFRAMP_CHECK(it != tied_.end(), "[flat] stage {} does not hold tie {}", stage, tie);
  return *it;
}

Range Flat::shard(const Bucket& bucket, int data_rank) const {
  const std::int64_t part = bucket.range.count() / options_.data_size, begin = bucket.range.begin + data_rank * part;
  return {begin, begin + part};
}

Range Flat::place(const Parameter& parameter) const {
  const auto it = places_.find(&parameter);
  OFFRAMP_CHECK(it != places_.end(), "[flat] {} has no place of its own", parameter.name());
  return it->second;
}

Tensor Flat::master(Range range) const { return masters_.defined() ? of_state(masters_, range) : Tensor{}; }

Tensor Flat::exact(Range range) const { return masters_.defined() ? of_state(masters_, range) : values(range); }

Tensor Flat::state(const std::string& name, Range range) const {
  const auto it = state_.find(name);
  OFFRAMP_CHECK(it != state_.end(), "[flat] no optimizer state is called {}", name);
  return of_state(it->second, range);
}

Tensor Flat::of_state(const Tensor& buffer, Range range) const {
  std::int64_t at = 0;
  for (const Range& kept : kept_) {
    if (kept.begin <= range.begin && range.end <= kept.end) return buffer.narrow(0, at + range.begin - kept.begin, range.count());
    at += kept.count();
  }
  broken("a range within kept()", fmt::format("[flat] elements {} to {} are kept elsewhere", range.begin, range.end));
}

void Flat::initialize(Context& ctx, std::uint64_t seed, const NameOf& origin) {
  std::vector<float> of_frozen;
  for (Parameter* parameter : holders_) {
    const Range range = place(*parameter);
    if (parameter->frozen) of_frozen.resize(static_cast<std::size_t>(range.count()));
    const Tensor exact = options_.values == DType::f32 ? values(range)
                         : parameter->frozen           ? Tensor(of_frozen.data(), {range.count()}, DType::f32)
                                                       : gradients(range);
    offramp::initialize(*parameter, exact, seed, origin);
    if (options_.values != DType::f32) copy(ctx, values(range), exact);
    ctx.beat();
  }
  if (masters_.defined())
    for (const Range& kept : kept_) copy(ctx, master(kept), gradients(kept));
}

std::size_t Flat::state_bytes() const {
  std::size_t bytes = masters_.bytes();
  for (const auto& [name, tensor] : state_) bytes += tensor.bytes();
  return bytes;
}

}  // namespace offramp
