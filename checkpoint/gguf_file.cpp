#include "checkpoint/gguf_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>

#include "tensor/check.h"

namespace offramp {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read as they stand in the file");

// More than any model has, and little memory.
constexpr std::uint64_t kMaxHeader = std::uint64_t{64} << 20, kMaxKeys = 65536, kMaxTensors = 200'000, kMaxName = 1024;
constexpr std::uint64_t kMaxTexts = std::uint64_t{1} << 22;  // in a list: an empty one takes more memory than bytes of the file
constexpr std::uint64_t kMaxAlignment = 65536;

enum Type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64, types };
constexpr std::array<std::uint64_t, types> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  // 0: of no fixed size

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  fail(Exit::checkpoint, "{}: is no sound GGUF file: {}; make or download it again", path, why);
}

// The f64 that a person would write for it: 1e-05, not 9.999999747378752e-06.
double shortest(float value) {
  std::array<char, 64> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  double exact = value;
  std::from_chars(digits.data(), end, exact);
  return exact;
}

template <class T>
T number_in(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

}  // namespace

// Reads on through the header, a buffer at a time, never beyond what a header may have.
class GgufFile::Cursor {
 public:
  explicit Cursor(const InputFile& file) : file_(file), end_(std::min(file.size(), kMaxHeader)) {}

  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return end_ - at_; }
  void need(std::uint64_t bytes, std::string_view what) const {
    if (bytes <= left()) return;
    refuse(file_.path(), end_ == kMaxHeader ? fmt::format("{} at byte {} ends beyond the {} bytes allowed to a header", what, at_, end_)
                                            : fmt::format("{} at byte {} ends beyond the file's {} bytes", what, at_, end_));
  }
  void read(void* out, std::uint64_t bytes, std::string_view what) {
    need(bytes, what);
    auto* to = static_cast<std::byte*>(out);
    while (bytes > 0) {
      if (at_ < buffer_at_ || at_ >= buffer_at_ + buffer_.size()) fill();
      const std::uint64_t count = std::min<std::uint64_t>(bytes, buffer_at_ + buffer_.size() - at_);
      std::memcpy(to, buffer_.data() + (at_ - buffer_at_), count);
      to += count, at_ += count, bytes -= count;
    }
  }
  template <class T>
  T number(std::string_view what) {
    T value{};
    read(&value, sizeof(T), what);
    return value;
  }
  std::string text(std::uint64_t most, std::string_view what) {
    const auto length = number<std::uint64_t>(what);
    if (length > most) refuse(file_.path(), fmt::format("{} at byte {} has {} bytes, {} are allowed", what, at_, length, most));
    need(length, what);
    std::string value(length, '\0');
    read(value.data(), length, what);
    return value;
  }

 private:
  void fill() {
    buffer_.resize(std::min<std::uint64_t>(65536, end_ - at_));
    buffer_at_ = at_;
    file_.read(at_, buffer_.data(), buffer_.size());
  }

  const InputFile& file_;
  std::uint64_t at_ = 0, end_ = 0, buffer_at_ = 0;
  std::vector<std::byte> buffer_;
};

template <class T>
std::optional<std::vector<T>> numbers_of(const GgufValue& value) {
  const auto* numbers = std::get_if<GgufNumbers>(&value);
  if (!numbers || numbers->type != (std::is_same_v<T, float> ? f32 : i32)) return std::nullopt;
  std::vector<T> all(numbers->bytes.size() / sizeof(T));
  if (!all.empty()) std::memcpy(all.data(), numbers->bytes.data(), numbers->bytes.size());
  return all;
}
template std::optional<std::vector<float>> numbers_of(const GgufValue&);
template std::optional<std::vector<std::int32_t>> numbers_of(const GgufValue&);

