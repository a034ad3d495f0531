#include "data/documents.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tensor/check.h"

namespace offramp {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kPieceBytes = 64 << 10, kBinaryProbe = 4096;

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Where a piece of text that is not the document's last should end; 0 if it has no good place.
std::size_t good_end(std::string_view text) {
  // A run of line ends stays whole: the one that touches the end of the text may go on.
  if (const auto last = text.find_last_not_of('\n'); last != text.npos)
    if (const auto line_end = text.substr(0, last).rfind('\n'); line_end != text.npos) return line_end + 1;
  auto space = text.rfind(' ');
  while (space != text.npos && space > 0 && text[space - 1] == ' ') --space;  // a run of spaces stays whole
  if (space != text.npos && space > 0) return space;
  std::size_t end = text.size() - 1;
  while (end > 0 && text.size() - end < 4 && continues_character(text[end])) --end;
  return continues_character(text[end]) ? text.size() : end;  // not UTF-8: anywhere
}

bool is_binary(const std::string& path) {
  char head[kBinaryProbe];
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(Exit::data, "{}: cannot be read: {}", path, std::strerror(errno));
  file.read(head, sizeof head);
  return std::memchr(head, 0, static_cast<std::size_t>(file.gcount())) != nullptr;
}

// Of what a link leads to; not_found is an answer, what cannot be looked at is not.
fs::file_type type_of(const fs::path& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::none) fail(Exit::data, "{}: cannot be read: {}", path.string(), error.message());
  return type;
}

void add_file(const std::string& path, Documents& found) {
  std::error_code error;
  const auto size = static_cast<std::int64_t>(fs::file_size(path, error));
  if (error) fail(Exit::data, "{}: cannot be read: {}", path, error.message());
  if (size == 0) {
    ++found.empty;
  } else if (is_binary(path)) {
    ++found.binary;
  } else {
    found.documents.push_back({path, 0, size});
    found.bytes += size;
  }
}

// Recursion by hand: the library's iterator would not say which folder cannot be listed.
void list_files(const fs::path& directory, std::vector<std::string>& paths, Documents& found) {
  std::error_code error, ignored;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const fs::path& path = it->path();
    if (path.filename().string().starts_with('.')) {
      ++found.hidden;
    } else if (const auto type = type_of(path); type == fs::file_type::regular) {
      paths.push_back(path.string());
    } else if (type == fs::file_type::directory) {
      if (it->is_symlink(ignored))
        ++found.linked;
      else
        list_files(path, paths, found);
    }
  }
  if (error) fail(Exit::data, "{}: cannot be listed: {}", directory.string(), error.message());
}

void add_directory(const std::string& directory, Documents& found) {
  std::vector<std::string> paths;
  list_files(directory, paths, found);
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) add_file(path, found);
}

}  // namespace

Documents find_documents(const std::vector<std::string>& inputs) {
  Documents found;
  for (const auto& input : inputs) {
    const fs::file_type type = type_of(input);
    if (type == fs::file_type::directory)
      add_directory(input, found);
    else if (type == fs::file_type::regular)
      add_file(input, found);
    else
      fail(Exit::data, "{}: no such file or directory; --input takes text files and directories of them", input);
  }
  if (found.documents.empty())
    fail(Exit::data,
         "{}: no text found ({} empty, {} binary, {} hidden files and {} linked folders passed over); name files or directories that hold "
         "text",
         inputs.empty() ? "--input" : inputs.front(), found.empty, found.binary, found.hidden, found.linked);
  return found;
}

std::int64_t cut_near(const std::string& path, std::int64_t size, std::int64_t at) {
  OFFRAMP_CHECK(size > 1 && at > 0 && at < size, "a cut at {} of {} bytes", at, size);
  std::int64_t position = at;
  std::string_view piece;
  for (TextReader after({path, at, size}); after.next(piece); position += std::ssize(piece)) {
    const auto line_end = piece.find('\n');
    const std::int64_t cut = position + static_cast<std::int64_t>(line_end) + 1;
    if (line_end != piece.npos && cut < size) return cut;
  }
  // No line ends there: the last piece before `at` that ends with a line or at least a character.
  const std::int64_t from = std::max<std::int64_t>(0, at - static_cast<std::int64_t>(kPieceBytes));
  TextReader before({path, from, size});
  if (!before.next(piece)) return at;
  const std::size_t end = good_end(piece.substr(0, static_cast<std::size_t>(at - from)));
  return end > 0 ? from + static_cast<std::int64_t>(end) : at;
}

TextReader::TextReader(const Document& document)
    : path_(document.path), file_(std::fopen(path_.c_str(), "rb")), left_(document.end - document.begin) {
  if (!file_ || ::fseeko(file_.get(), document.begin, SEEK_SET) != 0)
    fail(Exit::data, "{}: cannot be read: {}", path_, std::strerror(errno));
}

bool TextReader::next(std::string_view& piece) {
  buffer_.erase(0, start_);
  start_ = 0;
  if (const std::size_t kept = buffer_.size(); left_ > 0 && kept < kPieceBytes) {
    const std::size_t want = std::min(static_cast<std::size_t>(left_), kPieceBytes - kept);
    buffer_.resize(kept + want);
    if (std::fread(buffer_.data() + kept, 1, want, file_.get()) != want)
      fail(Exit::data, "{}: became shorter while it was read; leave inputs alone until the command ends", path_);
    left_ -= static_cast<std::int64_t>(want);
  }
  if (buffer_.empty()) return false;
  const std::size_t end = left_ > 0 ? good_end(buffer_) : buffer_.size();
  start_ = end > 0 ? end : buffer_.size();
  piece = std::string_view(buffer_).substr(0, start_);
  return true;
}

}  // namespace offramp
