#include "comm/in_process.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "comm/rank_order.h"

namespace offramp {
namespace {

struct Circle;
enum class Kind { message, all_reduce, reduce_scatter, all_gather, broadcast, split };

// One started operation of one rank.
struct Op {
  int world_rank = 0;
  Tensor tensor;                // a collective's input, and its output where there is no other
  std::byte* out = nullptr;     // of reduce_scatter and all_gather
  std::vector<std::byte> kept;  // a buffered send's message
  bool done = false;
  bool given_up = false;  // its Work went away: the tensor may be gone
  int color = 0, key = 0;
  std::shared_ptr<Circle> part;  // what a split gives
};
using OpPtr = std::shared_ptr<Op>;

// What all ranks of a run share. Everything below, circles and operations included, is guarded by its mutex.
class Hub {
 public:
  Hub(int size, Sends kind) : sends(kind), ranks_(static_cast<std::size_t>(size)) {}

  std::mutex mutex;
  const Sends sends;

  void complete(Op& op) {
    op.done = true;
    Rank& rank = at(op.world_rank);
    if (rank.waits_for == &op) rank.waits_for = nullptr;
    changed_.notify_all();
  }

  bool test(const Op& op) {
    std::lock_guard lock(mutex);
    if (!op.done && failed_) throw Error(Exit::communication, failure_);
    return op.done;
  }

  // Sleeps until the operation is done or the run failed.
  void wait(const Op& op, const std::string& what) {
    std::unique_lock lock(mutex);
    Rank& rank = at(op.world_rank);
    if (op.done || failed_) return;
    rank.waits_for = &op, rank.what = what;
    find_deadlock();
    changed_.wait(lock, [&] { return op.done || failed_; });
    rank.waits_for = nullptr;
  }

  // A rank's body returned or threw (then `error` is set).
  void leave(int world_rank, std::exception_ptr error, const std::string& text) {
    std::lock_guard lock(mutex);
    at(world_rank).left = true;
    if (error && !first_) first_ = error;
    if (error) fail(fmt::format("rank {} failed: {}", world_rank, text));
    find_deadlock();
  }

  std::exception_ptr first() const { return first_; }  // once all threads are joined

 private:
  struct Rank {
    const Op* waits_for = nullptr;
    std::string what;
    bool left = false;
  };
  Rank& at(int world_rank) { return ranks_[static_cast<std::size_t>(world_rank)]; }

  void fail(const std::string& text) {
    if (failed_) return;
    failed_ = true, failure_ = text;
    changed_.notify_all();
  }

  // An operation that completes clears waits_for at once, so a rank that was served but has not woken yet counts as running.
  void find_deadlock() {
    const auto stands = [](const Rank& r) { return r.left || r.waits_for; };
    const auto waits = [](const Rank& r) { return r.waits_for != nullptr; };
    if (failed_ || !std::all_of(ranks_.begin(), ranks_.end(), stands) || std::none_of(ranks_.begin(), ranks_.end(), waits)) return;
    std::string text = "deadlock";
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      text += fmt::format("; rank {}: {}", r, ranks_[r].left ? "has returned" : ranks_[r].what);
    fail(text);
  }

  std::condition_variable changed_;
  std::vector<Rank> ranks_;
  bool failed_ = false;
  std::string failure_;
  std::exception_ptr first_;
};

// A collective that some ranks of a circle have entered.
struct Meeting {
  Kind kind = Kind::message;
  int root = 0, arrived = 0;
  std::vector<OpPtr> ops;  // by rank
};

// Messages of one (from, to, tag) that have no counterpart yet: at most one of the two is not empty.
struct Channel {
  std::deque<OpPtr> sends, receives;
};

// What the ranks of one group share.
struct Circle {
  explicit Circle(std::vector<int> ranks) : world_ranks(std::move(ranks)), entered(world_ranks.size()) {}
  std::vector<int> world_ranks;
  std::vector<std::uint64_t> entered;         // by rank: how many collectives it has started
  std::map<std::uint64_t, Meeting> meetings;  // by their number
  std::map<std::tuple<int, int, int>, Channel> channels;
};

class LocalState : public Work::State {
 public:
  LocalState(std::shared_ptr<Hub> hub, OpPtr op, std::string text) : hub_(std::move(hub)), op_(std::move(op)) { what = std::move(text); }
  ~LocalState() override {
    std::lock_guard lock(hub_->mutex);
    op_->given_up = !op_->done;
  }
  bool test() override { return hub_->test(*op_); }
  void pause(double) override { hub_->wait(*op_, what); }

