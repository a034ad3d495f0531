#include "checkpoint/checksum.h"

#define XXH_INLINE_ALL
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>

namespace offramp {

std::uint64_t checksum(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string hex(std::uint64_t sum) { return fmt::format("{:016x}", sum); }

bool parse_hex(std::string_view text, std::uint64_t& sum) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), sum, 16);
  return text.size() == 16 && error == std::errc() && end == text.data() + text.size();
}

struct Checksums::State {
  XXH3_state_t xxh;
};

Checksums::Checksums(std::size_t part) : state_(std::make_unique<State>()), part_(part) { XXH3_64bits_reset(&state_->xxh); }
Checksums::~Checksums() = default;

void Checksums::add(const void* data, std::size_t bytes) {
  const char* next = static_cast<const char*>(data);
  bytes_ += bytes;
  while (bytes > 0) {
    const std::size_t taken = std::min(bytes, part_ - filled_);
    XXH3_64bits_update(&state_->xxh, next, taken);
    next += taken, bytes -= taken, filled_ += taken;
    if (filled_ == part_) end_part();
  }
}

void Checksums::end_part() {
  sums_.push_back(XXH3_64bits_digest(&state_->xxh));
  XXH3_64bits_reset(&state_->xxh);
  filled_ = 0;
}

std::vector<std::uint64_t> Checksums::finish() {
  if (filled_ > 0) end_part();
  return std::move(sums_);
}

}  // namespace offramp
