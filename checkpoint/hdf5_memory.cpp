#include "checkpoint/hdf5_memory.h"

#if H5_VERSION_GE(1, 14, 0)
#include <H5FDdevelop.h>
#endif

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>

namespace offramp {
namespace {

// A file of HDF5's, as this driver knows it: the library's part first.
struct Driven {
  H5FD_t library{};
  Hdf5Memory* memory = nullptr;
  haddr_t end = 0;  // of what HDF5 has given away
};
Driven* driven(H5FD_t* file) { return reinterpret_cast<Driven*>(file); }
const Driven* driven(const H5FD_t* file) { return reinterpret_cast<const Driven*>(file); }

// HDF5 is C: nothing may be thrown through it.
template <class F>
herr_t kept(F&& body) {
  try {
    body();
    return 0;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

H5FD_t* open(const char*, unsigned, hid_t properties, haddr_t) {
  const auto* memory = static_cast<Hdf5Memory* const*>(H5Pget_driver_info(properties));
  if (!memory) return nullptr;
  auto* file = new (std::nothrow) Driven;
  if (!file) return nullptr;
  file->memory = *memory;
  return &file->library;
}

H5FD_class_t driver() {
  H5FD_class_t c{};
#if H5_VERSION_GE(1, 14, 0)
  c.version = H5FD_CLASS_VERSION;
  c.value = static_cast<H5FD_class_value_t>(H5_VFD_RESERVED + 1);
#endif
  c.name = "offramp_memory";
  c.maxaddr = HADDR_MAX;
  c.fc_degree = H5F_CLOSE_STRONG;
  c.fapl_size = sizeof(Hdf5Memory*);
  c.open = open;
  c.close = [](H5FD_t* file) -> herr_t {
    driven(file)->memory->resize(driven(file)->end);
    delete driven(file);
    return 0;
  };
  c.get_eoa = [](const H5FD_t* file, H5FD_mem_t) { return driven(file)->end; };
  c.set_eoa = [](H5FD_t* file, H5FD_mem_t, haddr_t end) -> herr_t { return driven(file)->end = end, 0; };
  c.get_eof = [](const H5FD_t* file, H5FD_mem_t) { return driven(file)->end; };
  c.read = [](H5FD_t* file, H5FD_mem_t, hid_t, haddr_t at, std::size_t size, void* out) {
    return kept([&] { driven(file)->memory->read(at, out, size); });
  };
  c.write = [](H5FD_t* file, H5FD_mem_t, hid_t, haddr_t at, std::size_t size, const void* bytes) {
    return kept([&] { driven(file)->memory->write(at, bytes, size); });
  };
  return c;
}

}  // namespace

void Hdf5Memory::drive(hid_t file_access_properties) {
  static const H5FD_class_t kDriver = driver();
  static const hid_t id = H5FDregister(&kDriver);
  Hdf5Memory* self = this;
  H5Pset_driver(file_access_properties, id, &self);
}

void Hdf5Memory::write(std::uint64_t at, const void* bytes, std::size_t size) {
  std::uint64_t begin = at, end = at + size;
  auto first = pieces_.upper_bound(at);
  if (first != pieces_.begin() && std::prev(first)->first + std::prev(first)->second.size() >= at) --first;
  auto last = first;
  for (; last != pieces_.end() && last->first <= end; ++last) {
    begin = std::min(begin, last->first);
    end = std::max(end, last->first + last->second.size());
  }
  std::string joined(end - begin, '\0');
  for (auto it = first; it != last; ++it) it->second.copy(joined.data() + (it->first - begin), it->second.size());
  std::memcpy(joined.data() + (at - begin), bytes, size);
  pieces_.erase(first, last);
  pieces_[begin] = std::move(joined);
}

void Hdf5Memory::read(std::uint64_t at, void* bytes, std::size_t size) const {
  std::memset(bytes, 0, size);
  for (const auto& [begin, piece] : pieces_) {
    const std::uint64_t from = std::max(begin, at), to = std::min(begin + piece.size(), at + size);
    if (from < to) std::memcpy(static_cast<char*>(bytes) + (from - at), piece.data() + (from - begin), to - from);
  }
}

}  // namespace offramp
