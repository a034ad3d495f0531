#include "trainer/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>

namespace offramp {
namespace {

// By byte, of the reflected polynomial.
constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}

std::uint32_t masked(std::uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Protocol buffers: a field starts with number * 8 + wire type (0 varint, 1 eight bytes, 2 a length and bytes, 5 four bytes).
void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}
void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_varint(out, static_cast<std::uint64_t>(field) * 8 + 2);
  put_varint(out, bytes.size());
  out += bytes;
}
void put_double(std::string& out, int field, double value) {
  put_varint(out, static_cast<std::uint64_t>(field) * 8 + 1);
  put(out, value);
}
void put_float(std::string& out, int field, float value) {
  put_varint(out, static_cast<std::uint64_t>(field) * 8 + 5);
  put(out, value);
}

double wall_time() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string record_of(std::string_view event) {
  std::string record;
  put(record, static_cast<std::uint64_t>(event.size()));
  const std::uint32_t length_crc = masked(crc32c(record));
  put(record, length_crc);
  record += event;
  put(record, masked(crc32c(event)));
  return record;
}

std::string path_in(const std::string& directory) {
  char host[256] = "host";
  ::gethostname(host, sizeof(host) - 1);
  return fmt::format("{}/events.out.tfevents.{:.6f}.{}.{}", directory, wall_time(), host, ::getpid());
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr auto kTable = make_crc_table();
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

TensorBoardWriter::TensorBoardWriter(const std::string& directory) : file_(path_in(directory)) {
  std::string event;
  put_double(event, 1, wall_time());
  put_bytes(event, 3, "brain.Event:2");
  file_.append(record_of(event));
}

void TensorBoardWriter::write(std::int64_t step, const std::vector<Scalar>& scalars) {
  std::string summary;
  for (const auto& scalar : scalars) {
    std::string value;
    put_bytes(value, 1, scalar.tag);
    put_float(value, 2, static_cast<float>(scalar.value));
    put_bytes(summary, 1, value);
  }
  std::string event;
  put_double(event, 1, wall_time());
  put_varint(event, 2 * 8);
  put_varint(event, static_cast<std::uint64_t>(step));
  put_bytes(event, 5, summary);
  file_.append(record_of(event));
}

}  // namespace offramp
