#include "comm/mpi.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>

#include "comm/mpi_exchange.h"

namespace offramp {

void check_mpi(int status, const std::string& what) {
  if (status == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(status, text.data(), &length);
  fail(Exit::communication, "{} failed: {}; see what the other ranks and their hosts report", what, text.data());
}

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i32:
      return MPI_INT32_T;
    case DType::bf16:
      return MPI_UINT16_T;
    case DType::none:
      break;
  }
  broken("dtype", fmt::format("[mpi] no MPI type for {}", name_of(dtype)));
}

namespace {

constexpr std::size_t kLargeBytes = 32 << 10;  // sums from here on go piece by piece

bool mpi_is_up() {
  int begun = 0, ended = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&ended);
  return begun && !ended;
}

// Owns a communicator, except the world's.
class Communicator {
 public:
  explicit Communicator(MPI_Comm comm) : comm_(comm) {
    check_mpi(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~Communicator() {  // collective: not while this rank alone unwinds
    if (comm_ != MPI_COMM_WORLD && mpi_is_up() && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  MPI_Comm get() const { return comm_; }

 private:
  MPI_Comm comm_;
};

// A tensor in parts that MPI can count.
struct Parts {
  Tensor tensor;
  std::int64_t largest = 1;

  std::int64_t count() const { return std::max<std::int64_t>(1, (tensor.elements() + largest - 1) / largest); }
  std::byte* data(std::int64_t part) const { return tensor.data + static_cast<std::size_t>(part * largest) * size_of(tensor.dtype); }
  int elements(std::int64_t part) const { return static_cast<int>(std::min(largest, tensor.elements() - part * largest)); }
  MPI_Datatype type() const { return mpi_type(tensor.dtype); }
};

// The requests of one operation. Those of a Work that was given up stay with MPI, unfinished, until the job ends.
class MpiState : public Work::State {
 public:
  MpiState(Parts parts, bool receives, std::shared_ptr<Exchanges> all, std::string text)
      : parts_(parts), receives_(receives), exchanges_(std::move(all)) {
    requests_.resize(static_cast<std::size_t>(parts.count()), MPI_REQUEST_NULL);
    what = std::move(text);
  }

  // start(data, elements, type, request) starts one part.
  template <class Start>
  void begin(Start start) {
    for (std::int64_t p = 0; p < parts_.count(); ++p)
      check_mpi(start(parts_.data(p), parts_.elements(p), parts_.type(), &requests_[static_cast<std::size_t>(p)]), what);
  }

  bool test() override {
    for (; done_ < parts_.count(); ++done_) {
      int done = 0;
      MPI_Status status{};
      check_mpi(MPI_Test(&requests_[static_cast<std::size_t>(done_)], &done, &status), what);
      if (!done) {
        exchanges_->advance();
        return false;
      }
      if (receives_) check_length(status);
    }
    return true;
  }

  std::uint64_t moved() const override { return static_cast<std::uint64_t>(done_) + exchanges_->moved(); }

 private:
  void check_length(const MPI_Status& status) const {
    int received = 0;
    check_mpi(MPI_Get_count(&status, parts_.type(), &received), "MPI_Get_count");
    OFFRAMP_CHECK(received == parts_.elements(done_), "{}: {} elements came instead of {}", what, received, parts_.elements(done_));
  }

  Parts parts_;
  bool receives_ = false;
  std::shared_ptr<Exchanges> exchanges_;
  std::int64_t done_ = 0;  // parts
  std::vector<MPI_Request> requests_;
};

class MpiGroup : public GroupImpl {
 public:
  MpiGroup(MPI_Comm comm, Wire kind, std::int64_t largest_part, std::shared_ptr<Exchanges> all)
      : comm_(comm), for_exchanges_(copy_of(comm)), largest_part_(largest_part), exchanges_(std::move(all)) {
    check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size");
    wire = kind;
    find_world_ranks();
  }

  // Small sums are MPI's, where it knows the type. Open MPI reduces each element along one fixed tree and hands the result round,
  // so all ranks get the same bits, and each run the same; the tests check both.
  Work all_reduce(Tensor inout) override {
    auto text = fmt::format("all_reduce of {} bytes over {}", inout.bytes(), group_text());
    if (inout.bytes() >= kLargeBytes || inout.dtype == DType::bf16) {
      const auto place = next_place();
      return exchange({inout, Exchange::part_of(inout, place), true, true}, place, std::move(text));
    }
    return begin(inout, false, std::move(text), [this](void* data, int n, MPI_Datatype type, MPI_Request* request) {
      return MPI_Iallreduce(MPI_IN_PLACE, data, n, type, MPI_SUM, comm_.get(), request);
    });
  }

  Work reduce_scatter(Tensor out, Tensor in) override {
    auto text = fmt::format("reduce_scatter of {} bytes over {}", in.bytes(), group_text());
    return exchange({in, out.data, true, false}, next_place(), std::move(text));
  }

  Work all_gather(Tensor out, Tensor in) override {
    auto text = fmt::format("all_gather of {} bytes over {}", out.bytes(), group_text());
    return exchange({out, in.data, false, true}, next_place(), std::move(text));
  }

  Work broadcast(Tensor inout, int root) override {
    auto text = fmt::format("broadcast of {} bytes from {} over {}", inout.bytes(), peer_text(root), group_text());
    return begin(inout, false, std::move(text), [=, this](void* data, int n, MPI_Datatype type, MPI_Request* request) {
      return MPI_Ibcast(data, n, type, root, comm_.get(), request);
    });
  }

  Work send(Tensor tensor, int to, int tag) override {
    auto text = fmt::format("send of {} bytes to {}, tag {}", tensor.bytes(), peer_text(to), tag);
    return begin(tensor, false, std::move(text), [=, this](void* data, int n, MPI_Datatype type, MPI_Request* request) {
      return MPI_Isend(data, n, type, to, tag, comm_.get(), request);
    });
  }

  Work receive(Tensor tensor, int from, int tag) override {
    auto text = fmt::format("receive of {} bytes from {}, tag {}", tensor.bytes(), peer_text(from), tag);
    return begin(tensor, true, std::move(text), [=, this](void* data, int n, MPI_Datatype type, MPI_Request* request) {
      return MPI_Irecv(data, n, type, from, tag, comm_.get(), request);
    });
  }

  std::shared_ptr<GroupImpl> split(int color, int key, Wire kind) override {
    OFFRAMP_CHECK(color >= 0, "[split] color {} is negative", color);
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_.get(), color, key, &part), "MPI_Comm_split");
    return std::make_shared<MpiGroup>(part, kind, largest_part_, exchanges_);
  }

  // A probe runs MPI's progress engine, for all groups and all operations of MPI's; its answer does not matter.
  void progress() override {
    int found = 0;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_.get(), &found, MPI_STATUS_IGNORE), "MPI_Iprobe");
    exchanges_->advance();
  }

