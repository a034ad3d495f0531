// Finding and reading the text that tokenizers and token files are made from.
//
// Inputs are files or directories; a directory gives its files, recursively, sorted by path. Below a directory hidden files
// and folders are passed over, and symbolic links to folders, which may lead in circles; everywhere empty files and binary
// ones (a NUL byte in the first 4 KiB). Each file left is a document.
//
//   Documents found = find_documents({"/usr/share/doc"});
//   TextReader reader(found.documents[0]);
//   for (std::string_view piece; reader.next(piece);) use(piece);
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

struct Document {
  std::string path;
  std::int64_t begin = 0, end = 0;  // bytes of the file
};

struct Documents {
  std::vector<Document> documents;
  std::int64_t hidden = 0, binary = 0, empty = 0, linked = 0;  // passed over; a folder counts once
  std::int64_t bytes = 0;
};

Documents find_documents(const std::vector<std::string>& inputs);  // fail(Exit::data) when there is none

// Where a file may be cut in two so that both parts are whole lines if possible: after the first line end at or after `at`,
// else before it, else between two characters. In (0, size).
std::int64_t cut_near(const std::string& path, std::int64_t size, std::int64_t at);

// A document in pieces of at most 64 KiB. A piece ends after the last of some line ends; within a longer line, before a space; without one,
// between two characters. Memory does not grow with the document.
class TextReader {
 public:
  explicit TextReader(const Document& document);
  bool next(std::string_view& piece);  // valid until the next call; false at the end

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
  std::int64_t left_;  // bytes not read yet
  std::string buffer_;
  std::size_t start_ = 0;  // of the bytes not handed out yet
};

}  // namespace offramp
