// What the files that check a configuration share. Only trainer/check_*.cpp include this.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "trainer/check_config.h"

namespace offramp {

struct ConfigChecker {
  const Config& config;
  const Locations& at;
  const std::set<std::string>& unknown;
  Problems& problems;

  bool known(std::initializer_list<std::string_view> paths) const {
    return std::none_of(paths.begin(), paths.end(), [&](std::string_view path) { return unknown.count(std::string(path)) != 0; });
  }
  template <class... Args>
  void blame(std::string_view path, fmt::format_string<Args...> text, Args&&... args) {
    problems.push_back({at.where(path), fmt::format("{}: {}", path, fmt::format(text, std::forward<Args>(args)...))});
  }

  // check_config.cpp
  void keys_without_meaning();
  void model();
  void head_size();
  void heads();
  void exits();
  void exit(std::size_t index);
  void layerskip();
  void targets();
  void freeze();
  void steps();
  void optimizer();
  void schedule();
  void data();
  void logging();

  // check_supernet.cpp
  void supernet();
  void subnet_axis(std::string_view name, const std::vector<std::int64_t>& choices, std::int64_t whole);
  void subnet_depths();
  void subnet_widths();
  void subnet_plan();
  void subnet_layout();
  void subnet_steps();
  void subnet_teacher();
  void subnet_counts();

  // check_layout.cpp
  void stages();
  void virtual_stages();
  void tensor_ranks();
  void split_heads();
  void sequence_parallel();
  void batches();
  void microbatches(std::int64_t data);
  void fill_bubbles();
  void fills(std::int64_t data);
  void world(int size);
  void replicas_of_features(int size);
};

}  // namespace offramp
