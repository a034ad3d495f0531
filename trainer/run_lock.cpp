#include "trainer/run_lock.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/file.h"
#include "comm/host.h"
#include "comm/signals.h"
#include "tensor/check.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;
using Clock = LockWatch::Clock;
using Json = nlohmann::ordered_json;

constexpr double kPollSeconds = 0.1;

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }
double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour,
                     parts.tm_min, parts.tm_sec);
}

std::string describe(const std::optional<LockOwner>& owner) {
  if (!owner) return "a job that cannot be told, since the file is torn";
  return fmt::format("process {} on {} (run {}, since {})", owner->processes.front().pid, owner->host, owner->run, owner->since);
}

// In one order for all jobs, so that two never wait for each other; each directory once, whatever its names.
std::vector<std::string> lock_paths(const std::vector<std::string>& directories) {
  std::vector<std::string> paths;
  for (const std::string& directory : directories) {
    if (directory.empty()) continue;
    std::error_code error;
    fs::create_directories(directory, error);
    const fs::path path = error ? fs::path() : fs::canonical(directory, error);
    if (error) fail_io(directory, "create", error.value());
    paths.push_back(path / "run.lock");
  }
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  return paths;
}

}  // namespace

// Numbers that grow have a fixed width, so that a beat changes a few bytes and the length stays.
std::string lock_text(const LockOwner& owner, std::int64_t beat) {
  Json processes = Json::array();
  for (const Process& p : owner.processes) processes.push_back({p.machine, p.pid, p.started});
  const Json json = {{"beat", fmt::format("{:012}", beat)},
                     {"host", owner.host},
                     {"run", owner.run},
                     {"since", owner.since},
                     {"processes", std::move(processes)}};  // machine, number, start
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::optional<LockOwner> read_lock_text(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    LockOwner owner{json.at("host"), json.at("run"), json.at("since"), {}};
    for (const Json& p : json.at("processes")) owner.processes.push_back({p.at(0), p.at(1), p.at(2)});
    if (owner.processes.empty()) return std::nullopt;
    return owner;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

bool LockWatch::lives(const std::string& text, Clock::time_point now) {
  if (changed_ == Clock::time_point{} || text != seen_) seen_ = text, changed_ = now;
  if (text.empty()) return false;
  const std::uint64_t here = this_process().machine;
  const auto owner = read_lock_text(text);
  bool elsewhere = !owner;
  for (const Process& process : owner ? owner->processes : std::vector<Process>()) {
    if (process.machine != here) elsewhere = true;
    if (process.machine == here && alive(process)) return true;
  }
  return elsewhere && seconds(now - changed_) < silent_s_;
}

RunLock::RunLock(const std::vector<std::string>& directories, LockOwner owner, Options options)
    : owner_(std::move(owner)), options_(options) {
  OFFRAMP_CHECK(!owner_.processes.empty(), "[RunLock] an owner without processes");
  for (const std::string& path : lock_paths(directories))
    parts_.push_back({LockFile(path, options_.file), LockWatch(options_.silent_s), "", ""});
}

RunLock::~RunLock() {
  {
    std::lock_guard guard(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (Part& part : parts_) {
    try {
      if (!part.text.empty()) part.file.replace(part.text, "") || part.file.replace(part.tried, "");
    } catch (const Error&) {  // it stays there, and its owner is dead
    }
  }
}

bool RunLock::take(Part& part) {
  const std::string text = part.file.read();
  const auto now = Clock::now();
  if (!part.watch.lives(text, now)) {
    owner_.since = utc_now();
    const std::string mine = lock_text(owner_, ++beat_);
    if (part.file.replace(text, mine)) part.text = part.tried = mine;
    return !part.text.empty();
  }
  waits_for_ = describe(read_lock_text(text));
  if (!began_) began_ = now;
  if (seconds(now - *began_) > options_.wait_s) {
    fail(Exit::checkpoint,
         "{}: held by {}, which still runs after {:g} s; wait until that job has ended, end it, or name other directories",
         part.file.path(), waits_for_, options_.wait_s);
  }
  return false;
}

bool RunLock::try_lock() {
  if (thread_.joinable()) return true;
  beat();  // what is held already, while the rest is not
  for (Part& part : parts_)
    if (part.text.empty() && !take(part)) return false;
  waits_for_.clear();
  const SignalsBlocked blocked;
  thread_ = std::thread([this] { keep(); });
  return true;
}

void RunLock::lock() {
  while (!try_lock()) sleep_for(kPollSeconds);
}

void RunLock::check() const {
  const Part* lost = lost_;
  if (!lost) return;
  fail(Exit::checkpoint,
       "{}: another job has taken it, because this one stood still for more than {:g} s; nothing more is written. End one of them",
       lost->file.path(), options_.silent_s);
}

void RunLock::beat() {
  for (Part& part : parts_) {
    if (part.text.empty()) continue;
    const std::string next = lock_text(owner_, ++beat_);
    try {
      const bool held = part.file.replace(part.text, next) || (part.tried != part.text && part.file.replace(part.tried, next));
      if (!held) lost_ = &part;
      if (held) part.text = next;
    } catch (const Error&) {  // a disk that fails for a while: others see a number that stands still
    }
    part.tried = next;
  }
}

void RunLock::keep() {
  std::unique_lock guard(mutex_);
  while (!changed_.wait_for(guard, std::chrono::duration<double>(options_.beat_s), [this] { return stop_; })) {
    guard.unlock();
    beat();
    guard.lock();
  }
}

std::unique_ptr<RunLock> lock_run(Context& ctx, const Group& world, const std::vector<std::string>& directories, const std::string& run,
                                  RunLock::Options options) {
  LockOwner owner{host_name(), run, "", all_processes(ctx, world)};
  std::unique_ptr<RunLock> lock;
  bool told = false;
  for (double held = 0; held == 0;) {
    std::optional<Error> error;
    try {
      if (!lock && world.rank() == 0) lock = std::make_unique<RunLock>(directories, owner, options);
      held = lock ? lock->try_lock() : 0;
    } catch (const Error& e) {
      error = e;
    }
    const std::string peer = lock ? lock->waits_for() : "";
    if (!peer.empty() && !std::exchange(told, true)) fmt::print(stderr, "waiting for the end of {}\n", peer);
    if (ctx.activity) ctx.activity->begin("taking the run's lock" + (peer.empty() ? "" : " from " + peer));
    agree(ctx, world, error);
    broadcast(ctx, Tensor(&held, {1}, DType::f64), world, 0).wait(ctx);
    if (held == 0) sleep_for(kPollSeconds);
  }
  return lock;
}

}  // namespace offramp
