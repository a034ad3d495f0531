// Files that are whole or not there: written under a temporary name, on disk before they get their own.
//
//   std::FILE* file = std::fopen("x.bin.tmp", "wb");       // ... write, then
//   flush_to_disk(file, "x.bin.tmp");                      // what a crash of the host leaves of it: everything
//   std::fclose(file);
//   rename_published("x.bin.tmp", "x.bin");
//   publish_bytes("docs_tokenizer.model", bytes);          // all of that
#pragma once
#include <cstdio>
#include <string>

namespace offramp {

void flush_to_disk(std::FILE* file, const std::string& path);                  // fail(Exit::checkpoint)
void rename_published(const std::string& temporary, const std::string& path);  // fail(Exit::checkpoint)
void publish_bytes(const std::string& path, const std::string& bytes);         // makes the folder; fail(Exit::checkpoint)

}  // namespace offramp
