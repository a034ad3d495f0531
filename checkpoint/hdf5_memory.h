// Where HDF5 writes its structure: memory, in pieces by their place in the file, so that the numbers between them take none, and no disk
// that is full can fail the library halfway. (What 1.10 could not write it keeps open, and crashes on when the program ends.)
//
//   Hdf5Memory memory;
//   memory.drive(properties);
//   file = H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, properties);  ...  H5Fclose(file);
//   memory.pieces()                                                  // offset -> bytes
#pragma once
#include <hdf5.h>

#include <cstdint>
#include <map>
#include <string>

namespace offramp {

class Hdf5Memory {
 public:
  // Makes files that are created with these properties write here. This must outlive them.
  void drive(hid_t file_access_properties);

  void write(std::uint64_t at, const void* bytes, std::size_t size);
  void read(std::uint64_t at, void* bytes, std::size_t size) const;  // zeros where nothing was written
  void resize(std::uint64_t size) { size_ = size; }

  std::uint64_t size() const { return size_; }
  // None touches another.
  const std::map<std::uint64_t, std::string>& pieces() const { return pieces_; }

 private:
  std::map<std::uint64_t, std::string> pieces_;
  std::uint64_t size_ = 0;
};

}  // namespace offramp
