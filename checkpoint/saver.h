// Saver: writes checkpoints beside the training. Every rank copies its state and goes on; a thread of its own writes the copy. No rank
// talks to others here: each says how far it is (progress()), the trainer sums that over ranks in the reduction that every step has
// anyway, and tells all (advance()).
//
//   saver.begin(head, boxes);                  // of a copy; at most one save is under way
//   progress = sum over ranks of saver.progress();
//   saver.advance(progress);                   // rank 0 publishes when all have written; all end when it has
//
// On the disk: step-N.tmp-<run id>/ with a file of each rank, renamed to step-N/ when everything, the manifest last, is synced. Then
// `latest` names it, and older checkpoints are removed beyond the newest `keep` that verify.
#pragma once
#include <atomic>
#include <optional>
#include <thread>

#include "checkpoint/state.h"

namespace offramp {

struct SaverOptions {
  std::string directory;
  std::string run_id;  // the same on all ranks
  int rank = 0, ranks = 1;
  int keep = 0;                                                      // 0: all
  std::function<void(const std::string& directory)> add_files = {};  // puts others beside them, on rank 0: a tokenizer's
};

class Saver {
 public:
  Saver(SaverOptions options, Tensor snapshot);
  ~Saver();  // waits for the thread
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  // The snapshot holds what is to be saved, in these boxes of it. head: the manifest without files and boxes.
  void begin(Manifest head, std::vector<SavedBox> boxes);
  bool busy() const { return stage_ != Stage::idle; }

  // Ranks of which this is one that have written, failed, published.
  struct Progress {
    double written = 0, failed = 0, published = 0;
  };
  Progress progress() const;
  // After a step, with the sums over ranks; on every rank alike. If anything went wrong, the reason on the rank where it did, and an empty
  // text elsewhere: the save is given up, and what it left is removed.
  std::optional<std::string> advance(const Progress& all);

 private:
  enum class Stage { idle, writing, publishing };
  void start(void (Saver::*work)());
  void write();
  void publish();
  void prune();

  SaverOptions options_;
  std::vector<SavedBox> saved_;
  Tensor snapshot_;
  Manifest head_;
  Stage stage_ = Stage::idle;
  std::string temporary_;
  std::thread thread_;
  std::atomic<bool> done_ = false, failed_ = false;
  std::string error_;                   // written by the thread before `done_`
  std::vector<std::int64_t> verified_;  // steps that this process has read whole and found sound
};

}  // namespace offramp
