// A trained model on its way out: gathers the logical tensors of a running job and writes them as Hugging Face's formats.
#pragma once
#include <functional>
#include <memory>
#include <optional>

#include "checkpoint/gather.h"
#include "checkpoint/huggingface.h"
#include "checkpoint/tensor_source.h"
#include "trainer/carried_tokenizer.h"

namespace offramp {

struct ExportOptions {
  std::string directory;
  std::vector<ExitSpec> exits;
  CarriedTokenizer tokenizer;
  // Of a frozen backbone, where its tensors come from: called on the rank that writes. None: the machine has all.
  std::function<std::unique_ptr<TensorSource>()> backbone{};
};
// What would be in the way of an export, found before training instead of after it: the directory, the tokenizer. On one rank.
void try_export(const ExportOptions& options, const ModelConfig& model);
// Collective. Rank 0 writes; if it fails, every rank throws the same AgreedError.
void export_hugging_face(const ExportOptions& options, Machine& machine);

}  // namespace offramp
