#include "comm/group.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <exception>

#include "comm/host.h"

namespace offramp {

const char* name_of(Wire wire) {
  switch (wire) {
    case Wire::tensor:
      return "tensor";
    case Wire::pipeline:
      return "pipeline";
    case Wire::data:
      return "data";
    case Wire::control:
      return "control";
  }
  return "?";
}

std::string GroupImpl::peer_text(int peer) const {
  if (world_ranks.empty() || wire == Wire::control) return fmt::format("{}rank {}", wire == Wire::control ? "" : "peer ", peer);
  return fmt::format("{} rank {} (rank {})", name_of(wire), peer, world_ranks[static_cast<std::size_t>(peer)]);
}

std::string GroupImpl::group_text() const {
  constexpr std::size_t kListed = 8;  // more would drown the line
  if (world_ranks.empty() || world_ranks.size() > kListed) return fmt::format("{} group of {}", name_of(wire), size);
  std::string ranks;
  for (const int r : world_ranks) ranks += fmt::format(" {}", r);
  return fmt::format("{} group of {} (ranks{})", name_of(wire), size, ranks);
}

// ---- Work

// Several ranks may share a core: whoever waits gives it to those who compute. Short waits stay short because a yield costs
// less than a microsecond; in a long one napping costs the others no processor time at all.
void Work::State::pause(double still_s) {
  constexpr double kYieldFor = 1e-3;
  constexpr long kNapNs = 50'000;
  if (still_s < kYieldFor) {
    sched_yield();
    return;
  }
  const timespec nap{0, kNapNs};
  nanosleep(&nap, nullptr);
}

bool Work::done() {
  if (state_ && state_->test()) state_.reset();
  return !state_;
}

void Work::wait(Context& ctx) {
  if (done()) return;
  if (ctx.activity) ctx.activity->wait_for(state_->what);
  auto since = std::chrono::steady_clock::now();  // when something moved last
  for (std::uint64_t moved = state_->moved(); !done();) {
    const auto now = std::chrono::steady_clock::now();
    if (const std::uint64_t latest = state_->moved(); latest != moved) moved = latest, since = now;
    state_->pause(std::chrono::duration<double>(now - since).count());
  }
  if (ctx.activity) ctx.activity->wait_for("");
}

void Work::finish() noexcept {
  if (state_ && std::uncaught_exceptions() == 0) try {
      Context nobody;
      wait(nobody);
    } catch (...) {  // a failed transport fails the next operation as well, which can say so
    }
  state_.reset();
}

Work& Work::operator=(Work&& other) noexcept {
  if (this == &other) return *this;
  finish();
  state_ = std::move(other.state_);
  return *this;
}

Work::~Work() { finish(); }

// ---- Group

namespace {

// Counts nothing itself: operations return before they reach a transport when the context plans.
class PlannedGroup : public GroupImpl {
 public:
  PlannedGroup(int own_rank, int group_size, Wire kind) { rank = own_rank, size = group_size, wire = kind; }
  Work all_reduce(Tensor) override { refuse("all_reduce"); }
  Work reduce_scatter(Tensor, Tensor) override { refuse("reduce_scatter"); }
  Work all_gather(Tensor, Tensor) override { refuse("all_gather"); }
  Work broadcast(Tensor, int) override { refuse("broadcast"); }
  Work send(Tensor, int, int) override { refuse("send"); }
  Work receive(Tensor, int, int) override { refuse("receive"); }
  std::shared_ptr<GroupImpl> split(int, int, Wire) override { refuse("split"); }
  void progress() override {}