GgufFile::GgufFile(const std::string& path) : file_(path) {
  Cursor cursor(file_);
  std::array<char, 4> magic{};
  cursor.read(magic.data(), magic.size(), "its mark");
  if (std::string_view(magic.data(), magic.size()) != "GGUF") refuse(path, "it does not begin with GGUF");
  const auto version = cursor.number<std::uint32_t>("its version");
  if (version != 2 && version != 3) refuse(path, fmt::format("its version is {}, only 2 and 3 are read", version));
  const auto tensors = cursor.number<std::uint64_t>("its count of tensors"), keys = cursor.number<std::uint64_t>("its count of keys");
  if (tensors > kMaxTensors || keys > kMaxKeys) {
    refuse(path, fmt::format("it would have {} tensors and {} keys, {} and {} are allowed", tensors, keys, kMaxTensors, kMaxKeys));
  }
  read_metadata(cursor, keys);
  read_tensors(cursor, tensors);
  data_at_ = (cursor.at() + alignment_ - 1) / alignment_ * alignment_;
  check_places();
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
}

void GgufFile::read_metadata(Cursor& cursor, std::uint64_t keys) {
  for (std::uint64_t i = 0; i < keys; ++i) {
    std::string key = cursor.text(kMaxName, "a key");
    const auto type = cursor.number<std::uint32_t>("a type");
    GgufValue value = read_value(cursor, type, key);
    if (!metadata_.try_emplace(key, std::move(value)).second) refuse(path(), fmt::format("the key '{}' stands twice", key));
  }
  const auto it = metadata_.find("general.alignment");
  if (it == metadata_.end()) return;
  const auto* alignment = std::get_if<std::int64_t>(&it->second);
  const bool sound = alignment && *alignment > 0 && static_cast<std::uint64_t>(*alignment) <= kMaxAlignment &&
                     std::has_single_bit(static_cast<std::uint64_t>(*alignment));
  if (!sound) refuse(path(), fmt::format("its general.alignment is no power of two up to {}", kMaxAlignment));
  alignment_ = static_cast<std::uint64_t>(*alignment);
}

GgufValue GgufFile::read_value(Cursor& cursor, std::uint32_t type, const std::string& key) const {
  if (type == text) return cursor.text(kMaxHeader, key);
  if (type == array) return read_array(cursor, key);
  if (type >= types) refuse(path(), fmt::format("the key '{}' has the unknown type {}", key, type));
  std::array<std::byte, 8> bytes{};
  cursor.read(bytes.data(), kBytes[type], key);
  switch (type) {
    case f32:
      return shortest(number_in<float>(bytes.data()));
    case f64:
      return number_in<double>(bytes.data());
    case boolean:
      return bytes[0] != std::byte{0};
    case i8:
      return std::int64_t{number_in<std::int8_t>(bytes.data())};
    case i16:
      return std::int64_t{number_in<std::int16_t>(bytes.data())};
    case i32:
      return std::int64_t{number_in<std::int32_t>(bytes.data())};
    default:
      break;
  }
  const auto value = number_in<std::int64_t>(bytes.data());
  if (type == u64 && value < 0) refuse(path(), fmt::format("'{}' is beyond 2^63", key));
  return value;  // the other bytes of an unsigned number are 0
}

GgufValue GgufFile::read_array(Cursor& cursor, const std::string& key) const {
  const auto type = cursor.number<std::uint32_t>(key);
  const auto count = cursor.number<std::uint64_t>(key);
  if (type >= types || type == array) refuse(path(), fmt::format("the array '{}' holds the type {}", key, type));
  const std::uint64_t least = type == text ? 8 : kBytes[type];
  if (count > cursor.left() / least || (type == text && count > kMaxTexts)) {
    refuse(path(), fmt::format("the array '{}' would hold {} values, more than the header has room for", key, count));
  }
  if (type == text) {
    std::vector<std::string> all;
    for (std::uint64_t i = 0; i < count; ++i) all.push_back(cursor.text(kMaxHeader, key));
    return all;
  }
  GgufNumbers numbers{type, std::vector<std::byte>(count * least)};
  cursor.read(numbers.bytes.data(), numbers.bytes.size(), key);
  return numbers;
}

