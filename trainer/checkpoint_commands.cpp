#include "trainer/checkpoint_commands.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>

#include "checkpoint/export_source.h"
#include "checkpoint/publish.h"
#include "tensor/check.h"
#include "trainer/merge_checkpoints.h"
#include "trainer/resume.h"
#include "trainer/subnets.h"

namespace offramp {
namespace {

constexpr std::int64_t kBuffer = std::int64_t{1} << 22;  // elements

// The steps that an argument stands for, newest first.
std::vector<std::string> steps_of(const std::string& input) {
  if (is_step_directory(input)) return {input};
  std::vector<std::string> all;
  for (const std::int64_t step : steps_in(input)) all.push_back(step_directory(input, step));
  if (all.empty()) fail(Exit::checkpoint, "{}: no checkpoint is there; name a directory step-N, or one that holds some", input);
  return all;
}

std::uint64_t bytes_of(const Manifest& m) {
  std::uint64_t bytes = 0;
  for (const StoredFile& file : m.files) bytes += file.bytes;
  return bytes;
}

std::string layout_text(const Manifest& m) {
  std::vector<std::string> parts;
  for (const auto& [key, value] : m.layout) parts.push_back(fmt::format("{} {}", key, value));
  return fmt::format("{}", fmt::join(parts, ", "));
}

// The subnets of a once-for-all model; of another, nothing.
std::string space_text(const Manifest& m) {
  if (m.supernet.empty()) return "";
  const Config config = model_of(m);
  return describe_space(subnets_of(m.supernet, config), config);
}

std::string ls(const std::vector<std::string>& inputs) {
  std::string space;  // said once of steps that are alike
  std::string text =
      fmt::format("{:<40} {:>10} {:>14} {:>8} {:>10}  {}\n", "checkpoint", "step", "samples", "tensors", "MiB", "written by");
  for (const std::string& input : inputs)
    for (const std::string& step : steps_of(input)) {
      try {
        const Checkpoint checkpoint(step);
        const Manifest& m = checkpoint.manifest();
        text += fmt::format("{:<40} {:>10} {:>14} {:>8} {:>10.1f}  {}\n", step, m.step, m.samples, checkpoint.entries(kWeights).size(),
                            static_cast<double>(bytes_of(m)) / (1 << 20), layout_text(m));
        if (std::string of_this = space_text(m); of_this != space) text += space = std::move(of_this);
      } catch (const Error& e) {
        text += fmt::format("{:<40} {}\n", step, e.what());
      }
    }
  return text;
}

std::string verify(const std::vector<std::string>& inputs) {
  std::string text, damaged;
  for (const std::string& input : inputs)
    for (const std::string& step : steps_of(input)) {
      try {
        const Checkpoint checkpoint(step);
        checkpoint.verify();
        text += fmt::format("{}: sound, {} bytes\n", step, bytes_of(checkpoint.manifest()));
      } catch (const Error& e) {
        damaged += fmt::format("{}{}", damaged.empty() ? "" : "\n", e.what());
      }
    }
  if (!damaged.empty()) fail(Exit::checkpoint, "{}", damaged);
  return text;
}

// Hands on a tensor a few rows at a time.
void each_part(const Shape& shape, const std::function<void(const Box&)>& visit) {
  const Matrix m = matrix_of(shape);
  const std::int64_t most = std::max<std::int64_t>(1, kBuffer / std::max<std::int64_t>(1, m.columns));
  for (std::int64_t row = 0; row < m.rows; row += most) visit({row, std::min(most, m.rows - row), 0, m.columns});
}

std::string difference(Checkpoint& a, Checkpoint& b, const std::string& kind, const TensorEntry& entry) {
  const Shape* other = b.shape(kind, entry.name);
  if (!other) return "only in the first";
  if (*other != entry.shape) return fmt::format("{} and {}", to_text(entry.shape), to_text(*other));
  double most = 0, squares = 0, norm = 0;
  bool same = true;
  std::vector<float> x, y;
  each_part(entry.shape, [&](const Box& box) {
    x.resize(static_cast<std::size_t>(box.elements())), y.resize(x.size());
    a.read(kind, entry.name, box, x.data()), b.read(kind, entry.name, box, y.data());
    same = same && std::equal(x.begin(), x.end(), y.begin(), [](float p, float q) { return p == q || (std::isnan(p) && std::isnan(q)); });
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
      most = std::max(most, std::abs(d)), squares += d * d, norm += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
  });
  return same ? "" : fmt::format("largest difference {:.3g}, of norms {:.3g}", most, std::sqrt(squares / std::max(norm, 1e-300)));
}

std::string diff(const std::vector<std::string>& inputs) {
  Checkpoint a(newest_sound(inputs[0])), b(newest_sound(inputs[1]));
  std::string text;
  for (const auto& [key, value] : a.manifest().configuration) {
    const auto it = b.manifest().configuration.find(key);
    if (it != b.manifest().configuration.end() && it->second != value) text += fmt::format("{}: {} and {}\n", key, value, it->second);
  }
  std::size_t differ = 0;
  const auto report = [&](const std::string& kind, const std::string& name, const std::string& what) {
    if (!what.empty()) text += fmt::format("{} {}: {}\n", kind, name, what), ++differ;
  };
  for (const std::string& kind : a.kinds())
    for (const TensorEntry& entry : a.entries(kind)) report(kind, entry.name, difference(a, b, kind, entry));
  for (const std::string& kind : b.kinds())
    for (const TensorEntry& entry : b.entries(kind))
      if (!a.shape(kind, entry.name)) report(kind, entry.name, "only in the second");
  return text + (differ == 0 ? "all tensors are equal\n" : fmt::format("{} tensors differ\n", differ));
}

// A manifest without files and boxes, for the same state in others.
Manifest head_of(const Manifest& m) {
  Manifest head = m;
  head.files.clear(), head.boxes.clear();
  return head;
}

// What is made of a checkpoint carries its tokenizer.
std::function<void(const std::string&)> tokenizer_of(const Checkpoint& checkpoint) {
  return [from = checkpoint.directory()](const std::string& to) { copy_tokenizer_files(from, to); };
}

std::vector<TensorOfKind> tensors_of(const Checkpoint& checkpoint, const std::vector<std::string>& kinds) {
  std::vector<TensorOfKind> all;
  for (const std::string& kind : kinds)
    for (const TensorEntry& entry : checkpoint.entries(kind)) all.push_back({kind, entry.name, entry.shape});
  return all;
}

std::string reshard(const CheckpointArguments& arguments) {
  Checkpoint from(newest_sound(arguments.inputs.front()));
  const auto read = [&](const TensorOfKind& t, const Box& box, float* out) { from.read(t.kind, t.tensor, box, out); };
  write_checkpoint(arguments.output, head_of(from.manifest()), tensors_of(from, from.kinds()), read, arguments.files, tokenizer_of(from));
  return fmt::format("{} from {}\n", step_directory(arguments.output, from.manifest().step), from.directory());
}

// LAWA (arXiv 2209.14981): the mean of the last few checkpoints' weights, summed in double. Optimizer state has no mean.
std::string average(const CheckpointArguments& arguments) {
  std::vector<std::string> steps;
  for (const std::string& input : arguments.inputs) {
    const std::vector<std::string> found = steps_of(input);
    steps.insert(steps.end(), found.begin(), found.end());
  }
  if (arguments.last > 0 && static_cast<std::size_t>(arguments.last) > steps.size())
    fail(Exit::checkpoint, "--last {} of {} checkpoints", arguments.last, steps.size());
  if (arguments.last > 0) steps.resize(static_cast<std::size_t>(arguments.last));
  std::vector<std::unique_ptr<Checkpoint>> all;
  for (const std::string& step : steps) {
    all.push_back(std::make_unique<Checkpoint>(step));
    all.back()->verify();
  }
  const auto newest =
      std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->manifest().step < b->manifest().step; });
  std::vector<float> part;
  std::vector<double> sums;
  const auto read = [&](const TensorOfKind& t, const Box& box, float* out) {
    sums.assign(static_cast<std::size_t>(box.elements()), 0.0);
    part.resize(sums.size());
    for (const auto& each : all) {
      const Shape* shape = each->shape(t.kind, t.tensor);
      if (!shape || *shape != t.shape) fail(Exit::checkpoint, "{}: has no {} {}", each->directory(), t.tensor, to_text(t.shape));
      each->read(t.kind, t.tensor, box, part.data());
      for (std::size_t i = 0; i < part.size(); ++i) sums[i] += static_cast<double>(part[i]);
    }
    std::transform(sums.begin(), sums.end(), out, [&](double sum) { return static_cast<float>(sum / static_cast<double>(all.size())); });
  };
  write_checkpoint(arguments.output, head_of((*newest)->manifest()), tensors_of(**newest, {kWeights}), read, 1, tokenizer_of(**newest));
  return fmt::format("{}: the mean of {} checkpoints\n", step_directory(arguments.output, (*newest)->manifest().step), all.size());
}

}  // namespace

std::string newest_sound(const std::string& input) {
  const std::vector<std::string> steps = steps_of(input);
  for (const std::string& step : steps) {
    try {
      Checkpoint(step).verify();
      return step;
    } catch (const Error& e) {
      if (step == steps.back()) throw;
    }
  }
  return steps.back();
}

std::string run_checkpoint_command(const CheckpointArguments& arguments) {
  switch (arguments.verb) {
    case CheckpointArguments::Verb::ls:
      return ls(arguments.inputs);
    case CheckpointArguments::Verb::verify:
      return verify(arguments.inputs);
    case CheckpointArguments::Verb::diff:
      return diff(arguments.inputs);
    case CheckpointArguments::Verb::reshard:
      return reshard(arguments);
    case CheckpointArguments::Verb::average:
      return average(arguments);
    case CheckpointArguments::Verb::merge:
      return merge_checkpoints(arguments.inputs, arguments.output);
  }
  return "";
}

}  // namespace offramp
