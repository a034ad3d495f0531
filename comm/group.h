// Group: some ranks that talk to each other; a small value. A group of one returns at once, so a serial job is no special
// case. Operations take tensors, never counts, start at once, and return a Work to wait for; between start and wait the
// tensors must not be touched. They read and write slabs and flat buffers only, never scratch (unless waited for in the scope).
//
//   Work work = all_reduce(ctx, gradients, mesh.data);   ... more compute ...   work.wait(ctx);
//
// Transports: one rank; MPI (comm/mpi.h); threads of one process (comm/in_process.h); and *planned*, which has any rank and
// size, counts bytes into the context's meter and moves nothing.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tensor/check.h"
#include "tensor/context.h"

namespace offramp {

enum class Wire : std::uint8_t { tensor, pipeline, data, control };  // what bytes are counted under
const char* name_of(Wire wire);

class [[nodiscard]] Work {
 public:
  // What a transport implements. `test` makes progress; true once done (and from then on).
  struct State {
    virtual ~State() = default;
    virtual bool test() = 0;
    // Changes whenever something has moved: a wait for what moves does not nap.
    virtual std::uint64_t moved() const { return 0; }
    // Between two tests of a wait, `still_s` seconds after anything moved: lets other threads and processes run.
    virtual void pause(double still_s);
    std::string what;  // "receive of 1048576 bytes from pipeline rank 0 (rank 2)"
  };
  Work() = default;  // done: a group of one, plan mode
  explicit Work(std::unique_ptr<State> state) : state_(std::move(state)) {}
  Work(Work&&) noexcept = default;
  Work& operator=(Work&&) noexcept;
  // A Work that nobody waited for is waited for here, so its tensors are never touched after their scope. Only while an
  // exception unwinds it is given up instead: the peer may never come, and the job is about to end.
  ~Work();

  // Polls until done, yielding the processor; meanwhile ctx.activity tells what is waited for. The deadline is the watchdog's.
  // Throws Error(Exit::communication) when the transport failed.
  void wait(Context& ctx);
  bool done();

 private:
  void finish() noexcept;
  std::unique_ptr<State> state_;
};

// What a transport implements (internal to comm/).
class GroupImpl {
 public:
  virtual ~GroupImpl() = default;
  virtual Work all_reduce(Tensor inout) = 0;
  virtual Work reduce_scatter(Tensor out, Tensor in) = 0;
  virtual Work all_gather(Tensor out, Tensor in) = 0;
  virtual Work broadcast(Tensor inout, int root) = 0;
  virtual Work send(Tensor tensor, int to, int tag) = 0;
  virtual Work receive(Tensor tensor, int from, int tag) = 0;
  virtual std::shared_ptr<GroupImpl> split(int color, int key, Wire wire) = 0;  // collective over the group
  virtual void progress() = 0;
  int rank = 0, size = 1;
  Wire wire = Wire::control;
  std::vector<int> world_ranks;  // of the ranks 0..size-1 of this group; empty: unknown

  // For messages: "pipeline rank 0 (rank 2)", "tensor group of 2 (ranks 2 3)".
  std::string peer_text(int peer) const;
  std::string group_text() const;
};

class Group {
 public:
  Group() = default;  // a group of one
  explicit Group(std::shared_ptr<GroupImpl> impl) : impl_(std::move(impl)) {}
  static Group planned(int rank, int size, Wire wire);

  int rank() const { return impl_ ? impl_->rank : 0; }
  int size() const { return impl_ ? impl_->size : 1; }
  // Ranks of equal colour form a group, ordered by key, then by rank. Collective over this group. Where one rank is alone with
  // its colour it gets a plain group of one.
  Group split(int color, int key, Wire wire) const;
  // Lets outstanding messages move.
  void progress() const;
  GroupImpl* impl() const { return impl_.get(); }

 private:
  std::shared_ptr<GroupImpl> impl_;
};

// The streams of messages. Those of one (pair, direction, tag) keep their order, and both ends of each stream start its messages
// in the same order, so one tag a stream is enough; MPI promises none above 32,767.
enum Tag : int {
  kTieGradientTag,
  kTieValueTag,
  kGatherTag,
  kFinalTag,
  kStageTags = 1 << 10,  // from here on two streams a boundary between stages
  kHeadTags = 1 << 14    // from here on three streams an exit, of heads that are split over the pipeline
};

// Sums are taken in rank order: f32 and f64 as such, bf16 in f32 and rounded once. Every rank gets the same bits, on any transport
// those of reduce_scatter and all_gather. The one exception is all_reduce of less than 32 KiB of f32 or f64 over MPI, whose order
// is MPI's own: the same on every rank and in every run, but maybe not that of the ranks.
//
// Sum over the group, in place. Counted: 2 n (g-1)/g bytes.
Work all_reduce(Context&, Tensor inout, const Group&);
// out, of in's size / g, = this rank's part (in rank order, along memory) of the sum of all `in`. out may be that part of `in`
// itself; what `in` holds afterwards is undefined but for it. Counted: n (g-1)/g bytes of in's n.
Work reduce_scatter(Context&, Tensor out, Tensor in, const Group&);
// out, of g times in's size, = every rank's `in` in rank order. in may be this rank's part of out. Any element type. Counted:
// n (g-1)/g bytes of out's n.
Work all_gather(Context&, Tensor out, Tensor in, const Group&);
// Counted: n bytes. Any element type.
Work broadcast(Context&, Tensor inout, const Group&, int root);
// Messages with equal (peer, tag) arrive in the order they were sent. Counted: n bytes, by the sender.
Work send(Context&, Tensor, const Group&, int to, int tag);
Work receive(Context&, Tensor, const Group&, int from, int tag);

// An Error that every rank throws alike: rank 0 prints it once and all ranks end in order, without aborting each other.
struct AgreedError : Error {
  using Error::Error;
};
// Called by all ranks at the end of a phase (configuration, data, building). If any rank has an error, every rank throws the
// AgreedError of the lowest such rank; its text is that rank's line (error_line of comm/host.h), ready to print.
void agree(Context&, const Group& world, const std::optional<Error>& mine);

}  // namespace offramp
