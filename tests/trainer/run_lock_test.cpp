// Locks between real processes: owners that live, end, are killed, stand still, or wrote half a line.
#include "trainer/run_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>

#include "comm/host.h"
#include "comm/in_process.h"
#include "tests/files.h"

namespace offramp {
namespace {

using Clock = LockWatch::Clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

// Another process that runs `body`. At the end of the scope it is killed, if it has not ended.
class Child {
 public:
  template <class Body>
  explicit Child(Body body) : pid_(::fork()) {
    if (pid_ != 0) return;
    try {
      body();
      std::_Exit(0);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      std::_Exit(1);
    }
  }
  ~Child() { kill(), wait(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  pid_t pid() const { return pid_; }
  void kill(int signal = SIGKILL) const {
    if (!ended_) ::kill(pid_, signal);
  }
  int wait() {
    if (!ended_) ::waitpid(pid_, &status_, 0);
    ended_ = true;
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  }

 private:
  pid_t pid_;
  bool ended_ = false;
  int status_ = 0;
};

LockOwner me(const std::string& run) { return {host_name(), run, "", {this_process()}}; }
constexpr RunLock::Options kQuick{.wait_s = 1.5, .silent_s = 0.6, .beat_s = 0.1};

// What the lock in the directory says.
std::optional<LockOwner> holder(const TemporaryDirectory& directory) { return read_lock_text(read_bytes(directory / "run.lock")); }

template <class Condition>
bool soon(Condition condition) {
  for (const auto start = Clock::now(); since(start) < 20; sleep_for(0.01))
    if (condition()) return true;
  return false;
}

[[noreturn]] void hold_for_ever(const std::string& directory, RunLock::Options options = kQuick, std::vector<Process> more = {}) {
  LockOwner owner = me("first");
  owner.processes.insert(owner.processes.end(), more.begin(), more.end());
  RunLock lock({directory}, owner, options);
  lock.lock();
  for (;;) sleep_for(1);
}

TEST(LockText, ReadsBack) {
  const LockOwner owner{"node \"7\"", "ab12", "2030-01-02T03:04:05Z", {{~std::uint64_t{0}, 12, 345}, {1, 2, 3}}};
  const auto read = read_lock_text(lock_text(owner, 7));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->host, owner.host);
  EXPECT_EQ(read->run, owner.run);
  EXPECT_EQ(read->since, owner.since);
  EXPECT_EQ(read->processes, owner.processes);
  EXPECT_EQ(lock_text(owner, 7).size(), lock_text(owner, 123456).size());
}

TEST(LockText, NoPartOfItIsOne) {
  const std::string whole = lock_text(me("ab12"), 7);
  for (std::size_t size = 0; size + 1 < whole.size(); ++size) EXPECT_FALSE(read_lock_text(whole.substr(0, size))) << size;
  EXPECT_FALSE(read_lock_text(whole + "}"));
  EXPECT_FALSE(read_lock_text(R"({"host":1,"run":"a","since":"b","processes":[[1,2,3]]})"));
  EXPECT_FALSE(read_lock_text(R"({"host":"h","run":"a","since":"b","processes":[]})"));
}

TEST(Process, IsAliveUntilItHasEnded) {
  const Process self = this_process();
  EXPECT_TRUE(alive(self));
  EXPECT_EQ(self.pid, ::getpid());
  EXPECT_FALSE(alive({self.machine, self.pid, self.started + 1}));  // the number is another's now
  TemporaryDirectory directory;
  Child child([&] {
    const Process process = this_process();
    write_bytes(directory / "pid.tmp", fmt::format("{}", process.started));
    std::filesystem::rename(directory / "pid.tmp", directory / "pid");
    for (;;) sleep_for(1);
  });
  ASSERT_TRUE(soon([&] { return std::filesystem::exists(directory / "pid"); }));
  const Process other{self.machine, child.pid(), std::stoll(read_bytes(directory / "pid"))};
  EXPECT_TRUE(alive(other));
  child.kill(SIGSTOP);
  EXPECT_TRUE(alive(other));
  child.kill();
  EXPECT_TRUE(soon([&] { return !alive(other); }));  // nobody has waited for it: a zombie writes nothing
  child.wait();
  EXPECT_FALSE(alive(other));
}

TEST(Process, AllRanksKnowAll) {
  run_in_process(3, [](Group world) {
    Context ctx;
    EXPECT_EQ(all_processes(ctx, world), std::vector<Process>(3, this_process()));
  });
}

TEST(LockFile, IsReplacedOnlyByThoseWhoSawIt) {
  TemporaryDirectory directory;
  LockFile file(directory / "lock");
  EXPECT_EQ(file.read(), "");
  EXPECT_FALSE(std::filesystem::exists(file.path()));
  EXPECT_FALSE(file.replace("something", "mine"));
  EXPECT_TRUE(file.replace("", "mine, and long"));
  EXPECT_FALSE(file.replace("", "theirs"));
  EXPECT_EQ(file.read(), "mine, and long");
  EXPECT_TRUE(file.replace("mine, and long", "shorter"));
  EXPECT_EQ(file.read(), "shorter");
  EXPECT_TRUE(file.replace("shorter", ""));
  EXPECT_FALSE(std::filesystem::exists(file.path()));
}

// Each of several processes takes, holds and gives back, many times: two never hold at once, since the counter, read and written
// without any other protection, loses nothing.
void count_together(int processes, int times, LockFile::Options options) {
  TemporaryDirectory directory;
  write_bytes(directory / "count", "0");
  std::vector<std::unique_ptr<Child>> children;
  for (int c = 0; c < processes; ++c) {
    children.push_back(std::make_unique<Child>([&] {
      for (int i = 0; i < times;) {
        LockFile file(directory / "lock", options);
        const std::string mine = fmt::format("{} {}", ::getpid(), i);
        if (!file.read().empty() || !file.replace("", mine)) continue;
        const int count = std::stoi(read_bytes(directory / "count"));
        sleep_for(0.001);
        write_bytes(directory / "count", fmt::format("{}", count + 1));
        if (!file.replace(mine, "")) std::_Exit(3);
        ++i;
      }
    }));
  }
  for (auto& child : children) EXPECT_EQ(child->wait(), 0);
  EXPECT_EQ(read_bytes(directory / "count"), fmt::format("{}", processes * times));
}

TEST(LockFile, HasOneHolderAtATime) { count_together(4, 40, {}); }
TEST(LockFile, HasOneHolderAtATimeWithoutSystemLocks) { count_together(3, 3, {.locks = false, .settle_s = 0.3}); }

// Holds the system's lock on a file, as a process does that was stopped between reading and writing.
class HeldLock {
 public:
  explicit HeldLock(const std::string& path) : descriptor_(::open(path.c_str(), O_RDWR)) {
    struct flock range {};
    range.l_type = F_WRLCK;
    EXPECT_EQ(::fcntl(descriptor_, F_OFD_SETLKW, &range), 0);
  }
  ~HeldLock() { ::close(descriptor_); }
  HeldLock(const HeldLock&) = delete;
  HeldLock& operator=(const HeldLock&) = delete;

