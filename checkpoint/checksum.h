// XXH3, 64 bits: finds every flipped bit that a disk or a network lets through. It is no signature.
//
//   Checksums sums;                 // of each MiB of a stream
//   sums.add(data, bytes);          // any number of times
//   sums.finish();
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

std::uint64_t checksum(std::string_view bytes);
std::string hex(std::uint64_t sum);  // 16 digits
bool parse_hex(std::string_view text, std::uint64_t& sum);

class Checksums {
 public:
  explicit Checksums(std::size_t part);
  ~Checksums();
  void add(const void* data, std::size_t bytes);
  std::vector<std::uint64_t> finish();  // the last part may be smaller; no bytes have no sums
  std::uint64_t bytes() const { return bytes_; }

 private:
  void end_part();

  struct State;
  std::unique_ptr<State> state_;
  std::size_t part_, filled_ = 0;
  std::uint64_t bytes_ = 0;
  std::vector<std::uint64_t> sums_;
};

}  // namespace offramp
