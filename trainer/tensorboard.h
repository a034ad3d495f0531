// TensorBoard's event files. A record is  u64 length | u32 masked crc32c(length) | data | u32 masked crc32c(data),  and its data an
// Event in protocol buffers' encoding, which needs no library for the five fields that scalars have.
//
//   TensorBoardWriter board("runs/quickstart");               // events.out.tfevents.<time>.<host>.<process>
//   board.write(12, {{"loss", 5.1}, {"exit_losses/2", 6.2}});
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/append_file.h"

namespace offramp {

struct Scalar {
  std::string tag;
  double value = 0;  // stored as a float
};

class TensorBoardWriter {
 public:
  explicit TensorBoardWriter(const std::string& directory);
  const std::string& path() const { return file_.path(); }
  void write(std::int64_t step, const std::vector<Scalar>& scalars);

 private:
  AppendFile file_;
};

// Castagnoli's CRC, as RFC 3720 defines it.
std::uint32_t crc32c(std::string_view bytes);

}  // namespace offramp
