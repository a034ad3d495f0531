#include "trainer/export.h"

#include "checkpoint/export_source.h"
#include "tensor/check.h"

namespace offramp {
namespace {

void write_small_files(const ExportOptions& options, const ModelConfig& model, const std::string& directory) {
  if (options.tokenizer.write) options.tokenizer.write(directory);
  write_config_json(directory, model, options.tokenizer.end_token);
  write_exits_json(directory, options.exits);
}

// Writes on rank 0 while the others send. A disk error must not stop the sending, or the other ranks would wait for ever: it is
// kept, and agreed on at the end.
class Exporter {
 public:
  Exporter(const ExportOptions& options, Machine& machine) : options_(options), machine_(machine), gatherer_(machine) {}

  void run() {
    const ModelConfig& model = machine_.model().config;
    attempt([&] { open(model); });
    if (options_.backbone)
      attempt([&] { copy_backbone(model); });
    else
      write_tensors("model.safetensors", backbone_entries(model));
    await_writer();
    write_tensors("exits.safetensors", exit_entries(model, options_.exits));
    attempt([&] { directory_->commit(); });
    agree(machine_.context(), machine_.mesh().world, error_);
  }

 private:
  bool writes() const { return machine_.mesh().world_rank() == 0 && !error_; }

  template <class F>
  void attempt(F&& body) {
    if (!writes()) return;
    try {
      body();
    } catch (const Error& e) {
      error_ = e;
    }
  }

  void open(const ModelConfig& model) {
    directory_.emplace(options_.directory);
    write_small_files(options_, model, directory_->path());
  }

  void write_tensors(const std::string& file, const std::vector<ExportEntry>& entries) {
    std::optional<SafetensorsWriter> writer;
    attempt([&] { writer.emplace(directory_->path() + "/" + file, file_entries(entries)); });
    for (const ExportEntry& entry : entries) {
      gather_entry(gatherer_, entry, [&](std::span<const float> values) {
        attempt([&] { writer->write(values); });
        await_writer();
      });
    }
    attempt([&] { writer->finish(); });
    await_writer();
  }

  void copy_backbone(const ModelConfig& model) {
    const auto source = options_.backbone();
    write_entries(directory_->path() + "/model.safetensors", backbone_entries(model), *source, FloatType::f32,
                  [&] { machine_.context().beat(); });
  }

  // Every rank hears of every part that is on disk: the watchdogs of those that only wait see progress.
  void await_writer() {
    std::int32_t written = 1;
    broadcast(machine_.context(), Tensor(&written, {1}, DType::i32), machine_.mesh().world, 0).wait(machine_.context());
    machine_.context().beat();
  }

  const ExportOptions& options_;
  Machine& machine_;
  Gatherer gatherer_;
  std::optional<ExportDirectory> directory_;
  std::optional<Error> error_;
};

}  // namespace

void try_export(const ExportOptions& options, const ModelConfig& model) {
  check_export_target(options.directory);
  const ExportDirectory trial(options.directory);
  write_small_files(options, model, trial.path());
}

void export_hugging_face(const ExportOptions& options, Machine& machine) { Exporter(options, machine).run(); }

}  // namespace offramp
