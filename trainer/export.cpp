#include "trainer/export.h"

#include "data/hugging_face.h"
#include "data/tokenizer.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// Writes on rank 0 while the others send. A disk error must not stop the sending, or the other ranks would wait for ever: it is
// kept, and agreed on at the end.
class Exporter {
 public:
  Exporter(const ExportOptions& options, Machine& machine) : options_(options), machine_(machine), gatherer_(machine) {}

  void run() {
    const ModelConfig& model = machine_.model().config;
    attempt([&] { open(model); });
    write_tensors("model.safetensors", backbone_entries(model));
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
    std::int64_t end_token = -1;
    if (options_.tokenizer) {
      end_token = load_tokenizer(*options_.tokenizer)->end_token();
      write_hugging_face_tokenizer(*options_.tokenizer, directory_->path());
    }
    write_config_json(directory_->path(), model, end_token);
    write_exits_json(directory_->path(), options_.exits);
  }

  void write_tensors(const std::string& file, const std::vector<TensorEntry>& entries) {
    std::optional<SafetensorsWriter> writer;
    attempt([&] { writer.emplace(directory_->path() + "/" + file, entries); });
    for (const TensorEntry& entry : entries) {
      const auto values = gatherer_.gather(entry.name);
      attempt([&] { writer->write(values); });
      machine_.context().beat();
    }
    attempt([&] { writer->finish(); });
  }

  const ExportOptions& options_;
  Machine& machine_;
  Gatherer gatherer_;
  std::optional<ExportDirectory> directory_;
  std::optional<Error> error_;
};

}  // namespace

void export_hugging_face(const ExportOptions& options, Machine& machine) { Exporter(options, machine).run(); }

}  // namespace offramp