 private:
  [[noreturn]] void refuse(const char* operation) const {
    broken("planning", fmt::format("[{}] the {} is planned: it has no peers and needs a context with a meter", operation, group_text()));
  }
};

void check_tensor(const char* operation, const Tensor& tensor) {
  OFFRAMP_CHECK(tensor.defined(), "[{}] the tensor is undefined", operation);
  OFFRAMP_CHECK(tensor.contiguous(), "[{}] a tensor of shape {} is not contiguous", operation, to_text(tensor.shape));
}

void check_sum(const char* operation, DType dtype) {
  OFFRAMP_CHECK(dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16, "[{}] of {}, not f32, f64 or bf16", operation,
                name_of(dtype));
}

void check_parts(const char* operation, const Tensor& part, const Tensor& whole, const Group& group) {
  check_tensor(operation, part);
  check_tensor(operation, whole);
  OFFRAMP_CHECK(part.dtype == whole.dtype, "[{}] a part of {} and a whole of {}", operation, name_of(part.dtype), name_of(whole.dtype));
  OFFRAMP_CHECK(part.elements() * group.size() == whole.elements(), "[{}] {} parts of {} elements are not {} elements", operation,
                group.size(), part.elements(), whole.elements());
}

void copy_alone(Context& ctx, Tensor out, Tensor in) {
  if (!ctx.planning() && out.data != in.data && in.elements() > 0) std::memcpy(out.data, in.data, in.bytes());
}

void check_peer(const char* operation, const Group& group, int peer) {
  OFFRAMP_CHECK(peer >= 0 && peer < group.size(), "[{}] peer {} of a group of {}", operation, peer, group.size());
}

void check_message(const char* operation, const Tensor& tensor, const Group& group, int peer, int tag) {
  check_tensor(operation, tensor);
  check_peer(operation, group, peer);
  OFFRAMP_CHECK(peer != group.rank(), "[{}] rank {} is itself the peer", operation, peer);
  OFFRAMP_CHECK(tag >= 0, "[{}] tag {} is negative", operation, tag);
}

// What a ring sends in a reduce-scatter or an all-gather: each rank its share to every other one.
double ring_bytes(const Tensor& whole, const Group& group) {
  return static_cast<double>(whole.bytes()) * (group.size() - 1) / group.size();
}

// What is planned and what really goes are counted alike.
void count(Context& ctx, const char* operation, const Group& group, double bytes) {
  const char* wire = name_of(group.impl()->wire);
  if (ctx.meter) ctx.meter->count_sent({.name = operation, .cost = {}, .ranks = group.size(), .wire = wire, .sent = bytes});
  if (ctx.profile) ctx.profile->sent_bytes[wire] += bytes;
}

}  // namespace

Group Group::planned(int rank, int size, Wire wire) {
  OFFRAMP_CHECK(size >= 1 && rank >= 0 && rank < size, "[planned] rank {} of {}", rank, size);
  return size == 1 ? Group() : Group(std::make_shared<PlannedGroup>(rank, size, wire));
}

Group Group::split(int color, int key, Wire wire) const {
  if (size() == 1) return {};
  auto part = impl_->split(color, key, wire);
  return part->size == 1 ? Group() : Group(std::move(part));
}

void Group::progress() const {
  if (impl_) impl_->progress();
}

Work all_reduce(Context& ctx, Tensor inout, const Group& group) {
  check_tensor("all_reduce", inout);
  check_sum("all_reduce", inout.dtype);
  if (group.size() == 1 || inout.elements() == 0) return {};
  count(ctx, "all_reduce", group, 2 * ring_bytes(inout, group));
  return ctx.planning() ? Work() : group.impl()->all_reduce(inout);
}

Work reduce_scatter(Context& ctx, Tensor out, Tensor in, const Group& group) {
  check_parts("reduce_scatter", out, in, group);
  check_sum("reduce_scatter", in.dtype);
  if (group.size() == 1) copy_alone(ctx, out, in);
  if (group.size() == 1 || in.elements() == 0) return {};
  count(ctx, "reduce_scatter", group, ring_bytes(in, group));
  return ctx.planning() ? Work() : group.impl()->reduce_scatter(out, in);
}

Work all_gather(Context& ctx, Tensor out, Tensor in, const Group& group) {
  check_parts("all_gather", in, out, group);
  if (group.size() == 1) copy_alone(ctx, out, in);
  if (group.size() == 1 || out.elements() == 0) return {};
  count(ctx, "all_gather", group, ring_bytes(out, group));
  return ctx.planning() ? Work() : group.impl()->all_gather(out, in);
}

Work broadcast(Context& ctx, Tensor inout, const Group& group, int root) {
  check_tensor("broadcast", inout);
  check_peer("broadcast", group, root);
  if (group.size() == 1 || inout.elements() == 0) return {};
  count(ctx, "broadcast", group, static_cast<double>(inout.bytes()));
  return ctx.planning() ? Work() : group.impl()->broadcast(inout, root);
}

Work send(Context& ctx, Tensor tensor, const Group& group, int to, int tag) {
  check_message("send", tensor, group, to, tag);
  count(ctx, "send", group, static_cast<double>(tensor.bytes()));
  return ctx.planning() ? Work() : group.impl()->send(tensor, to, tag);
}

Work receive(Context& ctx, Tensor tensor, const Group& group, int from, int tag) {
  check_message("receive", tensor, group, from, tag);
  return ctx.planning() ? Work() : group.impl()->receive(tensor, from, tag);
}

// ---- agree

namespace {

constexpr std::size_t kTextBytes = 4096;  // of an error that travel

// At most kTextBytes, never half a UTF-8 character.
std::string shortened(const std::string& text) {
  if (text.size() <= kTextBytes) return text;
  std::size_t end = kTextBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

std::string text_of(Context& ctx, const Group& world, int guilty, const std::string& mine) {
  std::array<std::int32_t, 1 + kTextBytes / sizeof(std::int32_t)> message{};  // its length, then the text
  if (world.rank() == guilty) {
    const std::string text = shortened(mine);
    message[0] = static_cast<std::int32_t>(text.size());
    std::memcpy(message.data() + 1, text.data(), text.size());
  }
  broadcast(ctx, Tensor(message.data(), {static_cast<std::int64_t>(message.size())}, DType::i32), world, guilty).wait(ctx);
  if (world.rank() == guilty) return mine;  // all of it: where rank 0 is the guilty one, the user reads the whole list
  return {reinterpret_cast<const char*>(message.data() + 1), static_cast<std::size_t>(message[0])};
}

}  // namespace

void agree(Context& ctx, const Group& world, const std::optional<Error>& mine) {
  if (world.size() == 1 || ctx.planning()) {
    if (mine) throw AgreedError(mine->code, error_line(world.rank(), mine->code, mine->what()));
    return;
  }
  std::vector<double> codes(static_cast<std::size_t>(world.size()));  // each rank's exit code, 0: none
  if (mine) codes[static_cast<std::size_t>(world.rank())] = static_cast<int>(mine->code);
  all_reduce(ctx, Tensor(codes.data(), {world.size()}, DType::f64), world).wait(ctx);
  const auto guilty = std::find_if(codes.begin(), codes.end(), [](double code) { return code != 0; });
  if (guilty == codes.end()) return;
  const std::string own = mine ? error_line(world.rank(), mine->code, mine->what()) : "";
  const auto text = text_of(ctx, world, static_cast<int>(guilty - codes.begin()), own);
  throw AgreedError(static_cast<Exit>(static_cast<int>(*guilty)), text);
}

}  // namespace offramp
