#include "checkpoint/saver.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "checkpoint/box_file.h"
#include "checkpoint/file.h"
#include "checkpoint/publish.h"
#include "comm/signals.h"
#include "tensor/check.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

std::string file_of_rank(int rank) { return fmt::format("rank-{:05}.h5", rank); }
std::string part_of_rank(int rank) { return fmt::format("rank-{:05}.json", rank); }

void make_directory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail_io(directory, "create", error.value());
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_io(path, "read", errno);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Saver::Saver(SaverOptions options, Tensor snapshot) : options_(std::move(options)), snapshot_(snapshot) {}

Saver::~Saver() {
  if (thread_.joinable()) thread_.join();
}

void Saver::begin(Manifest head, std::vector<SavedBox> boxes) {
  OFFRAMP_CHECK(!busy(), "[Saver] a save of step {} is under way", head_.step);
  head_ = std::move(head);
  saved_ = std::move(boxes);
  temporary_ = fmt::format("{}.tmp-{}", step_directory(options_.directory, head_.step), options_.run_id);
  stage_ = Stage::writing;
  error_.clear();
  failed_ = false;
  start(&Saver::write);
}

void Saver::start(void (Saver::*work)()) {
  if (thread_.joinable()) thread_.join();
  done_ = false;
  const SignalsBlocked blocked;
  thread_ = std::thread([this, work] {
    try {
      (this->*work)();
    } catch (const std::exception& e) {
      error_ = e.what();
      failed_ = true;
    }
    done_ = true;
  });
}

Saver::Progress Saver::progress() const {
  const bool done = done_ && busy(), failed = done && failed_;
  return {.written = done && !failed && stage_ == Stage::writing ? 1.0 : 0.0,
          .failed = failed ? 1.0 : 0.0,
          .published = done && !failed && stage_ == Stage::publishing ? 1.0 : 0.0};
}

std::optional<std::string> Saver::advance(const Progress& all) {
  if (!busy()) return std::nullopt;
  if (all.failed > 0) {
    if (thread_.joinable()) thread_.join();
    stage_ = Stage::idle;
    std::error_code ignored;
    if (options_.rank == 0) fs::remove_all(temporary_, ignored);
    return failed_ ? error_ : std::string();
  }
  if (stage_ == Stage::writing && all.written == options_.ranks) {
    stage_ = Stage::publishing;
    if (options_.rank == 0)
      start(&Saver::publish);
    else
      done_ = false;
  } else if (stage_ == Stage::publishing && all.published > 0) {
    stage_ = Stage::idle;
  }
  return std::nullopt;
}

void Saver::write() {
  make_directory(temporary_);
  std::vector<StoredBox> boxes;
  for (const SavedBox& saved : saved_)
    boxes.push_back({.kind = saved.kind, .tensor = saved.tensor, .shape = saved.shape, .box = saved.box});
  const auto rows = [&](std::size_t i, std::int64_t first, std::int64_t count, float* room) -> const float* {
    const SavedBox& saved = saved_[i];
    const float* from = snapshot_.as<float>() + saved.at + first * saved.step;
    if (saved.step == saved.box.columns) return from;
    copy_box(room, saved.box.columns, from, saved.step, {0, count, 0, saved.box.columns});
    return room;
  };
  const StoredFile file = write_box_file(temporary_, file_of_rank(options_.rank), boxes, rows);
  write_file(temporary_ + "/" + part_of_rank(options_.rank), part_to_json(file, boxes));
}

void Saver::publish() {
  Manifest manifest = head_;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const std::string part = temporary_ + "/" + part_of_rank(rank);
    add_part(manifest, part, read_text(part));
  }
  for (int rank = 0; rank < options_.ranks; ++rank) fs::remove(temporary_ + "/" + part_of_rank(rank));
  if (options_.add_files) options_.add_files(temporary_);
  offramp::publish(temporary_, options_.directory, std::move(manifest));
  prune();
}

// Counts only what can be read. What was found sound once is not read again; of this save every rank has read its own part back.
void Saver::prune() {
  if (options_.keep == 0) return;
  int sound = 0;
  for (const std::int64_t step : steps_in(options_.directory)) {
    const std::string directory = step_directory(options_.directory, step);
    if (sound >= options_.keep) {
      const std::string doomed = fmt::format("{}.tmp-{}", directory, options_.run_id);  // no half of it under its name
      if (::rename(directory.c_str(), doomed.c_str()) != 0) fail_io(directory, "remove", errno);
      fs::remove_all(doomed);
      continue;
    }
    const bool known = step == head_.step || std::find(verified_.begin(), verified_.end(), step) != verified_.end();
    try {
      if (!known) Checkpoint(directory).verify();
      if (step == head_.step || !known) verified_.push_back(step);
      ++sound;
    } catch (const Error&) {  // stays, for whoever wants to look at it, and does not count
    }
  }
}

}  // namespace offramp
