#include "trainer/log.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

namespace offramp {
namespace {

// fmt prints the shortest text that reads back to the same bits; ".0" keeps readers from making an integer of it, which would
// lose the sign of -0.
std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string number(std::optional<double> value) { return value ? number(*value) : "null"; }

std::string object(const ByLayer& values) {
  std::string text;
  for (const auto& [layer, value] : values) text += fmt::format("{}\"{}\":{}", text.empty() ? "" : ",", layer, number(value));
  return "{" + text + "}";
}

// Keys of their own, where exits were compared with the final head.
template <class Record>
std::string comparison(const Record& r) {
  if (r.exit_acceptances.empty()) return "";
  return fmt::format(",\"exit_acceptances\":{},\"exit_agreements\":{}", object(r.exit_acceptances), object(r.exit_agreements));
}

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);  // a path may be no UTF-8
}

std::string object(const SubnetResult& r) {
  std::string text = r.name.empty() ? fmt::format("\"weight\":{}", number(r.weight)) : fmt::format("\"name\":{}", quoted(r.name));
  text += fmt::format(",\"subnet\":{},\"loss\":{},\"accuracy\":{}", r.subnet, number(r.loss), number(r.accuracy));
  if (r.acceptance) text += fmt::format(",\"acceptance\":{},\"agreement\":{}", number(r.acceptance), number(r.agreement));
  return "{" + text + "}";
}

// A key of their own, where there are any.
std::string list(const std::vector<SubnetResult>& subnets) {
  std::string text;
  for (const SubnetResult& subnet : subnets) text += (text.empty() ? "" : ",") + object(subnet);
  return subnets.empty() ? "" : ",\"subnets\":[" + text + "]";
}

std::array<std::pair<const char*, double>, 6> named(const PhaseTimes& p) {
  return {{{"forward", p.forward},
           {"backward", p.backward},
           {"exits", p.exits},
           {"communication", p.communication},
           {"optimizer", p.optimizer},
           {"data", p.data}}};
}

std::string object(const PhaseTimes& phases) {
  std::string text;
  for (const auto& [name, seconds] : named(phases)) text += fmt::format("{}\"{}\":{}", text.empty() ? "" : ",", name, number(seconds));
  return "{" + text + "}";
}

void add(std::vector<Scalar>& scalars, const std::string& tag, std::optional<double> value) {
  if (value) scalars.push_back({tag, *value});
}

void add(std::vector<Scalar>& scalars, const std::string& tag, const ByLayer& values) {
  for (const auto& [layer, value] : values) scalars.push_back({fmt::format("{}/{}", tag, layer), value});
}

}  // namespace

std::string to_json(const StepRecord& r) {
  return fmt::format(
      "{{\"step\":{},\"loss\":{},\"final_loss\":{},\"exit_losses\":{}{}{},\"lr\":{},\"grad_norm\":{},\"tokens\":{},\"step_time_s\":{},"
      "\"tokens_per_s\":{},\"mfu\":{},\"peak_bytes\":{},\"phase_s\":{}}}\n",
      r.step, number(r.loss), number(r.final_loss), object(r.exit_losses), comparison(r), list(r.subnets), number(r.lr),
      number(r.grad_norm), r.tokens, number(r.step_time_s), number(r.tokens_per_s), number(r.mfu), r.peak_bytes, object(r.phase_s));
}

std::string to_json(const ValidationRecord& r) {
  return fmt::format(
      "{{\"step\":{},\"split\":\"validation\",\"set\":{},\"loss\":{},\"final_loss\":{},\"exit_losses\":{},\"final_accuracy\":{},"
      "\"exit_accuracies\":{}{}{},\"tokens\":{}}}\n",
      r.step, quoted(r.set), number(r.loss), number(r.final_loss), object(r.exit_losses), number(r.final_accuracy),
      object(r.exit_accuracies), comparison(r), list(r.subnets), r.tokens);
}

std::vector<Scalar> to_scalars(const StepRecord& r) {
  std::vector<Scalar> scalars = {{"loss", r.loss}};
  add(scalars, "final_loss", r.final_loss);
  add(scalars, "exit_losses", r.exit_losses);
  add(scalars, "exit_acceptances", r.exit_acceptances);
  add(scalars, "exit_agreements", r.exit_agreements);
  add(scalars, "lr", r.lr);
  add(scalars, "grad_norm", r.grad_norm);
  add(scalars, "step_time_s", r.step_time_s);
  add(scalars, "tokens_per_s", r.tokens_per_s);
  add(scalars, "mfu", r.mfu);
  add(scalars, "peak_bytes", static_cast<double>(r.peak_bytes));
  for (const auto& [name, seconds] : named(r.phase_s)) add(scalars, fmt::format("phase_s/{}", name), seconds);
  return scalars;
}

std::vector<Scalar> to_scalars(const ValidationRecord& r) {
  const std::string prefix = "validation/" + r.set + "/";
  std::vector<Scalar> scalars = {{prefix + "loss", r.loss}};
  add(scalars, prefix + "final_loss", r.final_loss);
  add(scalars, prefix + "exit_losses", r.exit_losses);
  add(scalars, prefix + "final_accuracy", r.final_accuracy);
  add(scalars, prefix + "exit_accuracies", r.exit_accuracies);
  add(scalars, prefix + "exit_acceptances", r.exit_acceptances);
  add(scalars, prefix + "exit_agreements", r.exit_agreements);
  for (const SubnetResult& subnet : r.subnets) add(scalars, prefix + "subnets/" + subnet.name, subnet.loss);
  return scalars;
}

MetricsLog::MetricsLog(const std::string& directory, bool tensorboard) {
  if (directory.empty()) return;
  lines_.emplace(directory + "/metrics.jsonl");
  if (!lines_->ends_with('\n')) lines_->append("\n");
  if (tensorboard) board_.emplace(directory);
}

void MetricsLog::write(const StepRecord& record) {
  if (lines_) lines_->append(to_json(record));
  if (board_) board_->write(record.step, to_scalars(record));
}

void MetricsLog::write(const ValidationRecord& record) {
  if (lines_) lines_->append(to_json(record));
  if (board_) board_->write(record.step, to_scalars(record));
}

}  // namespace offramp