 private:
  std::shared_ptr<Hub> hub_;
  OpPtr op_;
};

// Of all ranks' tensors.
std::vector<std::byte> sum(const std::vector<OpPtr>& ops) {
  const Tensor& first = ops[0]->tensor;
  std::vector<std::byte> total(first.bytes());
  std::vector<const std::byte*> of;
  for (const auto& op : ops) of.push_back(op->tensor.data);
  add_in_rank_order(total.data(), of, first.elements(), first.dtype);
  return total;
}

void sum_to_all(const std::vector<OpPtr>& ops) {
  const auto total = sum(ops);
  for (const auto& op : ops) std::memcpy(op->tensor.data, total.data(), total.size());
}

void sum_to_parts(const std::vector<OpPtr>& ops) {
  const auto total = sum(ops);
  const std::size_t part = total.size() / ops.size();
  for (std::size_t r = 0; r < ops.size(); ++r) std::memcpy(ops[r]->out, total.data() + r * part, part);
}

void gather_parts(const std::vector<OpPtr>& ops) {
  const std::size_t part = ops[0]->tensor.bytes();
  for (const auto& op : ops)
    for (std::size_t r = 0; r < ops.size(); ++r)
      if (std::byte* to = op->out + r * part; to != ops[r]->tensor.data) std::memcpy(to, ops[r]->tensor.data, part);
}

void copy_from_root(const Meeting& meeting) {
  const Tensor& source = meeting.ops[static_cast<std::size_t>(meeting.root)]->tensor;
  for (const auto& op : meeting.ops)
    if (op->tensor.data != source.data) std::memcpy(op->tensor.data, source.data, source.bytes());
}

// One circle a colour, its ranks ordered by key, then by their rank here.
void form_circles(const Meeting& meeting) {
  std::map<int, std::vector<std::pair<int, int>>> colors;  // color -> (key, rank)
  for (std::size_t r = 0; r < meeting.ops.size(); ++r) colors[meeting.ops[r]->color].emplace_back(meeting.ops[r]->key, static_cast<int>(r));
  for (auto& [color, members] : colors) {
    std::sort(members.begin(), members.end());
    std::vector<int> ranks;
    for (const auto& [key, rank] : members) ranks.push_back(meeting.ops[static_cast<std::size_t>(rank)]->world_rank);
    const auto circle = std::make_shared<Circle>(ranks);
    for (const auto& [key, rank] : members) meeting.ops[static_cast<std::size_t>(rank)]->part = circle;
  }
}

class LocalGroup : public GroupImpl {
 public:
  LocalGroup(std::shared_ptr<Hub> hub, std::shared_ptr<Circle> circle, int world_rank, Wire kind)
      : hub_(std::move(hub)), circle_(std::move(circle)) {
    world_ranks = circle_->world_ranks;
    rank = static_cast<int>(std::find(world_ranks.begin(), world_ranks.end(), world_rank) - world_ranks.begin());
    size = static_cast<int>(world_ranks.size()), wire = kind;
  }

  Work all_reduce(Tensor inout) override {
    return enter(Kind::all_reduce, 0, op_of(inout), fmt::format("all_reduce of {} bytes over {}", inout.bytes(), group_text()));
  }

  Work reduce_scatter(Tensor out, Tensor in) override {
    auto what = fmt::format("reduce_scatter of {} bytes over {}", in.bytes(), group_text());
    return enter(Kind::reduce_scatter, 0, op_of(in, out.data), std::move(what));
  }

  Work all_gather(Tensor out, Tensor in) override {
    auto what = fmt::format("all_gather of {} bytes over {}", out.bytes(), group_text());
    return enter(Kind::all_gather, 0, op_of(in, out.data), std::move(what));
  }

  Work broadcast(Tensor inout, int root) override {
    auto what = fmt::format("broadcast of {} bytes from {} over {}", inout.bytes(), peer_text(root), group_text());
    return enter(Kind::broadcast, root, op_of(inout), std::move(what));
  }

  Work send(Tensor tensor, int to, int tag) override {
    auto op = op_of(tensor);
    std::lock_guard lock(hub_->mutex);
    Channel& channel = circle_->channels[{rank, to, tag}];
    if (OpPtr receive = next(channel.receives)) {
      deliver(*op, *receive);
    } else {
      channel.sends.push_back(op);
      if (hub_->sends == Sends::buffered) keep(*op);
    }
    return work_of(op, fmt::format("send of {} bytes to {}, tag {}", tensor.bytes(), peer_text(to), tag));
  }

  Work receive(Tensor tensor, int from, int tag) override {
    auto op = op_of(tensor);
    std::lock_guard lock(hub_->mutex);
    Channel& channel = circle_->channels[{from, rank, tag}];
    if (OpPtr send = next(channel.sends))
      deliver(*send, *op);
    else
      channel.receives.push_back(op);
    return work_of(op, fmt::format("receive of {} bytes from {}, tag {}", tensor.bytes(), peer_text(from), tag));
  }

