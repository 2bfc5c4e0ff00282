// Chooses a kernel table when the program runs.
#include "kernels/table.h"

#include <atomic>
#include <cstring>

namespace cutset {

namespace portable {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512vnni {
extern const KernelTable table;
}
#endif

namespace {

constexpr int kMost = 4;

struct Available {
  const KernelTable* tables[kMost] = {};
  const char* names[kMost + 1] = {};
  int count = 0;

  void add(const KernelTable& table) {
    tables[count] = &table;
    names[count] = table.isa;
    ++count;
  }

  Available() {
    add(portable::table);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(avx2::table);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      add(avx512::table);
      if (__builtin_cpu_supports("avx512vnni")) add(avx512vnni::table);
    }
#endif
  }
};

const Available& available() {
  static const Available found;
  return found;
}

std::atomic<const KernelTable*> chosen{nullptr};

}  // namespace

const KernelTable& kernels() {
  const KernelTable* table = chosen.load(std::memory_order_acquire);
  return table ? *table : *available().tables[available().count - 1];
}

const char* const* available_isas() { return available().names; }

bool select_isa(const char* name) {
  for (int i = 0; i < available().count; ++i) {
    if (std::strcmp(available().names[i], name) == 0) {
      chosen.store(available().tables[i], std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace cutset