 private:
  int descriptor_;
};

TEST(LockFile, IsReadWhereALockIsNeverGivenBack) {
  TemporaryDirectory directory;
  LockFile file(directory / "lock", {.patience_s = 0.2});
  ASSERT_TRUE(file.replace("", "first"));
  {
    const HeldLock held(directory / "lock");
    EXPECT_EQ(file.read(), "first");
    const std::string said = checkpoint_error([&] { file.replace("first", "second"); });
    EXPECT_NE(said.find("has held its lock for 0.2 s"), std::string::npos) << said;
    EXPECT_EQ(read_bytes(directory / "lock"), "first");
  }
  EXPECT_TRUE(file.replace("first", "second"));
}

TEST(RunLock, NamesAnOwnerThatStoppedInTheMiddleOfABeat) {
  TemporaryDirectory directory;
  Child owner([&] { hold_for_ever(directory.path()); });
  ASSERT_TRUE(soon([&] { return holder(directory).has_value(); }));
  const HeldLock held(directory / "run.lock");
  owner.kill(SIGSTOP);
  RunLock::Options quick = kQuick;
  quick.file.patience_s = 0.2;
  RunLock second({directory.path()}, me("second"), quick);
  const std::string said = checkpoint_error([&] { second.lock(); });
  EXPECT_NE(said.find(fmt::format("held by process {}", owner.pid())), std::string::npos) << said;
}

TEST(RunLock, IsThereWhileItIsHeld) {
  TemporaryDirectory directory;
  {
    RunLock lock({directory / "a/b", "", directory / "a/./b", directory / "c"}, me("ab12"), kQuick);
    EXPECT_TRUE(lock.try_lock());
    for (const char* name : {"a/b/run.lock", "c/run.lock"}) EXPECT_EQ(read_lock_text(read_bytes(directory / name))->run, "ab12");
    const std::string before = read_bytes(directory / "c/run.lock");
    EXPECT_TRUE(soon([&] { return read_bytes(directory / "c/run.lock") != before; })) << "no beat";
    lock.check();
  }
  EXPECT_FALSE(std::filesystem::exists(directory / "a/b/run.lock"));
  EXPECT_FALSE(std::filesystem::exists(directory / "c/run.lock"));
}

TEST(RunLock, WaitsForALivingOwnerAndNamesIt) {
  TemporaryDirectory directory;
  Child owner([&] { hold_for_ever(directory.path()); });
  ASSERT_TRUE(soon([&] { return holder(directory).has_value(); }));
  owner.kill(SIGSTOP);  // no beat any more, but the process is there
  RunLock second({directory.path()}, me("second"), kQuick);
  const auto start = Clock::now();
  const std::string said = checkpoint_error([&] { second.lock(); });
  EXPECT_GE(since(start), kQuick.wait_s);
  EXPECT_NE(said.find(fmt::format("held by process {} on {} (run first, since 2", owner.pid(), host_name())), std::string::npos) << said;
  EXPECT_NE(said.find(directory / "run.lock"), std::string::npos) << said;
  EXPECT_EQ(holder(directory)->run, "first");
}

TEST(RunLock, FollowsAnOwnerThatEnds) {
  TemporaryDirectory directory;
  Child owner([&] {
    RunLock lock({directory.path()}, me("first"), kQuick);
    lock.lock();
    sleep_for(0.7);
  });
  ASSERT_TRUE(soon([&] { return holder(directory).has_value(); }));
  RunLock second({directory.path()}, me("second"), kQuick);
  EXPECT_FALSE(second.try_lock());
  EXPECT_NE(second.waits_for().find("run first"), std::string::npos);
  second.lock();
  EXPECT_EQ(owner.wait(), 0);
  EXPECT_EQ(holder(directory)->run, "second");
}

TEST(RunLock, ADeadOwnersIsTakenAtOnce) {
  TemporaryDirectory directory;
  Child owner([&] { hold_for_ever(directory.path()); });
  ASSERT_TRUE(soon([&] { return holder(directory).has_value(); }));
  owner.kill();
  owner.wait();
  RunLock second({directory.path()}, me("second"), kQuick);
  EXPECT_TRUE(second.try_lock());
}

TEST(RunLock, WaitsForTheOtherRanksOfADeadOwner) {
  TemporaryDirectory directory;
  Child rank([&] {
    const Process mine = this_process();
    Child owner([&] { hold_for_ever(directory.path(), kQuick, {mine}); });
    if (!soon([&] { return holder(directory).has_value(); })) std::_Exit(1);
    owner.kill();
    owner.wait();
    sleep_for(0.8);
  });
  ASSERT_TRUE(soon([&] { return holder(directory).has_value() && !alive(holder(directory)->processes[0]); }));
  RunLock second({directory.path()}, me("second"), kQuick);
  EXPECT_FALSE(second.try_lock());
  rank.kill(SIGSTOP);
  sleep_for(2 * kQuick.silent_s);  // silence does not count where the process can be seen
  EXPECT_FALSE(second.try_lock());
  rank.kill(SIGKILL);
  rank.wait();
  EXPECT_TRUE(second.try_lock());
}

// An owner on another host: only its beat tells.
LockOwner far_away() { return {"elsewhere", "far", "2030-01-02T03:04:05Z", {{this_process().machine + 1, 1, 1}}}; }

TEST(RunLock, AnotherHostsOwnerLivesWhileItsNumberGrows) {
  TemporaryDirectory directory;
  Child owner([&] {
    for (std::int64_t beat = 1;; ++beat) {
      write_bytes(directory / "run.tmp", lock_text(far_away(), beat));
      std::filesystem::rename(directory / "run.tmp", directory / "run.lock");
      sleep_for(0.1);
    }
  });
  ASSERT_TRUE(soon([&] { return holder(directory).has_value(); }));
  RunLock second({directory.path()}, me("second"), kQuick);
  EXPECT_NE(checkpoint_error([&] { second.lock(); }).find("process 1 on elsewhere (run far"), std::string::npos);
  owner.kill();
  RunLock third({directory.path()}, me("third"), kQuick);
  const auto start = Clock::now();
  third.lock();
  EXPECT_GE(since(start), kQuick.silent_s);
  EXPECT_EQ(holder(directory)->run, "third");
}

TEST(RunLock, SomeRanksElsewhereKeepADeadOwnersLockUntilItIsSilent) {
  TemporaryDirectory directory;
  LockOwner owner = far_away();
  owner.processes.insert(owner.processes.begin(), {this_process().machine, 1, -1});  // rank 0, on this host, has ended
  write_bytes(directory / "run.lock", lock_text(owner, 5));
  RunLock second({directory.path()}, me("second"), kQuick);
  EXPECT_FALSE(second.try_lock());
  const auto start = Clock::now();
  second.lock();
  EXPECT_GE(since(start), kQuick.silent_s / 2);
}

TEST(RunLock, ATornLockIsTakenOnceItIsSilent) {
  const std::string whole = lock_text(me("first"), 7);
  for (const std::string& torn : {whole.substr(0, whole.size() / 2), std::string(1000, '\0'), whole + whole}) {
    TemporaryDirectory directory;
    write_bytes(directory / "run.lock", torn);
    RunLock second({directory.path()}, me("second"), kQuick);
    EXPECT_FALSE(second.try_lock());
    second.lock();
    EXPECT_EQ(holder(directory)->run, "second");
  }
}

// The winner holds it for longer than the other waits.
void contend_for_a_dead_owners(LockFile::Options file) {
  const RunLock::Options options{.wait_s = 0.3, .silent_s = 0.6, .beat_s = 0.1, .file = file};
  TemporaryDirectory directory;
  write_bytes(directory / "run.lock", lock_text({"here", "dead", "", {{this_process().machine, 1, -1}}}, 5));
  const auto contend = [&] {
    RunLock lock({directory.path()}, me("contender"), options);
    while (!std::filesystem::exists(directory / "go")) {
    }
    try {
      lock.lock();
    } catch (const Error& error) {
      std::_Exit(static_cast<int>(error.code));
    }
    sleep_for(2 * options.wait_s + file.settle_s);
  };
  Child one(contend), two(contend);
  sleep_for(0.05);
  write_bytes(directory / "go", "");
  std::vector<int> ends = {one.wait(), two.wait()};
  std::sort(ends.begin(), ends.end());
  EXPECT_EQ(ends, (std::vector<int>{0, static_cast<int>(Exit::checkpoint)}));
}

TEST(RunLock, OneOfTwoContendersTakesADeadOwners) {
  for (int turn = 0; turn < 3; ++turn) contend_for_a_dead_owners({.settle_s = 0});
  for (int turn = 0; turn < 2; ++turn) contend_for_a_dead_owners({.locks = false, .settle_s = 0.3});
}

TEST(RunLock, KnowsThatItWasTaken) {
  TemporaryDirectory directory;
  RunLock first({directory.path()}, me("first"), kQuick);
  first.lock();
  write_bytes(directory / "run.lock", lock_text(me("second"), 1));
  std::string said;
  EXPECT_TRUE(soon([&] {
    said = checkpoint_error([&] { first.check(); });
    return said != "nothing was thrown";
  }));
  EXPECT_NE(said.find("another job has taken it"), std::string::npos) << said;
}

TEST(RunLock, LeavesWhatIsNotItsOwn) {
  TemporaryDirectory directory;
  {
    RunLock first({directory.path()}, me("first"), kQuick);
    first.lock();
    write_bytes(directory / "run.lock", lock_text(me("second"), 1));
  }
  EXPECT_EQ(holder(directory)->run, "second");
}

TEST(RunLock, ADirectoryThatCannotBeMadeIsTheUsersToChange) {
  TemporaryDirectory directory;
  write_bytes(directory / "file", "");
  const std::string said = checkpoint_error([&] { RunLock({directory / "file/logs"}, me("first"), kQuick); });
  EXPECT_NE(said.find("file/logs: cannot create"), std::string::npos) << said;
}

TEST(RunLock, AllRanksWaitForRankZeros) {
  TemporaryDirectory directory;
  Child owner([&] { hold_for_ever(directory.path()); });
  ASSERT_TRUE(soon([&] { return holder(directory).has_value(); }));
  testing::internal::CaptureStderr();
  std::thread end([&] {
    sleep_for(0.4);
    owner.kill();
  });
  run_in_process(3, [&](Group world) {
    Context ctx;
    const auto lock = lock_run(ctx, world, {directory.path()}, "second", kQuick);
    EXPECT_EQ(lock != nullptr, world.rank() == 0);
    EXPECT_EQ(holder(directory)->run, "second");
    EXPECT_EQ(holder(directory)->processes.size(), 3u);
    agree(ctx, world, {});
  });
  end.join();
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_NE(said.find("waiting for the end of process"), std::string::npos) << said;
}

TEST(RunLock, AllRanksHearThatTheOwnerStays) {
  TemporaryDirectory directory;
  Child owner([&] { hold_for_ever(directory.path()); });
  ASSERT_TRUE(soon([&] { return holder(directory).has_value(); }));
  run_in_process(2, [&](Group world) {
    Context ctx;
    try {
      lock_run(ctx, world, {directory.path()}, "second", kQuick);
      FAIL() << "two owners";
    } catch (const AgreedError& error) {
      EXPECT_EQ(error.code, Exit::checkpoint);
      EXPECT_NE(std::string(error.what()).find("run first"), std::string::npos) << error.what();
    }
  });
}

}  // namespace
}  // namespace offramp