  std::shared_ptr<GroupImpl> split(int color, int key, Wire kind) override {
    auto op = op_of({});
    op->color = color, op->key = key;
    Context nobody;
    enter(Kind::split, 0, op, fmt::format("split of the {}", group_text())).wait(nobody);
    std::lock_guard lock(hub_->mutex);
    return std::make_shared<LocalGroup>(hub_, std::move(op->part), op->world_rank, kind);
  }

  void progress() override {}

 private:
  OpPtr op_of(Tensor tensor, std::byte* out = nullptr) const {
    auto op = std::make_shared<Op>();
    op->world_rank = world_ranks[static_cast<std::size_t>(rank)], op->tensor = tensor, op->out = out;
    return op;
  }

  Work work_of(OpPtr op, std::string what) { return Work(std::make_unique<LocalState>(hub_, std::move(op), std::move(what))); }

  static OpPtr next(std::deque<OpPtr>& queue) {
    while (!queue.empty()) {
      OpPtr op = std::move(queue.front());
      queue.pop_front();
      if (!op->given_up) return op;
    }
    return nullptr;
  }

  void keep(Op& send) {
    send.kept.assign(send.tensor.data, send.tensor.data + send.tensor.bytes());
    hub_->complete(send);
  }

  void deliver(Op& send, Op& receive) {
    OFFRAMP_CHECK(send.tensor.bytes() == receive.tensor.bytes(), "[receive] rank {} sent {} bytes, rank {} receives {}", send.world_rank,
                  send.tensor.bytes(), receive.world_rank, receive.tensor.bytes());
    if (send.tensor.bytes() > 0) std::memcpy(receive.tensor.data, send.done ? send.kept.data() : send.tensor.data, send.tensor.bytes());
    hub_->complete(send);
    hub_->complete(receive);
  }

  // The nth collective of a group is the same one on each of its ranks; the last to enter does the work.
  Work enter(Kind kind, int root, OpPtr op, std::string what) {
    std::lock_guard lock(hub_->mutex);
    const auto number = circle_->entered[static_cast<std::size_t>(rank)]++;
    Meeting& meeting = circle_->meetings[number];
    if (meeting.arrived == 0) meeting.kind = kind, meeting.root = root, meeting.ops.resize(world_ranks.size());
    OFFRAMP_CHECK(meeting.kind == kind && meeting.root == root, "[comm] rank {} started {}, which the other ranks did not", rank, what);
    meeting.ops[static_cast<std::size_t>(rank)] = op;
    if (++meeting.arrived == size) {
      finish(meeting);
      circle_->meetings.erase(number);
    }
    return work_of(std::move(op), std::move(what));
  }

  void finish(const Meeting& meeting) {
    const Tensor& first = meeting.ops[0]->tensor;
    for (const auto& op : meeting.ops) {
      OFFRAMP_CHECK(!op->given_up, "[comm] rank {} gave up a collective that the other ranks started", op->world_rank);
      OFFRAMP_CHECK(op->tensor.dtype == first.dtype && op->tensor.bytes() == first.bytes(),
                    "[comm] a collective of {} bytes on rank {} and {} bytes on rank {}", first.bytes(), meeting.ops[0]->world_rank,
                    op->tensor.bytes(), op->world_rank);
    }
    act(meeting);
    for (const auto& op : meeting.ops) hub_->complete(*op);
  }

  static void act(const Meeting& meeting) {
    switch (meeting.kind) {
      case Kind::all_reduce:
        return sum_to_all(meeting.ops);
      case Kind::reduce_scatter:
        return sum_to_parts(meeting.ops);
      case Kind::all_gather:
        return gather_parts(meeting.ops);
      case Kind::broadcast:
        return copy_from_root(meeting);
      case Kind::split:
        return form_circles(meeting);
      case Kind::message:
        break;
    }
  }

  std::shared_ptr<Hub> hub_;
  std::shared_ptr<Circle> circle_;
};

void run_rank(const std::shared_ptr<Hub>& hub, const std::shared_ptr<Circle>& all, int rank, const std::function<void(Group)>& body) {
  try {
    body(Group(std::make_shared<LocalGroup>(hub, all, rank, Wire::control)));
    hub->leave(rank, nullptr, "");
  } catch (const std::exception& error) {
    hub->leave(rank, std::current_exception(), error.what());
  } catch (...) {
    hub->leave(rank, std::current_exception(), "an unknown exception");
  }
}

}  // namespace

void run_in_process(int size, const std::function<void(Group world)>& body, Sends sends) {
  OFFRAMP_CHECK(size >= 1, "[in_process] {} ranks", size);
  const auto hub = std::make_shared<Hub>(size, sends);
  std::vector<int> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(r);
  const auto all = std::make_shared<Circle>(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) threads.emplace_back([&, r] { run_rank(hub, all, r, body); });
  for (auto& thread : threads) thread.join();
  if (hub->first()) std::rethrow_exception(hub->first());
}

}  // namespace offramp