 private:
  Exchange::Place next_place() {
    return {.comm = for_exchanges_.get(), .rank = rank, .size = size, .number = started_++, .largest_part = largest_part_};
  }

  Work exchange(const Exchange::Task& task, const Exchange::Place& place, std::string text) {
    auto state = std::make_unique<Exchange>(task, place, exchanges_, std::move(text));
    state->advance();  // sends the first pieces
    return Work(std::move(state));
  }

  template <class Start>
  Work begin(Tensor tensor, bool receives, std::string text, Start start) {
    auto state = std::make_unique<MpiState>(Parts{tensor, largest_part_}, receives, exchanges_, std::move(text));
    state->begin(start);
    return Work(std::move(state));
  }

  void find_world_ranks() {
    MPI_Group all = MPI_GROUP_NULL, own = MPI_GROUP_NULL;
    check_mpi(MPI_Comm_group(MPI_COMM_WORLD, &all), "MPI_Comm_group");
    check_mpi(MPI_Comm_group(comm_.get(), &own), "MPI_Comm_group");
    std::vector<int> here(static_cast<std::size_t>(size));
    std::iota(here.begin(), here.end(), 0);
    world_ranks.resize(here.size());
    check_mpi(MPI_Group_translate_ranks(own, size, here.data(), all, world_ranks.data()), "MPI_Group_translate_ranks");
    MPI_Group_free(&own);
    MPI_Group_free(&all);
  }

  static MPI_Comm copy_of(MPI_Comm comm) {
    MPI_Comm copy = MPI_COMM_NULL;
    check_mpi(MPI_Comm_dup(comm, &copy), "MPI_Comm_dup");
    return copy;
  }

  Communicator comm_, for_exchanges_;
  std::int64_t largest_part_;
  std::shared_ptr<Exchanges> exchanges_;
  std::uint64_t started_ = 0;  // exchanges
};

bool in_environment(const char* name) { return std::getenv(name) != nullptr; }

// srun without a PMI plugin starts ranks that cannot find each other: each would train alone and overwrite the others' files.
void check_slurm() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks && std::atoi(tasks) > 1)
    fail(Exit::communication,
         "srun started {} tasks without a way for MPI to find them: use srun --mpi=pmix (srun --mpi=list shows what there is)", tasks);
}

}  // namespace

bool MpiSession::under_launcher() {
  return in_environment("OMPI_COMM_WORLD_SIZE") || in_environment("PMIX_RANK") || in_environment("PMI_RANK");
}

MpiSession::MpiSession(int& argc, char**& argv, std::int64_t largest_part) {
  OFFRAMP_CHECK(largest_part >= 1 && largest_part <= INT32_MAX, "[mpi] parts of {} elements", largest_part);
  if (!under_launcher()) {
    check_slurm();
    return;
  }
  int provided = 0;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_FUNNELED)
    fail(Exit::communication, "this MPI library was built without support for threads (MPI_THREAD_FUNNELED)");
  auto world = std::make_shared<MpiGroup>(MPI_COMM_WORLD, Wire::control, largest_part, std::make_shared<Exchanges>());
  if (world->size > 1) world_ = Group(std::move(world));
}

MpiSession::~MpiSession() {
  if (mpi_is_up() && std::uncaught_exceptions() == 0) MPI_Finalize();
}

std::size_t reduce_scatter_memory(std::size_t bytes, int ranks) {
  return ranks == 1 ? 0 : Exchange::kLanes * static_cast<std::size_t>(ranks - 1) * slot_bytes(bytes, ranks);
}

std::size_t all_reduce_memory(std::size_t bytes, int ranks) { return bytes < kLargeBytes ? 0 : reduce_scatter_memory(bytes, ranks); }

void abort_job(int code) {
  std::fflush(nullptr);
  if (mpi_is_up()) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace offramp