void GgufFile::read_tensors(Cursor& cursor, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    Stored tensor{.name = cursor.text(kMaxName, "a tensor's name")};
    const auto dimensions = cursor.number<std::uint32_t>(tensor.name);
    if (dimensions < 1 || dimensions > tensor.shape.size.size()) {
      refuse(path(), fmt::format("'{}' has {} dimensions", tensor.name, dimensions));
    }
    tensor.shape.rank = static_cast<int>(dimensions);
    std::uint64_t elements = 1;
    for (std::uint32_t d = dimensions; d-- > 0;) {
      const auto size = cursor.number<std::uint64_t>(tensor.name);
      const bool overflows = __builtin_mul_overflow(elements, size, &elements) || elements > std::uint64_t{1} << 60;
      if (size == 0 || overflows) refuse(path(), fmt::format("the sizes of '{}' are 0 or overflow", tensor.name));
      tensor.shape.size[d] = static_cast<std::int64_t>(size);
    }
    const auto type = cursor.number<std::uint32_t>(tensor.name);
    tensor.type = gguf_type(type);
    if (!tensor.type) {
      fail(Exit::checkpoint, "{}: '{}' has the type {}; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are read: convert it to one of these", path(),
           tensor.name, gguf_type_name(type));
    }
    const std::int64_t row = tensor.shape[tensor.shape.rank - 1];
    if (row % tensor.type->block != 0) {
      refuse(path(),
             fmt::format("rows of '{}' have {} elements, no multiple of {}'s {}", tensor.name, row, tensor.type->name, tensor.type->block));
    }
    tensor.bytes = elements / static_cast<std::uint64_t>(tensor.type->block) * tensor.type->bytes;  // below 2^63
    tensor.offset = cursor.number<std::uint64_t>(tensor.name);
    tensors_.push_back(std::move(tensor));
  }
}

void GgufFile::check_places() const {
  const std::uint64_t room = file_.size() > data_at_ ? file_.size() - data_at_ : 0;
  std::vector<const Stored*> order;
  for (const Stored& tensor : tensors_) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const Stored* a, const Stored* b) { return a->offset < b->offset; });
  std::uint64_t end = 0;
  for (const Stored* tensor : order) {
    if (tensor->offset % alignment_ != 0) refuse(path(), fmt::format("'{}' does not start at a multiple of {}", tensor->name, alignment_));
    if (tensor->offset < end) refuse(path(), fmt::format("'{}' overlaps the tensor before it", tensor->name));
    if (tensor->offset > room || tensor->bytes > room - tensor->offset) {
      refuse(path(),
             fmt::format("'{}' would end at byte {} + {} of the data, which has {}", tensor->name, tensor->offset, tensor->bytes, room));
    }
    end = tensor->offset + tensor->bytes;
  }
  std::vector<std::string_view> names;
  for (const Stored& tensor : tensors_) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) refuse(path(), fmt::format("two tensors are called '{}'", *twice));
}

const GgufFile::Stored* GgufFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

void GgufFile::read(const Stored& tensor, std::int64_t first, std::span<float> values) const {
  const auto wanted = static_cast<std::int64_t>(values.size()), block = tensor.type->block;
  OFFRAMP_CHECK(first >= 0 && first + wanted <= tensor.shape.elements(), "[gguf] {} {} has no elements {} + {}", tensor.name,
                to_text(tensor.shape), first, wanted);
  constexpr std::int64_t kPart = 8192;  // elements, a multiple of every block
  std::array<std::byte, kPart * 4> stored;
  std::array<float, kPart> plain;
  for (std::int64_t at = first; at < first + wanted;) {
    const std::int64_t from = at / block * block, to = std::min(from + kPart, (first + wanted + block - 1) / block * block);
    const std::int64_t blocks = (to - from) / block;
    file_.read(data_at_ + tensor.offset + static_cast<std::uint64_t>(from / block) * tensor.type->bytes, stored.data(),
               static_cast<std::size_t>(blocks) * tensor.type->bytes);
    dequantise(*tensor.type, stored.data(), blocks, plain.data());
    const std::int64_t end = std::min(to, first + wanted);
    std::copy(plain.begin() + (at - from), plain.begin() + (end - from), values.begin() + (at - first));
    at = end;
  }
}

}  // namespace offramp
