#include "checkpoint/hdf5.h"

#include <array>
#include <map>
#include <mutex>
#include <utility>

#include "checkpoint/hdf5_memory.h"
#include "tensor/check.h"

namespace offramp {
namespace {

[[noreturn]] void fail_hdf5(const char* what) { fail(Exit::checkpoint, "HDF5 cannot {}", what); }

// An identifier of HDF5, closed in time.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle(hid_t id, Close how, const char* what) : id_(id), close_(how) {
    if (id < 0) fail_hdf5(what);
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }
  bool close() { return close_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_;
  Close close_;
};

// A vector stays a vector; everything else is a matrix.
struct Extent {
  int rank;
  std::array<hsize_t, 2> first, size;
  Extent(const Shape& logical, const Box& box) : rank(logical.rank == 1 ? 1 : 2) {
    const auto of = [](std::int64_t n) { return static_cast<hsize_t>(n); };
    first = rank == 1 ? std::array{of(box.column), hsize_t{0}} : std::array{of(box.row), of(box.column)};
    size = rank == 1 ? std::array{of(box.columns), hsize_t{1}} : std::array{of(box.rows), of(box.columns)};
  }
};

// One file at a time: ranks may be threads of one process.
std::mutex& library() {
  static std::mutex mutex;
  return mutex;
}

class File {
 public:
  File()
      : access_(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "start"),
        file_(create(), H5Fclose, "make a file"),
        links_(H5Pcreate(H5P_LINK_CREATE), H5Pclose, "start") {
    check(H5Pset_create_intermediate_group(links_, 1), "start");
  }
  Handle properties() const { return {H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "start"}; }
  Handle space(const Extent& extent) const {
    return {H5Screate_simple(extent.rank, extent.size.data(), nullptr), H5Sclose, "make a shape"};
  }
  Handle dataset(const std::string& name, hid_t space, hid_t properties) const {
    return {H5Dcreate2(file_, name.c_str(), H5T_IEEE_F32LE, space, links_, properties, H5P_DEFAULT), H5Dclose, "make a dataset"};
  }
  void check(herr_t status, const char* what) const {
    if (status < 0) fail_hdf5(what);
  }
  Hdf5Structure close() {
    if (!file_.close()) fail_hdf5("end a file");
    return {memory_.pieces(), memory_.size()};
  }

 private:
  hid_t create() {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // it would print; the Error says it
    memory_.drive(access_);
    return H5Fcreate("in memory", H5F_ACC_TRUNC, H5P_DEFAULT, access_);
  }

  const std::lock_guard<std::mutex> lock_{library()};
  Hdf5Memory memory_;
  Handle access_, file_, links_;
};

}  // namespace

Hdf5Structure hdf5_of(std::span<StoredBox> boxes) {
  File file;
  const Handle properties = file.properties();
  file.check(H5Pset_layout(properties, H5D_CONTIGUOUS), "start");
  file.check(H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY), "start");
  file.check(H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER), "start");
  for (StoredBox& stored : boxes) {
    const Handle space = file.space(Extent(stored.shape, stored.box));
    const Handle dataset = file.dataset(stored.dataset, space, properties);
    const haddr_t at = H5Dget_offset(dataset);
    if (at == HADDR_UNDEF) fail_hdf5("place a dataset");
    stored.offset = at;
  }
  return file.close();
}

std::string hdf5_index_of(const Manifest& manifest) {
  std::map<std::string, std::vector<const StoredBox*>> by_name;
  for (const StoredBox& stored : manifest.boxes) by_name[stored.kind + "/" + stored.tensor].push_back(&stored);
  File file;
  for (const auto& [name, boxes] : by_name) {
    const Shape& shape = boxes.front()->shape;
    const Matrix matrix = matrix_of(shape);
    const Handle space = file.space(Extent(shape, {0, matrix.rows, 0, matrix.columns}));
    const Handle properties = file.properties();
    for (const StoredBox* stored : boxes) {
      const Extent extent(shape, stored->box);
      const Handle source = file.space(extent);
      file.check(H5Sselect_hyperslab(space, H5S_SELECT_SET, extent.first.data(), nullptr, extent.size.data(), nullptr), "select a part");
      file.check(H5Pset_virtual(properties, space, manifest.files[stored->file].name.c_str(), stored->dataset.c_str(), source),
                 "map a dataset");
    }
    file.check(H5Sselect_all(space), "select all");
    file.dataset(name, space, properties);
  }
  const Hdf5Structure structure = file.close();
  std::string bytes(structure.size, '\0');
  for (const auto& [at, piece] : structure.pieces) piece.copy(bytes.data() + at, piece.size());
  return bytes;
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace offramp
